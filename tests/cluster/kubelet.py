"""Leads every pod there is, and serves their logs and exec sessions."""

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.api import Api
from tests.cluster.backend import Backend
from tests.cluster.kinds import CLAIM, POD, STORAGE_CLASS
from tests.cluster.logs import ContainerLog
from tests.cluster.pod_life import PodLife
from tests.cluster.selectors import field_at
from tests.cluster.status import ApiError, Object
from tests.cluster.store import Change
from tests.cluster.volumes import Volumes


class Kubelet:
    """Scheduler, volumes and kubelet of all nodes in one."""

    def __init__(self, api: Api, backend: Backend, root: Path, *, time_scale: float) -> None:
        self.api, self.backend, self.time_scale = api, backend, time_scale
        self.volumes = Volumes(api, root)
        self._lives: dict[str, PodLife] = {}
        self._stopping: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Follow the store until cancelled."""
        with self.api.store.listen() as changes:
            while True:
                change = await changes.get()
                if change.kind in (CLAIM, STORAGE_CLASS):
                    self.volumes.provision()
                elif change.kind == POD:
                    self._follow(change)

    def _follow(self, change: Change) -> None:
        pod, uid = change.item, change.item["metadata"]["uid"]
        if change.type == "ADDED":
            self._lives[uid] = PodLife(self, pod)
        elif uid not in self._lives or uid in self._stopping:
            return
        elif change.type == "DELETED":  # without grace, or before it was scheduled
            self._stopping[uid] = asyncio.create_task(self._stop(pod, grace_seconds=0))
        elif pod["metadata"].get("deletionTimestamp"):
            grace = pod["metadata"].get("deletionGracePeriodSeconds", 30)
            self._stopping[uid] = asyncio.create_task(self._stop(pod, grace_seconds=grace))

    async def _stop(self, pod: Object, *, grace_seconds: float) -> None:
        metadata = pod["metadata"]
        await self._lives[metadata["uid"]].stop(grace_seconds)
        stored = self.api.store.find(POD, metadata["namespace"], metadata["name"])
        if stored is not None and stored["metadata"]["uid"] == metadata["uid"]:
            self.api.finish_deletion(POD, metadata["namespace"], metadata["name"])
        self.volumes.forget_pod(metadata["uid"])
        self._lives.pop(metadata["uid"], None)

    def life_of(self, namespace: str, name: str) -> PodLife:
        """The life of the pod of that name.

        Raises:
            ApiError: 404.
        """
        pod = self.api.store.get(POD, namespace, name)
        life = self._lives.get(pod["metadata"]["uid"])
        if life is None:
            raise ApiError(404, f'pods "{name}" not found')
        return life

    async def kill(self, namespace: str, name: str, *, out_of_memory: bool = False) -> None:
        """SIGKILL every container of a pod, as a crash does, or the kernel when memory is short."""
        life = self.life_of(namespace, name)
        for container_name, container in list(life.running.items()):
            if out_of_memory:
                life.killed_for_memory.add(container_name)
            await container.signal(signal.SIGKILL)

    async def evict(self, namespace: str, name: str, message: str) -> None:
        """End a pod as a whole, as a node does that is short of something."""
        life = self.life_of(namespace, name)
        pod = self.api.store.get(POD, namespace, name)
        status = {**pod["status"], "phase": "Failed", "reason": "Evicted", "message": message}
        self.api.store.replace(POD, {**pod, "status": status})
        self.api.record_event(POD, pod, "Warning", "Evicted", message, "kubelet")
        await life.stop(grace_seconds=0)

    def log_of(self, pod: Object, container: str, *, previous: bool) -> ContainerLog:
        logs = self.life_of(pod["metadata"]["namespace"], pod["metadata"]["name"]).logs.get(container, [])
        position = -2 if previous else -1
        if len(logs) < -position:
            name = pod["metadata"]["name"]
            if previous:
                raise ApiError(400, f'previous terminated container "{container}" in pod "{name}" not found')
            raise ApiError(400, f'container "{container}" in pod "{name}" is waiting to start: {_why_waiting(pod)}')
        return logs[position]

    async def execute(
        self, pod: Object, container: str, command: Sequence[str], *, stdin: bool
    ) -> asyncio.subprocess.Process:
        running = self.life_of(pod["metadata"]["namespace"], pod["metadata"]["name"]).running.get(container)
        if running is None:
            raise ApiError(500, f'unable to upgrade connection: container not found ("{container}")')
        try:
            return await running.execute(command, stdin=stdin)
        except FileNotFoundError as error:
            raise ApiError(500, f"unable to start container process: {error}") from error

    async def close(self) -> None:
        await asyncio.gather(*(life.stop(grace_seconds=0) for life in list(self._lives.values())))
        await self.backend.close()


def _why_waiting(pod: Object) -> str:
    statuses = field_at(pod, "status.containerStatuses") or [{}]
    return str(field_at(statuses[0], "state.waiting.reason") or "ContainerCreating")
