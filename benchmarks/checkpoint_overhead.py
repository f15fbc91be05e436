"""What checkpoints cost: short runs of a recipe, with a checkpoint halfway and without.

    python -m benchmarks.checkpoint_overhead --json checkpoint_overhead.json
    python -m benchmarks.checkpoint_overhead --steps 100     # halfway is then after 50 steps

Each turn is a run in a process of its own, with the recipe's model, batches and trained layers, but fewer rows. The two
kinds take turns, the other one first in the next pair. The share of time is counted inside the runs: the mean time in
which a checkpoint is written, hashed, flushed and committed, over the time of `--every` steps. The totals beside it
show whether anything is hidden elsewhere, as far as the machine's other work lets one see. Both kinds write a
checkpoint after their last step, as every run does. Exit 1 if the share is more than `--limit`.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from datetime import date
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.sft_speed import machine
from train.config.run_config import REPOSITORY, resolve_config
from train.config.yaml_files import recipe_path
from train.failure import ConfigError
from train.run_folder.run_folder import RunFolder

EPOCHS = 4
MOST_SECONDS_A_TURN = 1200


@dataclass
class Turn:
    """One run. Seconds: of its training phase, and of what was done in it beside the steps."""

    checkpoint_after: int
    num_steps: int = 0
    training_seconds: float = 0.0
    saves: list[float] = field(default_factory=list)
    evaluations: list[float] = field(default_factory=list)

    @property
    def step_seconds(self) -> float:
        return (self.training_seconds - sum(self.saves) - sum(self.evaluations)) / self.num_steps


def share_of(turns: Sequence[Turn], every_steps: int) -> tuple[float, float, float]:
    """Share of time that checkpoints take, of all turns; and the smallest and largest of one turn.

    >>> turns = [Turn(50, 10, 30.0, saves=[1.0, 1.0], evaluations=[8.0]), Turn(50, 10, 23.0, saves=[3.0])]
    >>> [round(share, 4) for share in share_of(turns, every_steps=50)]
    [0.0167, 0.01, 0.03]
    """
    each = [mean(turn.saves) / (every_steps * turn.step_seconds) for turn in turns]
    all_saves = [seconds for turn in turns for seconds in turn.saves]
    step_seconds = sum(turn.step_seconds * turn.num_steps for turn in turns) / sum(turn.num_steps for turn in turns)
    return mean(all_saves) / (every_steps * step_seconds), min(each), max(each)


def take_turn(settings: Sequence[str], checkpoint_after: int, folder: Path) -> Turn:
    """A run in a process of its own."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(settings, checkpoint_after, folder, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(MOST_SECONDS_A_TURN):
            sys.exit(f"error: a turn took more than {MOST_SECONDS_A_TURN} s")
        turn: Turn = ours.recv()
    except EOFError:
        sys.exit("error: a run failed; its message stands above")
    finally:
        process.join()
    return turn


def _run(settings: Sequence[str], checkpoint_after: int, folder: Path, connection: Connection) -> None:
    """In the process of one turn: the command line's own code, with a clock around what is done beside the steps."""
    from train.__main__ import execute, leave
    from train.methods.sft import SftTrainer

    turn = Turn(checkpoint_after)
    words = [*settings, f"output.checkpoint_every_steps={checkpoint_after}", f"output.dir={folder}"]
    with (
        Path(os.devnull).open("w") as nowhere,
        redirect_stdout(nowhere),
        _timed(SftTrainer, "_save_checkpoint", turn.saves),
        _timed(SftTrainer, "_evaluate", turn.evaluations),
    ):
        leave(execute(words, dry_run=False, preflight=False, nproc=None))
    summary = json.loads(RunFolder(folder).summary.read_text(encoding="utf-8"))
    history = json.loads(RunFolder(folder).history.read_text(encoding="utf-8"))
    turn.num_steps = sum(record["kind"] == "step" for record in history)
    turn.training_seconds = summary["seconds"]["training"]
    connection.send(turn)


def settings_of(recipe: str, num_steps: int) -> list[str]:
    """The recipe with so few rows that it takes so many steps, and without what is done after training."""
    rows_a_step = resolve_config(recipe, (), {}).config.effective_batch_size(1)
    return [
        recipe,
        f"optim.epochs={EPOCHS}",
        f"data.max_train_rows={num_steps // EPOCHS * rows_a_step}",
        "data.max_validation_rows=16",
        "output.demo=false",
    ]


