"""The fast back end: a container is a group of processes, run from this checkout.

Nothing is isolated. Mounted paths are replaced by folders wherever they stand in commands and variables, and the name
of the master by this machine's address with a free port for each job.
"""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.cluster.backend import Launch, Mount
from tests.cluster.logs import READ_BYTES
from tests.cluster.status import Object
from tests.forked_commands import start_forked
from tests.free_ports import free_port

ROOT = Path(__file__).parents[2]
DEFAULT_COMMAND = ("python", "-m", "train")  # what the image runs
HOST = "127.0.0.1"
POLL_SECONDS = 0.05


def localized(text: str, mounts: Sequence[Mount]) -> str:
    """A text with mounted paths replaced by the folders behind them.

    >>> localized("cd /out/run && cat /output", [Mount("/out", Path("/v/1"))])
    'cd /v/1/run && cat /output'
    """
    folders = {mount.path.rstrip("/"): str(mount.folder) for mount in mounts}
    if not folders:
        return text
    paths = "|".join(re.escape(path) for path in sorted(folders, key=len, reverse=True))
    return re.sub(rf"(?<![\w./-])(?:{paths})(?![\w.-])", lambda match: folders[match[0]], text)


@dataclass
class ProcessContainer:
    launch: Launch
    environment: dict[str, str]
    process: "asyncio.subprocess.Process | ForkedProcess"

    @property
    def output(self) -> asyncio.StreamReader:
        assert self.process.stdout is not None
        return self.process.stdout

    async def wait(self) -> int:
        code = await self.process.wait()
        await self.signal(signal.SIGKILL)  # children that outlived their parent
        return code if code >= 0 else 128 - code

    async def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    async def was_out_of_memory(self) -> bool:
        return False

    def termination_message(self) -> str:
        return ""  # there is one /dev for all processes

    async def execute(self, command: Sequence[str], *, stdin: bool) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *[localized(word, self.launch.mounts) for word in command],
            cwd=ROOT,
            env=self.environment,
            stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )


@dataclass
class ForkedProcess:
    """What is used of asyncio's Process, of one that was forked from a process that has imported torch already."""

    forked: BaseProcess
    stdout: asyncio.StreamReader

    @property
    def pid(self) -> int:
        return self.forked.pid or 0

    @property
    def returncode(self) -> int | None:
        return self.forked.exitcode

    async def wait(self) -> int:
        while (code := self.forked.exitcode) is None:
            await asyncio.sleep(POLL_SECONDS)
        return code


async def start_training(command: Sequence[str], environment: Mapping[str, str]) -> ForkedProcess:
    """`python -m train`, without the seconds that its imports take."""
    process, file_number = await asyncio.to_thread(start_forked, command, environment)
    output = asyncio.StreamReader(limit=READ_BYTES)
    pipe = os.fdopen(file_number, "rb")
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(output), pipe)
    return ForkedProcess(process, output)


class ProcessBackend:
    """Runs containers as processes; `missing_images` cannot be pulled."""

    def __init__(self) -> None:
        self.missing_images: set[str] = set()
        self._ports: dict[str, str] = {}
        self._started: list[ProcessContainer] = []

    async def has_image(self, image: str) -> bool:
        return image not in self.missing_images

    async def ip_of(self, pod: Object) -> str:
        return HOST

    async def start(self, launch: Launch) -> ProcessContainer:
        environment = self._environment(launch)
        command = [localized(word, launch.mounts) for word in launch.command or DEFAULT_COMMAND]
        if tuple(command[:3]) == DEFAULT_COMMAND:
            process = await start_training(command, environment)
        else:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=ROOT,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                limit=READ_BYTES,
            )
        container = ProcessContainer(launch, environment, process)
        self._started.append(container)
        return container

    def _environment(self, launch: Launch) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
        base = {
            "PATH": path,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "HOSTNAME": launch.pod["metadata"]["name"],
        }
        given = {name: localized(value, launch.mounts) for name, value in launch.environment.items()}
        if "MASTER_ADDR" in given:
            port = self._port_of_job(launch.pod["metadata"]["ownerReferences"][0]["uid"])
            given |= {"MASTER_ADDR": HOST, "PET_MASTER_ADDR": HOST, "MASTER_PORT": port, "PET_MASTER_PORT": port}
        return {**base, **given}

    def _port_of_job(self, uid: str) -> str:
        if uid not in self._ports:
            self._ports[uid] = str(free_port())
        return self._ports[uid]

    async def close(self) -> None:
        for container in self._started:
            if container.process.returncode is None:
                await container.signal(signal.SIGKILL)
                await container.process.wait()
