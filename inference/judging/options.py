"""The command line options that `evaluate` and `compare` share, and what follows from them. No torch here."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from data.progress import ProgressReport
from inference.judging.safety import DEFAULT_RULES, Rule, read_rules
from train.generation.scores import METRICS, Metric, own_metric

Split = Literal["validation", "train", "all"]
Precision = Literal["auto", "saved", "fp32"]

DatasetOption = Annotated[
    Path | None,
    typer.Option(help="A built data set with reference answers.", show_default="the one the model was tuned on"),
]
SplitOption = Annotated[Split, typer.Option(help="Its side, cut by the run's seed, fraction and demo questions.")]
LimitOption = Annotated[int | None, typer.Option(min=1, help="A seeded subset of so many rows.", show_default="all")]
BatchSizeOption = Annotated[int, typer.Option(min=1, help="Answers at a time; 1: one by one, the same text.")]
MetricOption = Annotated[
    list[str] | None,
    typer.Option("--metric", help="Your own, package.module:function: a train.scores.Sample -> number or None."),
]
SafetyOption = Annotated[bool, typer.Option("--safety", help=f"Judge the rules of data/prompts/{DEFAULT_RULES.name}.")]
RulesOption = Annotated[
    Path | None, typer.Option("--rules", exists=True, dir_okay=False, help="Your own safety rules (implies --safety).")
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(help="auto: fp32 on a CPU, where a batch changes no answer; on a GPU as saved."),
]


def chosen_metrics(own: list[str] | None) -> list[Metric]:
    """Return the built-in metrics and those named by import path (ConfigError if one cannot be imported)."""
    return [*METRICS, *map(own_metric, own or [])]


def chosen_rules(asked: bool, file: Path | None) -> list[Rule]:
    """Return the rules of the file, else the project's own if asked for, else none (DataError for a bad file)."""
    return read_rules(file or DEFAULT_RULES) if asked or file else []


class Followed:
    """This turns `what, done, total` into the stages of a progress report."""

    def __init__(self, progress: ProgressReport) -> None:
        self._progress, self._stage = progress, ""

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._stage:
            self._progress.stage(what, total)
            self._stage = what
        self._progress.advance(done)
