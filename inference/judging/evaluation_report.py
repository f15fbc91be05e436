"""Evaluations for people: tables of numbers with their intervals. Everything here reads a `--json` record."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from train.generation.scores import Metric
from train.units import human_seconds


def show_evaluation(record: Mapping[str, Any], metrics: Sequence[Metric], console: Console) -> None:
    """Print loss and metrics of one model, over all rows and by topic."""
    data, timing = record["data"], record["timing"]
    table = Table("", "", "95 % interval", "rows", title="Held-out rows", title_justify="left")
    loss = record["loss"]
    table.add_row("loss", f"{loss['estimate']:.4f} nats a token", _interval(loss, 4), str(data["rows"]))
    for metric in metrics:
        table.add_row(escape(metric.name), *_metric_cells(record["metrics"][metric.name], metric))
    console.print(table)
    _show_topics(loss["by_topic"], metrics, console)
    for metric in metrics:
        console.print(f"{metric.name:<14} {metric.meaning}", style="dim", markup=False, soft_wrap=True)
    console.print("\n".join([data_line(data), model_line(record["model"]), timing_line(timing, data["rows"])]),
                  markup=False, soft_wrap=True)  # fmt: skip


def _metric_cells(found: Mapping[str, Any], metric: Metric) -> tuple[str, str, str]:
    if "error" in found:
        return f"[red]failed: {escape(found['error'])}[/red]", "", ""
    if found["mean"] is None:
        return "applies to no row", "", "0"
    return f"{found['mean']:.2f} {metric.unit}".strip(), _interval(found, 2), str(found["rows"])


def _interval(found: Mapping[str, Any], digits: int) -> str:
    return f"{found['low']:.{digits}f} to {found['high']:.{digits}f}"


def _show_topics(by_topic: Mapping[str, Mapping[str, Any]], metrics: Sequence[Metric], console: Console) -> None:
    shown = [metric.name for metric in metrics if any(metric.name in topic for topic in by_topic.values())]
    table = Table("topic", "rows", "loss", *shown, title="By topic", title_justify="left")
    for topic, found in by_topic.items():
        means = (found[name] for name in shown)
        cells = ("-" if mean is None else f"{mean:.1f}" for mean in means)
        table.add_row(escape(topic), str(found["rows"]), f"{found['loss']:.4f}", *cells)
    console.print(table)


def show_safety(verdicts: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print a line for each rule, and what decided it, where words did."""
    if not verdicts:
        return
    num_kept = sum(verdict["passed"] for verdict in verdicts)
    table = Table("rule", "", "the answer", "why", title=f"Safety: {num_kept} of {len(verdicts)} rules kept",
                  title_justify="left")  # fmt: skip
    for verdict in verdicts:
        table.add_row(
            escape(verdict["rule"]), _mark(verdict["passed"]), escape(evidence(verdict)), escape(verdict["why"])
        )
    console.print(table)
    console.print("The rules find words, not meaning: a kept rule is no proof of safety.", style="dim")


def evidence(verdict: Mapping[str, Any]) -> str:
    """Say in words what decided a verdict.

    >>> evidence({"kind": "must_say", "passed": False, "evidence": ""})
    'does not say it'
    """
    if verdict["evidence"]:
        return f"says “{verdict['evidence']}”"
    return "does not say it"


def _mark(passed: bool) -> str:
    return "[green]kept[/green]" if passed else "[red]BROKEN[/red]"


def data_line(data: Mapping[str, Any]) -> str:
    """Say which rows were judged, and whether it is proved that the model was not trained on them."""
    if not data["rows"]:
        return "data      none"
    if data["split"] == "train":
        standing = "TRAINED ON, so the numbers flatter"
    elif data["proved_held_out"]:
        standing = "proved: the rows the run held out, token for token"
    else:
        standing = "not proved to be held out by the run"
    return (
        f"data      {data['rows']} of {data['of_rows']} {data['split']} rows of {data['dataset']} "
        f"({data['dataset_sha256'][:16]}); {standing}"
    )


def model_line(facts: Mapping[str, Any]) -> str:
    """Say which weights were judged, on which prompts."""
    return f"model     {facts['name']}, weights {facts['weights_sha256'][:16]}, prompts {facts['prompts_sha256'][:16]}"


def timing_line(timing: Mapping[str, Any], num_rows: int) -> str:
    """Say how long it took, and how many answers had to be made alone."""
    return (
        f"time      loss {human_seconds(timing['loss_seconds'])}, {num_rows} answers "
        f"{human_seconds(timing['answer_seconds'])} ({timing['batch_size']} at a time, "
        f"{timing['answered_alone']} of them made alone)"
    )
