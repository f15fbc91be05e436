"""What the kubelet needs of whatever runs containers: processes, or podman."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.cluster.status import Object


@dataclass(frozen=True)
class Mount:
    """A volume in a container: a folder of this machine, or memory."""

    path: str
    folder: Path
    read_only: bool = False
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Launch:
    """All that is needed to start one container of a pod."""

    pod: Object
    container: Object
    environment: dict[str, str]
    mounts: tuple[Mount, ...]

    @property
    def command(self) -> tuple[str, ...]:
        """Command and arguments with `$(NAME)` filled in; empty where the image's own command is meant."""
        words = [*self.container.get("command", ()), *self.container.get("args", ())]
        return tuple(expand(word, self.environment) for word in words)


def expand(text: str, environment: dict[str, str]) -> str:
    """
    >>> expand("$(A)/$(B)", {"A": "x"})
    'x/$(B)'
    """
    return re.sub(r"\$\(([A-Za-z_][\w.-]*)\)", lambda match: environment.get(match[1], match[0]), text)


class RunningContainer(Protocol):
    """One started container."""

    @property
    def output(self) -> asyncio.StreamReader: ...

    async def wait(self) -> int:
        """The exit code; 128 + n where signal n ended it."""

    async def signal(self, number: int) -> None:
        """Send a signal to the whole container, if it still runs."""

    async def was_out_of_memory(self) -> bool: ...

    def termination_message(self) -> str:
        """What it wrote to /dev/termination-log."""

    async def execute(self, command: Sequence[str], *, stdin: bool) -> asyncio.subprocess.Process:
        """Run another command in it, with pipes for its three streams."""


class Backend(Protocol):
    async def has_image(self, image: str) -> bool: ...

    async def start(self, launch: Launch) -> RunningContainer: ...

    async def ip_of(self, pod: Object) -> str: ...

    async def close(self) -> None:
        """Stop everything that was started."""
