"""A comparison for people: answers side by side, a verdict on every number, what got worse, what was proved."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from inference.judging.evaluation_report import data_line
from inference.judging.intervals import RESAMPLES
from inference.judging.verdicts import LOSS, REGRESSION_POINTS, TIE

SHOWN_REGRESSIONS = 5
STYLES = {"better": "green", "worse": "bold red", "no difference": "dim"}


def show(result: Mapping[str, Any], console: Console) -> None:
    """Print the whole report; everything is read from what `--json` writes."""
    from train.results.summary import comparison_table

    console.print(comparison_table(dict(result)))
    if result["verdicts"]:
        console.print(verdict_table(result["verdicts"]))
        console.print(_rule(), style="dim", markup=False, soft_wrap=True)
    _show_regressions(result["regressions"], console)
    _show_safety(result["safety"], console)
    console.print("\n".join(proved(result)), markup=False, soft_wrap=True)
    for warning in warnings_about(result):
        console.print(f"WARNING: {warning}", style="bold red", markup=False, soft_wrap=True)


def verdict_table(verdicts: Mapping[str, Mapping[str, Any]]) -> Table:
    """Make a line for the loss and each metric."""
    title = "Held-out rows; the difference is tuned minus original"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("", "original", "tuned", "difference, 95 %", "win/tie/loss", "verdict"):
        table.add_column(column, no_wrap="difference" in column)
    for name, found in verdicts.items():
        # A metric of one's own is named by its user, and rich would take [brackets] for markup.
        label = escape(name)
        if "error" in found:
            table.add_row(label, "", "", "", "", f"[red]failed: {escape(found['error'])}[/red]")
        elif "difference" not in found:
            table.add_row(label, "", "", "applies to no row", "", "")
        else:
            table.add_row(label, *_cells(found, digits=3 if name == LOSS else 2))
    return table


def _cells(found: Mapping[str, Any], digits: int) -> tuple[str, ...]:
    difference = found["difference"]
    tally = f"{found['win']}/{found['tie']}/{found['loss']}" if "win" in found else ""
    outcome = found.get("verdict", "")
    return (
        f"{found['original']:.{digits}f}",
        f"{found['tuned']:.{digits}f}",
        f"{difference['low']:+.{digits}f} to {difference['high']:+.{digits}f}",
        tally,
        f"[{STYLES[outcome]}]{outcome}[/]" if outcome else "",
    )


def _rule() -> str:
    margins = ", ".join(f"{margin:g} {name}" for name, margin in TIE.items())
    return (
        f"A row is won or lost where the difference is above the margin ({margins}; elsewhere any), else a tie. "
        "A verdict is 'no difference' where the interval of the difference holds 0 "
        f"({RESAMPLES:,} resamples of the rows)."
    )


def _show_regressions(regressions: Sequence[Mapping[str, Any]], console: Console) -> None:
    if not regressions:
        return
    title = f"{len(regressions)} answers lost {REGRESSION_POINTS:g} points of chrF or more"
    shown = f"{title}; the {SHOWN_REGRESSIONS} worst" if len(regressions) > SHOWN_REGRESSIONS else title
    table = Table("question", "original", "tuned", "chrF", title=shown, title_justify="left", show_lines=True)
    for one in regressions[:SHOWN_REGRESSIONS]:
        change = f"{one['original_chrf']:.0f} -> {one['tuned_chrf']:.0f}"
        table.add_row(*(escape(one[name]) for name in ("question", "original", "tuned")), change)
    console.print(table)


def _show_safety(safety: Mapping[str, Any], console: Console) -> None:
    if not safety["tuned"]:
        return
    kept = {role: sum(verdict["passed"] for verdict in safety[role]) for role in ("original", "tuned")}
    broken = ", ".join(safety["newly_broken"]) or "none"
    console.print(
        f"safety    of {len(safety['tuned'])} rules the original keeps {kept['original']}, the tuned model "
        f"{kept['tuned']}; newly broken: {broken}",
        markup=False,
        soft_wrap=True,
    )


def proved(result: Mapping[str, Any]) -> list[str]:
    """Say in lines what both models are, and what is the same for both."""
    models, tokens = result["models"], result["prompt_tokens"]
    lines = [f"{role:<9} {facts['name']}, weights {facts['weights_sha256'][:16]}" for role, facts in models.items()]
    rule_questions = {verdict["question"] for verdict in result["safety"]["tuned"]}
    num_prompts = len(tokens) + len(rule_questions) + result["data"]["rows"]
    lines += [
        f"prompts   {num_prompts}, each token for token the same for both ({result['prompts_sha256'][:16]})",
        f"settings  greedy, at most {result['settings']['max_new_tokens']} new tokens",
        data_line(result["data"]),
    ]
    if not result["weights_differ"]:
        lines.append("result    no difference: a model compared with itself")
    return lines


def warnings_about(result: Mapping[str, Any]) -> list[str]:
    """Say what makes a comparison mean less than it seems to.

    >>> warnings_about({"weights_differ": True, "original_is_recorded_base": True})
    []
    """
    foreign = "the original is not the model the run started from (--any-base)"
    return [foreign] if result["weights_differ"] and not result["original_is_recorded_base"] else []
