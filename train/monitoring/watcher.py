"""What is told of a run under way has these three methods."""

from collections.abc import Mapping
from typing import Any, Protocol


class Watcher(Protocol):
    """Is told of a run under way, on every rank, and must neither stop nor slow it: see `train.monitoring.watchers`."""

    def enter(self, phase: str) -> None:
        """A phase of the run begins."""

    def show(self, record: Mapping[str, Any]) -> None:
        """A record of the history was made."""

    def pause(self) -> None:
        """Training is over, for now or for good: what is known must be safe soon."""
