"""A tracker as this project sees it: what it is told, and the three methods it has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Point:
    """Holds one number of a run: at which optimizer step, and at which time (seconds since the epoch)."""

    name: str
    value: float
    step: int
    seconds: float


@dataclass(frozen=True)
class Description:
    """Holds what a tracker is told of a run before its numbers."""

    name: str
    parameters: Mapping[str, str]
    tags: Mapping[str, str]
    first_step: int


class Sink(Protocol):
    """Is one tracker. Every method may raise anything, and may take its time, but not forever."""

    name: str

    def open(self) -> None: ...
    def send(self, points: Sequence[Point]) -> None: ...
    def finish(self, files: Sequence[Path]) -> None: ...
