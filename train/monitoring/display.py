"""What a person sees of a run under way: a bar on a terminal, lines in a log."""

import sys
from collections.abc import Mapping
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from train.units import human_seconds


class Display(Protocol):
    """Shows a run under way to a person."""

    def show(self, record: Mapping[str, Any]) -> None: ...
    def close(self) -> None: ...


class LineDisplay:
    """Prints one line per record, for logs: no carriage returns, no colours."""

    def __init__(self, every_steps: int) -> None:
        self.every_steps = every_steps

    def show(self, record: Mapping[str, Any]) -> None:
        is_due = record["step"] % self.every_steps == 0 or record["step"] == record["total_steps"]
        if record["kind"] == "evaluation" or is_due:
            print(describe(record), flush=True)

    def close(self) -> None:
        pass


class BarDisplay:
    """Shows a progress bar with the latest numbers, for a terminal; evaluations stay above it."""

    def __init__(self) -> None:
        self.progress = Progress(
            TextColumn("training"),
            BarColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=Console(),
            transient=False,
        )
        self.task = self.progress.add_task("training", numbers="", total=None)
        self.progress.start()

    def show(self, record: Mapping[str, Any]) -> None:
        if record["kind"] == "evaluation":
            self.progress.console.print(describe(record), highlight=False)
        else:
            self.progress.update(
                self.task, completed=record["step"], total=record["total_steps"], numbers=describe(record)
            )

    def close(self) -> None:
        self.progress.stop()


def describe(record: Mapping[str, Any]) -> str:
    """Return one record as a line for people."""
    if record["kind"] == "evaluation":
        return f"evaluation at step {record['step']}: loss {record['loss']:.4f}  perplexity {record['perplexity']:.2f}"
    return (
        f"step {record['step']}/{record['total_steps']}  {record['percent']:.1f} %  loss {record['loss']:.4f}  "
        f"ppl {record['perplexity']:.2f}  lr {record['learning_rate']:.2e}  grad {record['grad_norm']:.3f}  "
        f"{record['rows_per_second']:.2f} rows/s  {record['tokens_per_second']:,.0f} tok/s  "
        f"{record['memory_bytes'] / 2**30:.1f} GiB  {human_seconds(record['seconds_left'])} left"
    )


def pick_display(every_steps: int) -> Display:
    """Return a bar on a terminal, lines elsewhere."""
    return BarDisplay() if sys.stdout.isatty() else LineDisplay(every_steps)
