"""A cluster in this process: API server, training operator and kubelet in a thread of their own.

with LocalCluster(folder, ProcessBackend()) as cluster:
    subprocess.run(["kubectl", "apply", "-f", "job.yaml"], env=cluster.environment)
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import yaml

from tests.cluster import definitions
from tests.cluster.admission import Failure
from tests.cluster.api import Api
from tests.cluster.api_server import ApiServer
from tests.cluster.backend import Backend
from tests.cluster.job_parts import LABEL_PREFIX, has_condition, is_over
from tests.cluster.kinds import CRD, EVENT, JOB, LOCAL_QUEUE, NAMESPACE, NODE, POD, STORAGE_CLASS, Kind
from tests.cluster.kubelet import Kubelet
from tests.cluster.kueue import Kueue
from tests.cluster.processes import ProcessBackend
from tests.cluster.selectors import field_at
from tests.cluster.status import ApiError, Object
from tests.cluster.streams import CHUNK_BYTES
from tests.cluster.training_operator import TrainingOperator

Result = TypeVar("Result")
CALL_SECONDS = 60.0
POLL_SECONDS = 0.05
CONTEXT = "local"


class LocalCluster:
    """The whole cluster, and what tests do to it.

    `time_scale` shortens what the cluster waits for: with 0.02, the kubelet's back-off of 10 s takes 0.2 s.
    """

    def __init__(self, root: Path, backend: Backend | None = None, *, time_scale: float = 0.02) -> None:
        self.root = root
        self.api = Api()
        self.backend: Backend = backend or ProcessBackend()
        self.kubelet = Kubelet(self.api, self.backend, root / "volumes", time_scale=time_scale)
        self.operator = TrainingOperator(self.api, time_scale=time_scale)
        self.kueue = Kueue(self.api)
        self.server = ApiServer(self.api, self.kubelet)
        self.api.admissions = [self.operator.validate, self.kueue.admit]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="local-cluster", daemon=True)
        self._controllers: list[asyncio.Task[None]] = []

    def __enter__(self) -> "LocalCluster":
        self._thread.start()
        self.call(self._start())
        self._write_kubeconfig()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def call(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run something in the cluster's own thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(CALL_SECONDS)

    def do(self, function: Callable[[], Result]) -> Result:
        """Call a plain function in the cluster's own thread, where its objects may be touched."""

        async def call() -> Result:
            return function()

        return self.call(call())

    async def _start(self) -> None:
        controllers = (self.operator.run(), self.kubelet.run(), self.kueue.run())
        self._controllers = [asyncio.create_task(controller) for controller in controllers]
        await asyncio.sleep(0)  # they listen before anything is there to be heard of
        for kind, item in definitions.initial_objects():
            self.api.create(kind, item)
        await self.server.start()

    async def _stop(self) -> None:
        await self.server.stop()
        for controller in self._controllers:
            controller.cancel()
        ended = await asyncio.gather(*self._controllers, return_exceptions=True)
        await self.kubelet.close()
        if errors := [error for error in ended if isinstance(error, Exception)]:
            raise ExceptionGroup("a controller of the local cluster broke down", errors)

    # How programs get at it.

    @property
    def environment(self) -> dict[str, str]:
        """For kubectl and the Python client: a HOME of their own, since discovery is cached by host and port."""
        kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        return {**kept, "HOME": str(self.root / "home"), "KUBECONFIG": str(self.kubeconfig)}

    @property
    def kubeconfig(self) -> Path:
        return self.root / "home" / ".kube" / "config"

    def _write_kubeconfig(self) -> None:
        named = {"cluster": "local", "user": "tester", "namespace": "default"}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "local", "cluster": {"server": self.server.url}}],
            "users": [{"name": "tester", "user": {"token": "test"}}],
            "contexts": [{"name": CONTEXT, "context": named}],
            "current-context": CONTEXT,
        }
        self.kubeconfig.parent.mkdir(parents=True, exist_ok=True)
        self.kubeconfig.write_text(yaml.safe_dump(content))

    # What is there.

    def create(self, kind: Kind, item: Object) -> Object:
        return self.do(lambda: self.api.create(kind, item))

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        return self.do(lambda: self.api.store.get(kind, namespace, name))

    def select(self, kind: Kind, namespace: str = "", labels: str = "") -> list[Object]:
        return self.do(lambda: self.api.store.select(kind, namespace, labels))

    def pods_of(self, namespace: str, job: str) -> list[Object]:
        return self.select(POD, namespace, f"{LABEL_PREFIX}/job-name={job}")

    def events(self, namespace: str, reason: str) -> list[str]:
        """The messages of all events with that reason."""
        return [event["message"] for event in self.select(EVENT, namespace) if event["reason"] == reason]

    def folder_of(self, namespace: str, claim: str) -> Path:
        """Where the content of a volume lies."""
        return self.kubelet.volumes.folder_of_claim(namespace, claim)

    def log_of(self, namespace: str, pod: str, *, run: int = -1) -> str:
        """What the first container of a pod wrote, in its last run or an earlier one."""
        logs = self.do(lambda: next(iter(self.kubelet.life_of(namespace, pod).logs.values()), []))
        return logs[run].text() if logs else ""

    def wait_until(self, condition: Callable[[], Result], seconds: float, what: str = "") -> Result:
        """Wait for something to become true, and return it.

        Raises:
            TimeoutError: it did not; says how jobs and pods are.
        """
        deadline = time.monotonic() + seconds
        while not (result := condition()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds:.0f} s {what}\n{self.overview()}")
            time.sleep(POLL_SECONDS)
        return result

    def wait_for_end(self, namespace: str, job: str, seconds: float = 120) -> str:
        """Wait for a job to end; `Succeeded` or `Failed`."""
        self.wait_until(lambda: is_over(self.status_of(namespace, job)), seconds, f"for the end of {job}")
        return "Succeeded" if has_condition(self.status_of(namespace, job), "Succeeded") else "Failed"

    def status_of(self, namespace: str, job: str) -> Object:
        return dict(self.get(JOB, namespace, job).get("status", {}))

    def overview(self) -> str:
        """How everything is, for a test that failed."""
        lines = [
            f"{kind.name} {item['metadata']['name']}: {item.get('status')}"
            for kind in (JOB, POD)
            for item in self.select(kind)
        ]
        for pod in self.select(POD):
            namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
            lines.append(f"--- log of {name}\n{self.log_of(namespace, name)[-2000:]}")
        lines += [f"event {event['reason']}: {event['message']}" for event in self.select(EVENT)]
        return "\n".join(lines)

    # What can go wrong.

    def forbid(self, verb: str, plural: str) -> None:
        """Take a permission away; `*` stands for any verb or resource."""
        self.api.gate.forbidden.add((verb, plural))

    def fail(self, verb: str, plural: str, code: int, message: str = "injected failure", times: int = 1) -> None:
        """Answer the next requests of that kind with an error."""
        self.api.gate.failures.append(Failure(verb, plural, code, message, times))

    def let_meet(self, verb: str, plural: str, num_requests: int) -> None:
        """Hold requests of that kind back until so many have come; then they go on at once."""
        self.api.gate.meetings[verb, plural] = asyncio.Barrier(num_requests)

    def slow_down_exec(self, bytes_per_second: float) -> None:
        self.server.exec_pause_seconds = CHUNK_BYTES / bytes_per_second

    def remove_definition(self, kind: Kind = JOB) -> None:
        """Uninstall a CustomResourceDefinition."""
        self.do(lambda: self.api.delete(CRD, "", kind.resource))

    def go_down(self) -> None:
        """The API server leaves the network; pods and operator go on."""
        self.call(self.server.stop())

    def come_up(self) -> None:
        """It is back at the same address."""
        self.call(self.server.start())

    def forget_history(self) -> None:
        """Watches that ask for an older revision are told 410 from now on."""
        self.do(self.api.store.forget_history)

    def kill(self, namespace: str, pod: str, *, out_of_memory: bool = False) -> None:
        """SIGKILL the containers of a pod."""
        self.call(self.kubelet.kill(namespace, pod, out_of_memory=out_of_memory))

    def evict(self, namespace: str, pod: str, message: str = "The node was low on resource: memory.") -> None:
        self.call(self.kubelet.evict(namespace, pod, message))

    def patch_job(self, namespace: str, name: str, patch: Object) -> Object:
        """A merge patch, as `kubectl patch --type merge` sends it."""
        media_type = "application/merge-patch+json"
        return self.do(lambda: self.api.patch(JOB, namespace, name, media_type, patch)[0])

    def add_queue(self, namespace: str, name: str) -> None:
        """Install Kueue's LocalQueue definition where it is missing, and a queue."""

        def add() -> None:
            if self.api.store.find(CRD, "", LOCAL_QUEUE.resource) is None:
                self.api.create(CRD, definitions.queue_definition())
            self.api.create(LOCAL_QUEUE, definitions.local_queue(namespace, name))

        self.do(add)

    def remove_all(self, kind: Kind) -> None:
        """Delete every object of a kind that belongs to no namespace, such as all nodes."""
        assert kind in (NODE, STORAGE_CLASS, NAMESPACE)
        self.do(lambda: [self.api.delete(kind, "", item["metadata"]["name"]) for item in self.api.store.select(kind)])

    def phase_of(self, namespace: str, pod: str) -> str:
        try:
            return str(field_at(self.get(POD, namespace, pod), "status.phase"))
        except ApiError:
            return ""
