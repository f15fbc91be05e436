"""What one fine-tuning run costs, five ways, on the same rows in the same order.

    python -m benchmarks.sft_speed --json speed.json --plot docs/images/sft_speed.png
    python -m benchmarks.sft_speed --rows 256 --epochs 4 --only stock_label_head,shared,shared_cached

Every variant is a process of its own. They take turns, one optimizer step each, and only the process whose turn it is
computes, so whatever else the machine does falls on all of them alike. A variant's time is the sum of its turns: the
trunk pass, every step, every evaluation; not the loading of the model, nor checkpoints. The model is SmolLM2-135M;
its last two layers and its head train. The losses are measured at the end, row by row, in the same way for all.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.sft_variants import MICRO_BATCH, VARIANTS, Precision, Task, work
from train.config.run_config import REPOSITORY
from train.distributed.machine import usable_cores

REAL_SET = REPOSITORY.parent / "shared" / "data" / "practical_skills_qa.parquet"
BAKED_IN_SET = REPOSITORY / "data" / "qa_dataset.parquet"
DATASET = REAL_SET if REAL_SET.is_file() else BAKED_IN_SET
MOST_SECONDS_A_TURN = 900
MIB = 2**20

RATIOS = [
    ("shared_cached", "stock_seed"),
    ("shared_cached", "stock_best"),
    ("shared_cached", "stock_label_head"),
    ("shared", "stock_label_head"),
]


@dataclass
class Result:
    """What one variant took. `turn_seconds`: its preparation, every step, and what comes after the last."""

    turn_seconds: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0
    train_loss: float = 0.0
    eval_loss: float = 0.0
    peak_rss_bytes: int = 0
    report: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return sum(self.turn_seconds)


# --- all of them, in turn --------------------------------------------------------------------------------------------


def measure(names: Sequence[str], task: Task, console: Console) -> dict[str, Result]:
    """Run the variants side by side, a turn each."""
    context, connections, cpu_seconds = get_context("spawn"), {}, {}
    results = {name: Result() for name in names}
    for name in names:  # one after the other, so that not all load at once
        connections[name], theirs = context.Pipe()
        context.Process(target=work, args=(name, task, theirs), daemon=True).start()
        theirs.close()  # so that the end of the process is the end of the pipe
        cpu_seconds[name] = _receive(connections[name], name)
    running = list(names)
    with console.status("loading") as status:
        while running:
            for name in list(running):
                result = results[name]
                status.update(f"turn {len(result.turn_seconds) + 1} of {task.num_steps + 2}: {VARIANTS[name].title}")
                begin = time.perf_counter()
                connections[name].send("go")
                message = _receive(connections[name], name)
                if isinstance(message, dict):
                    vars(result).update(message)
                    running.remove(name)
                    continue
                result.turn_seconds.append(time.perf_counter() - begin)
                result.cpu_seconds += message - cpu_seconds[name]
                cpu_seconds[name] = message
    return results


def _receive(connection: Connection, name: str) -> Any:
    if not connection.poll(MOST_SECONDS_A_TURN):
        sys.exit(f"error: {name} took more than {MOST_SECONDS_A_TURN} s for one turn")
    try:
        return connection.recv()
    except EOFError:
        sys.exit(f"error: the process of {name} died; its message stands above")


def ratios(results: dict[str, Result], num_epochs: int) -> dict[str, dict[str, float]]:
    """How many times faster: over the whole run, and the smallest and largest over its epochs of steps.

    >>> slow, fast = Result(turn_seconds=[2, 4, 8, 2]), Result(turn_seconds=[2, 1, 4, 1])
    >>> ratios({"stock_label_head": slow, "shared": fast}, num_epochs=2)
    {'shared_over_stock_label_head': {'whole_run': 2.0, 'smallest_epoch': 2.0, 'largest_epoch': 4.0}}
    """
    found = {}
    for fast, slow in RATIOS:
        if fast in results and slow in results:
            epochs = [
                sum(one) / sum(other)
                for one, other in zip(
                    *(_epochs(results[name].turn_seconds[1:-1], num_epochs) for name in (slow, fast)), strict=True
                )
            ]
            whole = results[slow].seconds / results[fast].seconds
            found[f"{fast}_over_{slow}"] = {
                "whole_run": round(whole, 2),
                "smallest_epoch": round(min(epochs), 2),
                "largest_epoch": round(max(epochs), 2),
            }
    return found


def _epochs(step_seconds: Sequence[float], num_epochs: int) -> list[Sequence[float]]:
    size = len(step_seconds) // num_epochs
    return [step_seconds[start : start + size] for start in range(0, len(step_seconds), size)]


# --- what is said ----------------------------------------------------------------------------------------------------


def as_json(results: dict[str, Result], task: Task) -> dict[str, Any]:
    num_rows = task.num_rows * task.num_epochs
    return {
        "task": {
            **vars(task),
            "dataset": task.dataset.name,
            "date": date.today().isoformat(),
            "machine": machine(),
        },
        "variants": {
            name: {
                "rows_per_second": num_rows / result.seconds,
                "seconds": result.seconds,
                "cpu_seconds": result.cpu_seconds,
                "preparation_seconds": result.turn_seconds[0],
                "train_loss": result.train_loss,
                "eval_loss": result.eval_loss,
                "peak_rss_bytes": result.peak_rss_bytes,
                "report": result.report,
            }
            for name, result in results.items()
        },
        "ratios": ratios(results, task.num_epochs),
    }


def machine() -> str:
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
    return f"{usable_cores()} cores, {model}"


def print_result(found: dict[str, Any], console: Console) -> None:
    task = found["task"]
    table = Table(
        *("", "rows/s", "seconds", "CPU-s", "peak MiB", "training loss", "evaluation loss"),
        title=f"{task['num_rows']} rows of {task['dataset']} x {task['num_epochs']} epochs, {task['precision']}, "
        f"{task['machine']}, {task['date']}",
    )
    for name, row in found["variants"].items():
        table.add_row(
            VARIANTS[name].title,
            f"{row['rows_per_second']:.2f}",
            f"{row['seconds']:.1f}",
            f"{row['cpu_seconds']:.0f}",
            f"{row['peak_rss_bytes'] / MIB:,.0f}",
            f"{row['train_loss']:.6f}",
            f"{row['eval_loss']:.6f}",
        )
    console.print(table)
    for name, ratio in found["ratios"].items():
        fast, _, slow = name.partition("_over_")
        console.print(
            f"{VARIANTS[fast].title}: {ratio['whole_run']:.1f} x faster than {VARIANTS[slow].title} "
            f"({ratio['smallest_epoch']:.1f} to {ratio['largest_epoch']:.1f} over the epochs' steps)"
        )


def plot(found: dict[str, Any], file: Path) -> None:
    """Rows per second of every variant, as bars with their numbers."""
    from matplotlib import pyplot

    names = list(found["variants"])
    colours = ["#2f855a" if VARIANTS[name].micro_batch is None else "#9aa5b1" for name in names]  # faster path or plain
    speeds = [found["variants"][name]["rows_per_second"] for name in names]
    figure, axes = pyplot.subplots(figsize=(8, 2.9), layout="constrained")
    bars = axes.barh([VARIANTS[name].title for name in names], speeds, color=colours)
    axes.bar_label(bars, [f"{speed:.1f}" for speed in speeds], padding=4)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("training rows per second, whole run")
    task = found["task"]
    facts = f"{task['num_rows']} rows x {task['num_epochs']} epochs, {task['precision']}"
    figure.suptitle(f"SmolLM2-135M, {facts}\n{task['machine']}", fontsize=9)
    figure.savefig(file, dpi=150)


def main(
    rows: Annotated[int, typer.Option(help="Training rows.")] = 32,
    epochs: Annotated[int, typer.Option(help="Epochs.")] = 3,
    effective_batch: Annotated[int, typer.Option(help="Rows per optimizer step.")] = 32,
    precision: Annotated[Precision, typer.Option(help="For all variants.")] = "fp32",
    dataset: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, resolve_path=True, help="A built data set.")
    ] = DATASET,
    only: Annotated[str, typer.Option(help="Variants, separated by commas.")] = ",".join(VARIANTS),
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the numbers here.")] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="Draw rows per second here.")] = None,
) -> None:
    """Time one fine-tuning run, five ways."""
    names = only.split(",")
    if unknown := set(names) - VARIANTS.keys():
        raise typer.BadParameter(f"{', '.join(unknown)}; there are {', '.join(VARIANTS)}", param_hint="--only")
    if rows < effective_batch or effective_batch % MICRO_BATCH:
        raise typer.BadParameter(
            f"{effective_batch} rows a step must be a multiple of {MICRO_BATCH}, and no more than the {rows} rows",
            param_hint="--effective-batch",
        )
    task = Task(rows, epochs, effective_batch, precision, dataset)
    console = Console(width=150)
    found = as_json(measure(names, task, console), task)
    print_result(found, console)
    if json_file:
        json_file.write_text(json.dumps(found, indent=2, default=str) + "\n", encoding="utf-8")
    if plot_file:
        plot(found, plot_file)


if __name__ == "__main__":
    typer.run(main)
