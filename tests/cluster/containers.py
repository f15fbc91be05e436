"""The real back end: containers of the real image, run by podman as OpenShift's restricted-v2 would run them.

A random user of group 0, no capabilities, no new privileges, a network of their own without a way out, pod names in its
DNS, volumes as folders. NetworkPolicies, CPU limits and fsGroup are not enforced.
"""

import asyncio
import contextlib
import json
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.backend import Launch
from tests.cluster.logs import READ_BYTES
from tests.cluster.quantities import amount
from tests.cluster.selectors import field_at
from tests.cluster.status import Object

PODMAN = ("podman", "--runtime", "runc")  # crun refuses hybrid cgroups
ULIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096")
USER = "1000660000:0"
FIRST_ADDRESS = 10
PODMAN_SECONDS = 120


def why_unavailable() -> str:
    """Why containers cannot be run here; empty where they can."""
    missing = [program for program in ("podman", "runc") if shutil.which(program) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    answer = subprocess.run([*PODMAN, "info"], capture_output=True, text=True, timeout=PODMAN_SECONDS)
    return "" if answer.returncode == 0 else f"podman does not work here: {answer.stderr.strip()[-200:]}"


async def podman(*arguments: str) -> str:
    """The output of a podman command.

    Raises:
        RuntimeError: it failed.
    """
    process = await asyncio.create_subprocess_exec(
        *PODMAN, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, error = await asyncio.wait_for(process.communicate(), PODMAN_SECONDS)
    if process.returncode:
        raise RuntimeError(f"podman {' '.join(arguments[:3])} failed: {error.decode().strip()}")
    return out.decode().strip()


@dataclass
class PodmanContainer:
    name: str
    process: asyncio.subprocess.Process
    termination_log: Path

    @property
    def output(self) -> asyncio.StreamReader:
        assert self.process.stdout is not None
        return self.process.stdout

    async def wait(self) -> int:
        return await self.process.wait()

    async def signal(self, number: int) -> None:
        with contextlib.suppress(RuntimeError):  # it has ended
            await podman("kill", "--signal", str(int(number)), self.name)

    async def was_out_of_memory(self) -> bool:
        try:
            return await podman("inspect", "--format", "{{.State.OOMKilled}}", self.name) == "true"
        except RuntimeError:  # it never came to be
            return False

    def termination_message(self) -> str:
        return self.termination_log.read_text(errors="replace")[:4096]

    async def execute(self, command: Sequence[str], *, stdin: bool) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *PODMAN,
            "exec",
            *(["--interactive"] if stdin else []),
            self.name,
            *command,
            stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )


@dataclass
class ContainerBackend:
    """Runs containers with podman, all in one network that leads nowhere."""

    network: str = field(default_factory=lambda: f"fieldcraft-test-{secrets.token_hex(4)}")
    missing_images: set[str] = field(default_factory=set)
    _prefix: str = ""
    _addresses: dict[str, str] = field(default_factory=dict)
    _present: set[str] = field(default_factory=set)
    _scratch: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="fieldcraft-cluster-")))
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _num_started: int = 0
    _is_kept_up: bool = False

    async def has_image(self, image: str) -> bool:
        """Whether podman has it, or a registry on this very machine gives it."""
        if image in self.missing_images:
            return False
        if image in self._present:
            return True
        with contextlib.suppress(RuntimeError):
            await podman("image", "exists", image)
            self._present.add(image)
        if image not in self._present and image.startswith("localhost:"):
            with contextlib.suppress(RuntimeError):
                await podman("pull", "--quiet", "--tls-verify=false", image)
                self._present.add(image)
        return image in self._present

    async def ip_of(self, pod: Object) -> str:
        """A pod keeps its address when its containers are restarted."""
        async with self._lock:
            if not self._prefix:
                await podman("network", "create", "--internal", self.network)
                described = json.loads(await podman("network", "inspect", self.network))
                self._prefix = described[0]["subnets"][0]["subnet"].rsplit(".", 1)[0]
        uid = pod["metadata"]["uid"]
        return self._addresses.setdefault(uid, f"{self._prefix}.{FIRST_ADDRESS + len(self._addresses)}")

    async def _keep_network_up(self, image: str) -> None:
        """One container that stays: podman's DNS server ends with a network's last one, and may miss the next one."""
        async with self._lock:
            if not self._is_kept_up:
                options = [f"--name={self.network}-pause", f"--label=fieldcraft-test={self.network}", "--pull=never"]
                place = [f"--network={self.network}", *ULIMITS, "--entrypoint="]
                await podman("run", "--detach", *options, *place, image, "sleep", "infinity")
                self._is_kept_up = True

    async def start(self, launch: Launch) -> PodmanContainer:
        address = await self.ip_of(launch.pod)
        await self._keep_network_up(launch.container["image"])
        self._num_started += 1
        name = f"{self.network}-{launch.pod['metadata']['name']}-{self._num_started}"
        termination_log = self._scratch / name
        termination_log.touch()
        termination_log.chmod(0o666)
        process = await asyncio.create_subprocess_exec(
            *PODMAN,
            "run",
            f"--name={name}",
            f"--label=fieldcraft-test={self.network}",
            *self._place(launch, address),
            *_confinement(launch.container),
            *_storage(launch, termination_log),
            *(f"--env={key}={value}" for key, value in launch.environment.items()),
            *(["--entrypoint="] if launch.container.get("command") else []),
            launch.container["image"],
            *launch.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=READ_BYTES,
        )
        return PodmanContainer(name, process, termination_log)

    def _place(self, launch: Launch, address: str) -> list[str]:
        name = launch.pod["metadata"]["name"]
        return [
            f"--network={self.network}",
            f"--network-alias={name}",
            f"--ip={address}",
            f"--hostname={name}",
            "--pull=never",
        ]

    async def close(self) -> None:
        names = await podman("ps", "--all", "--quiet", f"--filter=label=fieldcraft-test={self.network}")
        if names:
            await podman("rm", "--force", "--time=0", *names.split())
        if self._prefix:
            await podman("network", "rm", "--force", self.network)
        shutil.rmtree(self._scratch, ignore_errors=True)


def _confinement(container: Object) -> list[str]:
    read_only = field_at(container, "securityContext.readOnlyRootFilesystem")
    memory = field_at(container, "resources.limits.memory")
    return [
        f"--user={USER}",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        *ULIMITS,
        *(["--read-only", "--read-only-tmpfs=false"] if read_only else []),
        *([f"--memory={int(amount(memory))}"] if memory else []),
    ]


def _storage(launch: Launch, termination_log: Path) -> list[str]:
    path = launch.container.get("terminationMessagePath", "/dev/termination-log")
    options = [f"--volume={termination_log}:{path}"]
    for mount in launch.mounts:
        if mount.memory_bytes is None:
            options.append(f"--volume={mount.folder}:{mount.path}{':ro' if mount.read_only else ''}")
        elif mount.path == "/dev/shm":  # noqa: S108
            options.append(f"--shm-size={mount.memory_bytes}b")
        else:
            options.append(f"--tmpfs={mount.path}:size={mount.memory_bytes},mode=1777")
    return options