@contextmanager
def _timed(owner: type, name: str, seconds: list[float]) -> Iterator[None]:
    """Note how long every call of a method takes."""
    original: Callable[..., Any] = getattr(owner, name)

    def timed(*positional: Any, **named: Any) -> Any:
        start = time.perf_counter()
        try:
            return original(*positional, **named)
        finally:
            seconds.append(time.perf_counter() - start)

    setattr(owner, name, timed)
    try:
        yield
    finally:
        setattr(owner, name, original)


def main(
    recipe: Annotated[str, typer.Option(help="Whose model, batches and trained layers.")] = "laptop",
    pairs: Annotated[int, typer.Option(min=1, help="Turns of each kind.")] = 2,
    steps: Annotated[int, typer.Option(min=EPOCHS, help=f"Steps of a run, a multiple of {EPOCHS}.")] = 28,
    every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints, for which the share is told.")] = 50,
    limit: Annotated[float, typer.Option(help="Most the checkpoints may take, as a share.")] = 0.03,
    folder: Annotated[Path, typer.Option(help="Volume to write to; emptied again.")] = REPOSITORY / "outputs",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the numbers here.")] = None,
) -> None:
    """Time checkpoints within runs of a recipe."""
    if steps % EPOCHS:
        raise typer.BadParameter(f"{steps} is no multiple of {EPOCHS}", param_hint="--steps")
    try:
        recipe_path(recipe)
    except ConfigError as error:
        raise typer.BadParameter(str(error), param_hint="--recipe") from None
    console, settings, kinds = Console(highlight=False, soft_wrap=True), settings_of(recipe, steps), (steps // 2, steps)
    turns: dict[int, list[Turn]] = {kind: [] for kind in kinds}
    folder.mkdir(parents=True, exist_ok=True)
    for pair in range(pairs):
        for kind in kinds if pair % 2 == 0 else reversed(kinds):
            with tempfile.TemporaryDirectory(prefix="checkpoint-overhead-", dir=folder) as scratch:
                turns[kind].append(take_turn(settings, kind, Path(scratch) / "run"))
            console.print(describe(turns[kind][-1]))
    found = as_json(settings, turns[steps // 2], turns[steps], every)
    for line in sentences(found):
        console.print(line)
    if json_file:
        json_file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if found["share"] > limit:
        console.print(f"more than {limit:.1%}")
        raise typer.Exit(1)


def describe(turn: Turn) -> str:
    """One turn in words.

    >>> describe(Turn(14, 28, 40.0, saves=[2.0, 2.5], evaluations=[3.0, 3.0]))
    'checkpoint after 14 steps: 28 steps of 1.054 s; training 40.0 s, checkpoint(s) 2.00, 2.50 s, evaluations 6.0 s'
    """
    saves = ", ".join(f"{seconds:.2f}" for seconds in turn.saves)
    return (
        f"checkpoint after {turn.checkpoint_after} steps: {turn.num_steps} steps of {turn.step_seconds:.3f} s; "
        f"training {turn.training_seconds:.1f} s, checkpoint(s) {saves} s, evaluations {sum(turn.evaluations):.1f} s"
    )


def as_json(
    settings: Sequence[str], with_one: Sequence[Turn], without: Sequence[Turn], every_steps: int
) -> dict[str, Any]:
    turns = [*with_one, *without]
    saves = [seconds for turn in turns for seconds in turn.saves]
    share, smallest, largest = share_of(turns, every_steps)
    return {
        "settings": list(settings),
        "machine": machine(),
        "date": date.today().isoformat(),
        "every_steps": every_steps,
        "share": share,
        "smallest_share": smallest,
        "largest_share": largest,
        "checkpoint_seconds": mean(saves),
        "checkpoint_seconds_deviation": stdev(saves),
        "num_checkpoints": len(saves),
        "with_training_seconds": [turn.training_seconds for turn in with_one],
        "without_training_seconds": [turn.training_seconds for turn in without],
        "turns": [vars(turn) for turn in turns],
    }


def sentences(found: dict[str, Any]) -> list[str]:
    with_mean, without_mean = mean(found["with_training_seconds"]), mean(found["without_training_seconds"])
    deviation = f"deviation {found['checkpoint_seconds_deviation']:.2f}, {found['num_checkpoints']} of them"
    spread = f"{found['smallest_share']:.2%} to {found['largest_share']:.2%} over the turns"
    return [
        f"ran: python -m train {' '.join(found['settings'])}",
        f"a checkpoint takes {found['checkpoint_seconds']:.2f} s ({deviation}): every {found['every_steps']} steps "
        f"that is {found['share']:.2%} of the time of the steps ({spread})",
        f"whole training phase: {with_mean:.1f} s with, {without_mean:.1f} s without "
        f"({with_mean / without_mean - 1:+.1%}); {found['machine']}, {found['date']}",
    ]


if __name__ == "__main__":
    typer.run(main)
