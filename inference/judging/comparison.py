"""Two models judged on the same questions and rows, one after the other, and what the difference is.

The tuned model comes first: before anything is judged it is proved that it is what it says.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.command import notes
from inference.judging import verdicts
from inference.judging.evaluation import Evaluation, Judging, computing_in, evaluate, free_memory
from inference.judging.held_out import HeldOut, held_out_rows
from inference.judging.options import Split
from inference.models.load import load_original, load_tuned
from inference.models.published import PublishedModel
from inference.models.soundness import check_original, check_template, check_weights_applied
from train.config.run_config import RunConfig
from train.failure import ModelError
from train.generation.generate import comparison


@dataclass(frozen=True)
class Pair:
    """These two models are to be compared."""

    published: PublishedModel
    base: RunConfig
    any_base: bool
    precision: str


@dataclass(frozen=True)
class Rows:
    """These rows are judged on; there are none for a `limit` of 0."""

    dataset: Path | None
    split: Split
    limit: int


def compare(pair: Pair, judging: Judging, rows: Rows) -> dict[str, Any]:
    """Return what `--json` writes: answers side by side, both models judged, and a verdict on every difference.

    Raises:
        ConfigError: the original is not the one the run started from.
        ModelError: the tuned model is broken: a wrong template, or trained weights that were not applied.
    """
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


def _judge_tuned(pair: Pair, judging: Judging, rows: Rows, *, is_recorded: bool) -> Evaluation:
    """Prove that the tuned model is sound, then judge it."""
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


def _judge_original(pair: Pair, judging: Judging, tuned: Evaluation) -> Evaluation:
    """Judge the original on the very rows and prompts of the tuned model."""
    free_memory()
    with notes().status("loading the original model"):
        loaded = computing_in(load_original(pair.published, pair.base), pair.precision)
    original = evaluate(loaded, tuned.held_out, judging)
    if original.facts["prompts_sha256"] != tuned.facts["prompts_sha256"]:
        raise ModelError("the two models were asked different token ids; nothing to compare")
    return original
