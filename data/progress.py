"""How far a long job is: a bar with the time left on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0
STEPS_PER_REPORT = 1000

T = TypeVar("T", covariant=True)


class Steps(Protocol[T]):
    """Steps are things to go through whose number is known."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[T]: ...


class ProgressReport(Protocol):
    """A report is told the stages of a job, each with a total in any unit (None: not known), and how far it is."""

    def stage(self, title: str, total: int | None) -> None:
        """Begin a stage; `total` counts in whatever unit `advance` does."""

    def advance(self, position: int) -> None:
        """Say how much of the stage is done."""


def followed(steps: Steps[T], title: str, progress: ProgressReport) -> Iterator[T]:
    """Go through the steps of one stage and report them as they are taken."""
    progress.stage(title, len(steps))
    for position, step in enumerate(steps):
        # Telling of every step would cost more than some steps do.
        if position % STEPS_PER_REPORT == 0:
            progress.advance(position)
        yield step


def share_done(position: int, total: int | None, seconds_passed: float) -> str:
    """Say in words how far a stage is.

    >>> share_done(25, 100, seconds_passed=10.0), share_done(25_000, None, seconds_passed=10.0)
    ('25 %, 30 s left', '25,000 done')
    """
    if total is None:
        return f"{position:,} done"
    seconds_left = seconds_passed * max(total - position, 0) / max(position, 1)
    return f"{100 * position / max(total, 1):.0f} %, {seconds_left:.0f} s left"


class Silent:
    """This report says nothing; it is for callers that are not a command line."""

    def stage(self, title: str, total: int | None) -> None:
        """Say nothing."""

    def advance(self, position: int) -> None:
        """Say nothing."""


class Lines:
    """This report is one line per stage, and one every ten seconds with how far it is. It has no carriage returns."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def stage(self, title: str, total: int | None) -> None:
        """Write the line of a stage."""
        self._title, self._total = title, total
        self._start_seconds = self._last_line_seconds = time.monotonic()
        self._console.out(f"{title} ...", highlight=False)

    def advance(self, position: int) -> None:
        """Write how far the stage is, if the last line was long enough ago."""
        now = time.monotonic()
        if now - self._last_line_seconds >= SECONDS_BETWEEN_LINES:
            self._last_line_seconds = now
            how_far = share_done(position, self._total, now - self._start_seconds)
            self._console.out(f"{self._title}: {how_far}", highlight=False)


class Bar:
    """This report is a bar per stage."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def stage(self, title: str, total: int | None) -> None:
        """Show the last stage as done and draw the next one's bar."""
        self.finish()
        self._task = self._progress.add_task(title, total=total)

    def advance(self, position: int) -> None:
        """Draw the bar as long as it is now."""
        assert self._task is not None, "advance() before stage()"
        self._progress.update(self._task, completed=position)

    def finish(self) -> None:
        """Show the stage as done."""
        if self._task is not None:
            # A stage whose total is not known would be shown as running for ever.
            self._progress.update(self._task, total=1, completed=1)


@contextmanager
def progress_on(console: Console) -> Iterator[ProgressReport]:
    """Yield a bar if the console is a terminal, lines if not."""
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = Bar(progress)
        yield bar
        bar.finish()
