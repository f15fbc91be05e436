"""Original against tuned: the same questions, the same prompts, held-out rows with intervals, a verdict on each number.

    python -m inference.compare --run outputs/laptop --json comparison.json
    python -m inference.compare --run outputs/laptop --safety --fail-if-worse

Before anything is judged it is proved that the tuned model is what it says: undamaged, with the template it was
trained with, and with other weights than the model it was tuned from.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from data.files import write_json
from data.libraries import prepare_environment
from data.progress import progress_on
from inference.asking.questions import questions_to_ask
from inference.command import DEFAULTS, MaxNewTokensOption, RunOption, VerifyOption, make_app, note, notes, run_command
from inference.judging.options import (
    BatchSizeOption,
    DatasetOption,
    Followed,
    MetricOption,
    PrecisionOption,
    RulesOption,
    SafetyOption,
    SplitOption,
    chosen_metrics,
    chosen_rules,
)
from inference.models.published import default_run, named_base, needs_no_network, open_published
from train.failure import ConfigError, GateError
from train.generation.settings import GenerationSettings

DEFAULT_ROWS = 50

app = make_app()


@app.command()
def main(
    run: RunOption = None,
    base: Annotated[
        str | None, typer.Option(help="The original, if not where the run found it: hub id, folder, .gguf.")
    ] = None,
    any_base: Annotated[
        bool, typer.Option("--any-base", help="Compare even if the original is not the model the run started from.")
    ] = False,
    questions: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="One question a line.", show_default="the five demo questions"),
    ] = None,
    dataset: DatasetOption = None,
    split: SplitOption = "validation",
    limit: Annotated[int, typer.Option(min=0, help="Held-out rows, a seeded subset; 0: only the questions.")] = (
        DEFAULT_ROWS
    ),
    batch_size: BatchSizeOption = 32,
    max_new_tokens: MaxNewTokensOption = DEFAULTS.max_new_tokens,
    own_metrics: MetricOption = None,
    safety: SafetyOption = False,
    rules_file: RulesOption = None,
    fail_if_worse: Annotated[
        bool,
        typer.Option("--fail-if-worse", help="Exit 7 if a number is worse beyond chance or a rule is newly broken."),
    ] = False,
    precision: PrecisionOption = "auto",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the comparison to this file.")] = None,
    verify: VerifyOption = False,
) -> None:
    """Ask the original and the tuned model the same questions, greedily, and judge both on held-out rows."""

    def compare_as_told() -> None:
        metrics = chosen_metrics(own_metrics)
        asked = questions_to_ask(questions)
        rules = chosen_rules(safety, rules_file)
        if fail_if_worse and not limit:
            raise ConfigError("--fail-if-worse has nothing to judge with --limit 0", "Give it rows.")
        published = open_published(run or default_run(), verify=verify)
        original = named_base(base) if base else published.base
        prepare_environment(offline=needs_no_network(original))

        # Here, since they load torch: whatever is wrong with the command line has been told by now.
        from inference.judging.comparison import Pair, Rows, compare
        from inference.judging.comparison_report import show
        from inference.judging.evaluation import Judging
        from inference.judging.verdicts import what_got_worse

        settings = GenerationSettings(max_new_tokens=max_new_tokens)
        pair = Pair(published, original, any_base, precision)
        with progress_on(notes()) as progress:
            judging = Judging(settings, metrics, rules, asked, batch_size, Followed(progress))
            result = compare(pair, judging, Rows(dataset, split, limit))
        show(result, Console(highlight=False))
        if json_file:
            write_json(json_file, result)
            note(f"written to {json_file}")
        worse = what_got_worse(result, own_metrics or [])
        if fail_if_worse and worse:
            raise GateError(f"the tuned model is worse than the original: {', '.join(worse)}")

    run_command(compare_as_told)


if __name__ == "__main__":
    app()
