"""How a run stands, in the terminal, read from its folder; works while it trains and after.

    python -m train status outputs/laptop --follow

The exit code is the run's: 0 when it is done or under way, else that of its failure; 1 when it gives no sign of life.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table

from train.failure import ExitCode
from train.results.run_files import RunFiles
from train.run_folder.run_folder import RunFolder
from train.units import human_bytes, human_seconds, seconds_since

SECONDS_BETWEEN_LOOKS = 2.0
QUIET_SECONDS = 120.0
QUIET_STEPS = 10
QUIET_PHASE_SECONDS = 1800.0
"""Model, cache, publication and demo write no status until they are over."""

NO_SIGN_OF_LIFE = 1
SPARKS = "▁▂▃▄▅▆▇█"
BAR_WIDTH = 40

Verdict = Literal["done", "under way", "silent", "stopped", "failed"]


@dataclass(frozen=True)
class Standing:
    """Holds what the folder says now."""

    verdict: Verdict
    silent_seconds: float
    files: RunFiles

    @property
    def exit_code(self) -> int:
        if self.verdict in ("failed", "stopped"):
            return int(self.files.failure.get("exit_code", ExitCode.BUG))
        return NO_SIGN_OF_LIFE if self.verdict == "silent" else ExitCode.DONE

    @property
    def is_over(self) -> bool:
        return self.verdict in ("done", "stopped", "failed")


def standing(files: RunFiles) -> Standing:
    """Judge a run by its files: a failure counts before a status, which may be older."""
    status = files.status
    silent_seconds = seconds_since(status["updated"]) if "updated" in status else 0.0
    if status.get("phase") == "done":
        return Standing("done", silent_seconds, files)
    if files.failure:
        return Standing("stopped" if files.was_asked_to_stop else "failed", silent_seconds, files)
    return Standing("silent" if silent_seconds > patience_seconds(status) else "under way", silent_seconds, files)


def patience_seconds(status: dict[str, Any]) -> float:
    """Return how long a run may be silent: some of its steps while training, else as long as a phase may take.

    >>> patience_seconds({"phase": "training", "seconds_per_step": 40.0}), patience_seconds({"phase": "demo"})
    (400.0, 1800.0)
    """
    if status.get("phase") != "training" or not status.get("seconds_per_step"):
        return QUIET_PHASE_SECONDS
    evaluation_seconds = float(status.get("seconds_per_evaluation", 0.0))
    return max(QUIET_SECONDS, QUIET_STEPS * float(status["seconds_per_step"]) + 2 * evaluation_seconds)


def sparkline(values: Sequence[float], width: int = BAR_WIDTH) -> str:
    """Draw values as a row of bars, neighbours averaged to fit.

    >>> sparkline([1, 2, 3, 4, 5, 6, 7, 8])
    '▁▂▃▄▅▆▇█'
    """
    size = -(-len(values) // width) or 1
    means = [sum(group) / len(group) for group in (values[i : i + size] for i in range(0, len(values), size))]
    low, span = min(means), max(means) - min(means)
    return "".join(SPARKS[round((len(SPARKS) - 1) * (mean - low) / span) if span else 0] for mean in means)


COLOURS: dict[Verdict, str] = {
    "done": "green",
    "under way": "cyan",
    "silent": "yellow",
    "stopped": "yellow",
    "failed": "red",
}


def screen(folder: RunFolder, now: Standing) -> RenderableType:
    """Return all of it, as one panel."""
    files, colour = now.files, COLOURS[now.verdict]
    numbers = Table.grid(padding=(0, 3))
    numbers.add_column(style="dim", no_wrap=True)
    numbers.add_column()
    status = files.status
    bar = ProgressBar(total=status.get("total_steps") or 1, completed=status.get("step") or 0, width=BAR_WIDTH)
    numbers.add_row("progress", bar)
    for label, value in lines(now):
        numbers.add_row(label, value)
    parts: list[RenderableType] = [numbers]
    if now.verdict == "silent":
        said = f"No sign of life for {human_seconds(now.silent_seconds)}: look at the run's log, or start it again."
        parts.append(f"\n[yellow]{said}[/]")
    if now.verdict in ("failed", "stopped"):
        parts.append(f"\n[{colour}]{escape(files.failure['message'])}[/] {escape(files.failure.get('remedy', ''))}")
    heading = f"{escape(str(folder.root))}  [{colour} bold]{now.verdict}[/]"
    return Panel(Group(*parts), title=heading, title_align="left", border_style=colour, expand=False, padding=(1, 2))


def lines(now: Standing) -> list[tuple[str, str]]:
    """Return label and value of everything that is known."""
    files, status = now.files, now.files.status
    losses = [record["loss"] for record in files.of_kind("step")]
    found = [("phase", str(status.get("phase", "starting")))]
    if status.get("total_steps"):
        found.append(("step", f"{status['step']} of {status['total_steps']}  ({status['percent']:.1f} %)"))
    if losses:
        found.append(("training loss", f"{sparkline(losses)}  {losses[-1]:.4f}"))
    if files.evaluations:
        found.append(("validation", " → ".join(f"{record['loss']:.4f}" for record in _ends(files.evaluations))))
    if status.get("tokens_per_second"):
        found.append(("speed", f"{status['tokens_per_second']:,.0f} tokens/s"))
        found.append(("memory", human_bytes(status["memory_bytes"])))
    if status.get("seconds_left") and now.verdict == "under way":
        found.append(("time left", human_seconds(status["seconds_left"])))
    if files.num_restarts or status.get("restarts"):
        found.append(("restarts", str(status.get("restarts") or files.num_restarts)))
    if "updated" in status:
        found.append(("last word", f"{human_seconds(now.silent_seconds)} ago"))
    return found


def _ends(evaluations: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """The first evaluation and the last three."""
    return evaluations if len(evaluations) <= 4 else [evaluations[0], *evaluations[-3:]]


def show_status(
    folder: RunFolder, *, follow: bool, console: Console | None = None, wait: Callable[[float], None] = time.sleep
) -> int:
    """Print how the run stands, once or until it is over; returns the exit code (ConfigError: there is no run)."""
    console = console or Console()
    now = standing(RunFiles.read(folder))
    if not follow:
        console.print(screen(folder, now))
        return now.exit_code
    with Live(screen(folder, now), console=console, auto_refresh=False) as live:
        while not now.is_over:
            wait(SECONDS_BETWEEN_LOOKS)
            now = standing(RunFiles.read(folder))
            live.update(screen(folder, now), refresh=True)
    return now.exit_code
