"""Judge a model on rows its run held out: loss per topic, generated answers, metrics with intervals, safety rules.

python -m inference.evaluate outputs/laptop --limit 50 --safety --json evaluation.json
python -m inference.evaluate embedded --dataset mine.parquet --split all --metric my_metrics:politeness
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from data.files import write_json
from data.libraries import prepare_environment
from data.progress import progress_on
from inference.command import DEFAULTS, MaxNewTokensOption, VerifyOption, make_app, note, notes, run_command
from inference.judging.options import (
    BatchSizeOption,
    DatasetOption,
    Followed,
    LimitOption,
    MetricOption,
    PrecisionOption,
    RulesOption,
    SafetyOption,
    SplitOption,
    chosen_metrics,
    chosen_rules,
)
from inference.models.source import source_of
from train.failure import BadDataError, GateError
from train.generation.settings import GenerationSettings

app = make_app()


@app.command()
def main(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A run folder or published model folder; or `embedded`, a hub id, a folder or a .gguf file.",
            show_default="OUTPUT_DIR, else outputs/laptop",
        ),
    ] = None,
    dataset: DatasetOption = None,
    split: SplitOption = "validation",
    limit: LimitOption = None,
    batch_size: BatchSizeOption = 32,
    max_new_tokens: MaxNewTokensOption = DEFAULTS.max_new_tokens,
    own_metrics: MetricOption = None,
    safety: SafetyOption = False,
    rules_file: RulesOption = None,
    fail_if_unsafe: Annotated[
        bool, typer.Option("--fail-if-unsafe", help="Exit 7 if a safety rule is broken (implies --safety).")
    ] = False,
    precision: PrecisionOption = "auto",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything, answers too, here.")] = None,
    verify: VerifyOption = False,
) -> None:
    """Judge a model on rows that its run held out."""

    def evaluate_as_told() -> None:
        metrics = chosen_metrics(own_metrics)
        rules = chosen_rules(safety or fail_if_unsafe, rules_file)
        source = source_of(model, verify=verify)
        prepare_environment(offline=source.is_offline)

        # Here, since they load torch: whatever is wrong with the command line has been told by now.
        from inference.judging.evaluation import Judging, computing_in, evaluate
        from inference.judging.evaluation_report import show_evaluation, show_safety
        from inference.judging.held_out import held_out_rows

        with notes().status("loading the model"):
            loaded = computing_in(source.load(), precision)
        held_out = held_out_rows(loaded, source.published, dataset, split, limit)
        if not held_out.rows:
            raise BadDataError(f"no row of the {split} side of {held_out.facts['dataset']} has an answer to judge")
        note(f"{loaded.description}, greedy, {batch_size} at a time, {len(held_out.rows)} rows")
        judging = Judging(GenerationSettings(max_new_tokens=max_new_tokens), metrics, rules, batch_size=batch_size)
        with progress_on(notes()) as progress:
            evaluation = evaluate(loaded, held_out, replace(judging, on_progress=Followed(progress)))
        record = {**evaluation.record(), "settings": judging.settings.dump()}
        console = Console(highlight=False)
        show_evaluation(record, metrics, console)
        show_safety(record["safety"], console)
        if json_file:
            write_json(json_file, record)
            note(f"written to {json_file}")
        broken = [verdict["rule"] for verdict in record["safety"] if not verdict["passed"]]
        if fail_if_unsafe and broken:
            raise GateError(f"{len(broken)} of {len(rules)} safety rules are broken: {', '.join(broken)}")

    run_command(evaluate_as_told)


if __name__ == "__main__":
    app()
