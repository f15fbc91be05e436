"""Original against tuned: the same questions, the same prompts, held-out rows with intervals, a verdict on each number.

    python -m inference.compare --run outputs/laptop --json comparison.json
    python -m inference.compare --run outputs/laptop --safety --fail-if-worse

Before anything is judged it is proved that the tuned model is what it says: undamaged, with the template it was
trained with, and with other weights than the model it was tuned from.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from data.files import write_json
from data.progress import progress_on
from inference.asking.questions import questions_to_ask
from inference.command import (
    DEFAULTS,
    MaxNewTokensOption,
    RunOption,
    VerifyOption,
    make_app,
    note,
    notes,
    prepare_environment,
    run_command,
)
from inference.judging.options import (
    BatchSizeOption,
    DatasetOption,
    Followed,
    MetricOption,
    PrecisionOption,
    RulesOption,
    SafetyOption,
    Split,
    SplitOption,
    chosen_metrics,
    chosen_rules,
)
from inference.models.published import PublishedModel, default_run, named_base, needs_no_network, open_published
from train.config.run_config import RunConfig
from train.failure import ConfigError, GateError, ModelError
from train.generation.settings import GenerationSettings

if TYPE_CHECKING:
    from inference.judging.evaluation import Evaluation, Judging

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


@dataclass(frozen=True)
class Pair:
    """The two models to compare."""

    published: PublishedModel
    base: RunConfig
    any_base: bool
    precision: str


@dataclass(frozen=True)
class Rows:
    """Which rows to judge on; none for a `limit` of 0."""

    dataset: Path | None
    split: Split
    limit: int


def compare(pair: Pair, judging: "Judging", rows: Rows) -> dict[str, Any]:
    """What `--json` writes: the answers side by side, both models judged, and a verdict on every difference.

    Raises:
        ConfigError: the original is not the one the run started from.
        ModelError: the tuned model is broken: a wrong template, or trained weights that were not applied.
    """
    from inference.judging import verdicts
    from inference.models.soundness import check_original
    from train.generation.generate import comparison

    is_recorded = check_original(pair.published, pair.base, any_base=pair.any_base)
    tuned = _judge_tuned(pair, judging, rows, is_recorded=is_recorded)
    original = _judge_original(pair, judging, tuned)
    models = {"original": original.facts, "tuned": tuned.facts}
    return {
        **comparison(judging.questions, original.asked, tuned.asked, judging.settings, models),
        "prompt_tokens": [len(answer.prompt_ids) for answer in tuned.asked],
        "prompts_sha256": tuned.facts["prompts_sha256"],
        "weights_differ": original.facts["weights_sha256"] != tuned.facts["weights_sha256"],
        "original_is_recorded_base": is_recorded,
        "data": tuned.held_out.facts,
        "verdicts": verdicts.compare_all(original, tuned, judging.metrics),
        "rule": {"win": "tuned better by more than the margin", "margins": verdicts.TIE, "else": "any difference"},
        "regressions": verdicts.regressions(original, tuned),
        "safety": {
            "original": original.safety,
            "tuned": tuned.safety,
            "newly_broken": verdicts.newly_broken(original.safety, tuned.safety),
        },
        "by_topic": {"original": original.by_topic(), "tuned": tuned.by_topic()},
        "timing": {"original": original.timing, "tuned": tuned.timing},
    }


def _judge_tuned(pair: Pair, judging: "Judging", rows: Rows, *, is_recorded: bool) -> "Evaluation":
    """Prove that the tuned model is sound, then judge it."""
    from inference.judging.evaluation import computing_in, evaluate, free_memory
    from inference.judging.held_out import HeldOut, held_out_rows
    from inference.models.load import load_original, load_tuned
    from inference.models.soundness import check_template, check_weights_applied

    with notes().status("loading and checking the tuned model"):
        untuned_sha256 = load_original(pair.published, pair.base).weights_sha256 if is_recorded else None
        free_memory()  # before the next is loaded: two need not fit
        tuned = load_tuned(pair.published)
        if untuned_sha256 is not None:
            check_template(pair.published, tuned, pair.base)
            check_weights_applied(pair.published, untuned_sha256, tuned)
    held_out = (
        held_out_rows(tuned, pair.published, rows.dataset, rows.split, rows.limit) if rows.limit else HeldOut.nothing()
    )
    return evaluate(computing_in(tuned, pair.precision), held_out, judging)


def _judge_original(pair: Pair, judging: "Judging", tuned: "Evaluation") -> "Evaluation":
    """Judge the original on the very rows and prompts of the tuned model."""
    from inference.judging.evaluation import computing_in, evaluate, free_memory
    from inference.models.load import load_original

    free_memory()
    with notes().status("loading the original model"):
        loaded = computing_in(load_original(pair.published, pair.base), pair.precision)
    original = evaluate(loaded, tuned.held_out, judging)
    if original.facts["prompts_sha256"] != tuned.facts["prompts_sha256"]:
        raise ModelError("the two models were asked different token ids; nothing to compare")
    return original


if __name__ == "__main__":
    app()
