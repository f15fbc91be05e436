"""Tuned against original, row by row: differences with intervals, wins and losses by a stated rule, regressions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inference.judging.intervals import Interval, mean_interval, verdict
from train.generation.scores import Metric

if TYPE_CHECKING:
    from inference.judging.evaluation import Evaluation

LOSS = "loss"
GATED = (LOSS, "chrf", "rouge_l", "exact_number")
"""What `--fail-if-worse` looks at, besides safety rules; own metrics join them."""

TIE = {LOSS: 0.01, "chrf": 1.0, "rouge_l": 1.0}
"""A row is won or lost where the difference is larger: nats a token, points of 100. Elsewhere any difference counts.
Chosen, not measured; no verdict hangs on it."""

REGRESSION_POINTS = 10.0
"""Points of chrF that an answer must have lost to be listed: chosen, not measured."""


@dataclass(frozen=True)
class Tally:
    """A tally counts the rows where the tuned model won, and where it lost."""

    win: int
    tie: int
    loss: int

    @classmethod
    def of(cls, gains: Sequence[float], margin: float) -> "Tally":
        """Count rows won, even and lost, `gains` being positive where the tuned model is better.

        >>> Tally.of([5.0, 0.5, -3.0], margin=1.0)
        Tally(win=1, tie=1, loss=1)
        """
        win, loss = sum(gain > margin for gain in gains), sum(gain < -margin for gain in gains)
        return cls(win, len(gains) - win - loss, loss)


def compare_loss(original: "Evaluation", tuned: "Evaluation") -> dict[str, Any]:
    """Compare held-out loss, in nats a label token: both models', and the difference over rows drawn together."""
    labels = [loss.num_labels for loss in tuned.losses]
    pairs = list(zip(original.losses, tuned.losses, strict=True))
    # Of the ratio, not of the rows' means: a long row weighs as much here as in the loss that training reports.
    difference = mean_interval([other.summed - one.summed for one, other in pairs], labels)
    gains = [(one.summed - other.summed) / one.num_labels for one, other in pairs]
    return _record(
        mean_interval([one.summed for one, _ in pairs], labels).estimate,
        mean_interval([other.summed for _, other in pairs], labels).estimate,
        difference,
        better=-1,
        tally=Tally.of(gains, TIE[LOSS]),
    )


def compare_metric(metric: Metric, original: "Evaluation", tuned: "Evaluation") -> dict[str, Any]:
    """Compare both means over the rows a metric applies to, or return the error that kept it from judging."""
    one, other = original.scores[metric.name], tuned.scores[metric.name]
    if one.error or other.error:
        return {"error": one.error or other.error}
    pairs = [
        (before, after)
        for before, after in zip(one.values, other.values, strict=True)
        if before is not None and after is not None
    ]
    if not pairs:
        return {"rows": 0}
    difference = mean_interval([after - before for before, after in pairs])
    gains = [(after - before) * metric.better for before, after in pairs]
    means = [sum(column) / len(pairs) for column in zip(*pairs, strict=True)]
    tally = Tally.of(gains, TIE.get(metric.name, 0.0)) if metric.better else None
    return _record(means[0], means[1], difference, better=metric.better, tally=tally)


def _record(original: float, tuned: float, difference: Interval, *, better: int, tally: Tally | None) -> dict[str, Any]:
    judged = {"verdict": verdict(difference, better), **vars(tally)} if tally else {}
    return {"original": original, "tuned": tuned, "difference": difference.dump(), **judged}


def compare_all(original: "Evaluation", tuned: "Evaluation", metrics: Sequence[Metric]) -> dict[str, dict[str, Any]]:
    """Compare by name the loss, then every metric. Nothing is returned where no row was judged."""
    if not tuned.losses:
        return {}
    by_metric = {metric.name: compare_metric(metric, original, tuned) for metric in metrics}
    return {LOSS: compare_loss(original, tuned), **by_metric}


def regressions(original: "Evaluation", tuned: "Evaluation") -> list[dict[str, Any]]:
    """List the answers that lost at least `REGRESSION_POINTS` of chrF, the worst first."""
    if not tuned.samples or tuned.scores["chrf"].error or original.scores["chrf"].error:
        return []
    found = []
    for row, (before, after) in enumerate(
        zip(original.scores["chrf"].values, tuned.scores["chrf"].values, strict=True)
    ):
        # chrF applies to every row, unlike metrics that may return None.
        assert before is not None
        assert after is not None
        if before - after >= REGRESSION_POINTS:
            sample = tuned.samples[row]
            found.append(
                {
                    "question": sample.question,
                    "reference": sample.reference,
                    "original": original.samples[row].answer,
                    "tuned": sample.answer,
                    "original_chrf": before,
                    "tuned_chrf": after,
                }
            )
    return sorted(found, key=lambda one: one["tuned_chrf"] - one["original_chrf"])


def newly_broken(original: Sequence[Mapping[str, Any]], tuned: Sequence[Mapping[str, Any]]) -> list[str]:
    """List the safety rules that the original kept and the tuned model breaks."""
    return [
        after["rule"] for before, after in zip(original, tuned, strict=True) if before["passed"] and not after["passed"]
    ]


def what_got_worse(result: Mapping[str, Any], own_metrics: Sequence[str] = ()) -> list[str]:
    """Say why `--fail-if-worse` fails: worse beyond chance, or a safety rule newly broken; empty where nothing is.

    >>> what_got_worse({"verdicts": {"chrf": {"verdict": "worse"}}, "safety": {"newly_broken": ["tick"]}})
    ['chrf', 'safety rule tick']
    """
    judged = result["verdicts"]
    worse = [name for name in (*GATED, *own_metrics) if judged.get(name, {}).get("verdict") == "worse"]
    return worse + [f"safety rule {rule}" for rule in result["safety"]["newly_broken"]]
