"""One pod from its creation to its end, as scheduler and kubelet lead it."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from tests.cluster.backend import Launch, RunningContainer
from tests.cluster.kinds import NODE, POD, SERVICE
from tests.cluster.logs import ContainerLog
from tests.cluster.pod_status import (
    backoff_seconds,
    conditions,
    container_status,
    phase_of,
    restarts,
    running,
    terminated,
    waiting,
)
from tests.cluster.scheduler import choose_node
from tests.cluster.selectors import field_at, matches_labels
from tests.cluster.status import ApiError, Object
from tests.cluster.store import now
from tests.cluster.volumes import environment_of

if TYPE_CHECKING:
    from tests.cluster.kubelet import Kubelet

POLL_SECONDS = 0.05
KILL_SECONDS = 10.0  # how long a killed container may take to be gone
DNS_INIT_CONTAINER = "init-pytorch"


class PodLife:
    """Leads one pod. Its task ends when the pod has ended; `stop` ends it sooner."""

    def __init__(self, kubelet: "Kubelet", pod: Object) -> None:
        self.kubelet, self.pod = kubelet, pod
        self.policy = pod["spec"].get("restartPolicy", "Always")
        self.logs: dict[str, list[ContainerLog]] = {}
        self.running: dict[str, RunningContainer] = {}
        self.killed_for_memory: set[str] = set()
        self.statuses = {c["name"]: container_status(c, "ContainerCreating") for c in pod["spec"]["containers"]}
        self._is_ending = False
        self._num_starting = 0
        self._task = asyncio.create_task(self._live())

    @property
    def name(self) -> str:
        return str(self.pod["metadata"]["name"])

    async def stop(self, grace_seconds: float) -> None:
        """SIGTERM, and SIGKILL after the grace period; the task is over then."""
        self._is_ending = True
        while self._num_starting:  # a container that is on its way must be known to be stopped
            await asyncio.sleep(POLL_SECONDS)
        if self.running:
            await self._signal_all(signal.SIGTERM if grace_seconds else signal.SIGKILL)
            await asyncio.wait([self._task], timeout=grace_seconds)
            await self._signal_all(signal.SIGKILL)
            await asyncio.wait([self._task], timeout=KILL_SECONDS)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _signal_all(self, number: int) -> None:
        for container in list(self.running.values()):
            await container.signal(number)

    async def _live(self) -> None:
        try:
            await self._until(self._schedule)
            await self._until(self._has_master_name)
            await asyncio.gather(*(self._keep_running(container) for container in self.pod["spec"]["containers"]))
        except ApiError:  # the pod is gone
            return

    async def _until(self, attempt: Callable[[], Awaitable[bool]]) -> None:
        while not await attempt():
            await asyncio.sleep(POLL_SECONDS)

    async def _schedule(self) -> bool:
        api = self.kubelet.api
        why_not = self.kubelet.volumes.bind_for(self.pod)
        node = ""
        if not why_not:
            node, why_not = choose_node(self.pod, api.store.select(NODE), api.store.select(POD))
        pod = api.store.get(POD, self.pod["metadata"]["namespace"], self.name)
        if not node:
            if field_at(pod, "status.conditions") is None:
                self._event("Warning", "FailedScheduling", why_not)
                self._write(conditions=conditions(is_scheduled=False, is_ready=False, why_not=why_not))
            return False
        self.pod = api.store.replace(POD, {**pod, "spec": {**pod["spec"], "nodeName": node}})
        namespace = self.pod["metadata"]["namespace"]
        self._event("Normal", "Scheduled", f"Successfully assigned {namespace}/{self.name} to {node}")
        if self._waits_for_master():
            for status in self.statuses.values():
                status["state"] = waiting("PodInitializing")
        self._write(
            startTime=now(),
            conditions=conditions(is_scheduled=True, is_ready=False),
            containerStatuses=list(self.statuses.values()),
        )
        return True

    def _waits_for_master(self) -> bool:
        return any(c["name"] == DNS_INIT_CONTAINER for c in self.pod["spec"].get("initContainers", ()))

    async def _has_master_name(self) -> bool:
        """Whether the init container would find the master's name: its Service has a ready pod behind it."""
        if not self._waits_for_master():
            return True
        store, namespace = self.kubelet.api.store, self.pod["metadata"]["namespace"]
        variables = {v["name"]: v.get("value") for v in self.pod["spec"]["containers"][0]["env"]}
        service = store.find(SERVICE, namespace, str(variables["MASTER_ADDR"]))
        if service is None:
            return False
        selector = ",".join(f"{name}={value}" for name, value in service["spec"]["selector"].items())
        pods = (pod for pod in store.select(POD, namespace) if matches_labels(selector, pod["metadata"]["labels"]))
        return any(field_at(pod, "status.phase") == "Running" for pod in pods)

    async def _keep_running(self, container: Object) -> None:
        """Run a container, again and again as the restart policy says."""
        name, status = container["name"], self.statuses[container["name"]]
        while True:
            await self._pull(container)
            launch = await self._launch(container)
            exit_code = await self._run_once(launch)
            if self._is_ending or not restarts(exit_code, self.policy):
                return
            pause_seconds = backoff_seconds(status["restartCount"])
            if pause_seconds:
                uid, namespace = self.pod["metadata"]["uid"], self.pod["metadata"]["namespace"]
                where = f"container={name} pod={self.name}_{namespace}({uid})"
                status["lastState"] = status["state"]
                message = f"back-off {pause_seconds}s restarting failed {where}"
                status["state"] = waiting("CrashLoopBackOff", message)
                self._event("Warning", "BackOff", f"Back-off restarting failed {where}")
                self._write_containers()
            await asyncio.sleep(pause_seconds * self.kubelet.time_scale)
            if "terminated" in status["state"]:
                status["lastState"] = status["state"]
            status["restartCount"] += 1

    async def _pull(self, container: Object) -> None:
        image, status = container["image"], self.statuses[container["name"]]
        problem = f'failed to pull and unpack image "{image}": failed to resolve reference "{image}": not found'
        reasons = ["ErrImagePull", "ImagePullBackOff"]
        while not await self.kubelet.backend.has_image(image):
            if reasons:
                reason = reasons.pop(0)
                status["state"] = waiting(
                    reason, problem if reason == "ErrImagePull" else f'Back-off pulling image "{image}"'
                )
                self._event("Warning", "Failed", f'Failed to pull image "{image}": {problem}')
                self._write_containers()
            await asyncio.sleep(POLL_SECONDS)

    async def _launch(self, container: Object) -> Launch:
        """Environment and mounts; waits while a Secret or ConfigMap they name is missing."""
        status = self.statuses[container["name"]]
        while True:
            try:
                ip = await self.kubelet.backend.ip_of(self.pod)
                environment = environment_of(self.kubelet.api, self.pod, container, ip)
                mounts = tuple(self.kubelet.volumes.mounts_of(self.pod, container))
                return Launch(self.pod, container, environment, mounts)
            except ApiError as error:
                if status["state"].get("waiting", {}).get("reason") != "CreateContainerConfigError":
                    status["state"] = waiting("CreateContainerConfigError", error.message)
                    self._event("Warning", "Failed", f"Error: {error.message}")
                    self._write_containers()
                await asyncio.sleep(POLL_SECONDS)

    async def _run_once(self, launch: Launch) -> int:
        name = launch.container["name"]
        status, log = self.statuses[name], ContainerLog()
        self.logs.setdefault(name, []).append(log)
        self._num_starting += 1
        try:
            container = self.running[name] = await self.kubelet.backend.start(launch)
        finally:
            self._num_starting -= 1
        status |= {"state": running(), "ready": True, "started": True}
        self._event("Normal", "Started", f"Started container {name}")
        self._write_containers()
        reading = asyncio.create_task(log.pump(container.output))
        exit_code = await container.wait()
        await reading
        log.is_over = True
        del self.running[name]
        started_at = status["state"]["running"]["startedAt"]
        out_of_memory = name in self.killed_for_memory or await container.was_out_of_memory()
        self.killed_for_memory.discard(name)
        message = self._termination_message(launch.container, container, log, exit_code)
        status |= {"ready": False, "started": False}
        status["state"] = terminated(exit_code, started_at, message=message, out_of_memory=out_of_memory)
        self._write_containers()
        return exit_code

    @staticmethod
    def _termination_message(spec: Object, container: RunningContainer, log: ContainerLog, exit_code: int) -> str:
        message = container.termination_message()
        if not message and exit_code and spec.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            return log.tail()
        return message

    def _write_containers(self) -> None:
        states = [status["state"] for status in self.statuses.values()]
        has_started = any(self.logs.values())
        is_ready = all(status["ready"] for status in self.statuses.values())
        self._write(
            phase=phase_of(states, self.policy) if has_started else "Pending",
            conditions=conditions(is_scheduled=True, is_ready=is_ready),
            containerStatuses=list(self.statuses.values()),
        )

    def _write(self, **fields: object) -> None:
        """Change fields of the status, unless the pod has ended (as by eviction)."""
        store = self.kubelet.api.store
        pod = store.get(POD, self.pod["metadata"]["namespace"], self.name)
        if pod["metadata"]["uid"] == self.pod["metadata"]["uid"] and pod["status"]["phase"] not in (
            "Succeeded",
            "Failed",
        ):
            store.replace(POD, {**pod, "status": {**pod["status"], **fields}})

    def _event(self, type_: str, reason: str, message: str) -> None:
        self.kubelet.api.record_event(POD, self.pod, type_, reason, message, "kubelet")
