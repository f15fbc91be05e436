"""Metrics: known values, exact conversions, and a metric of somebody else's that fails."""

import sys

import pytest

from train.failure import ConfigError
from train.generation.scores import METRICS, Metric, Sample, own_metric, score


def sample(answer: str, reference: str = "Lean forward and pinch your nose.", question: str = "?") -> Sample:
    return Sample(question, reference, answer, len(answer.split()), True)


def mean(name: str, one: Sample) -> float | None:
    return score([one])[name].summary()["mean"]


def test_the_reference_itself_is_perfect():
    same = sample("Lean forward and pinch your nose.")
    assert mean("rouge_l", same) == pytest.approx(100)
    assert mean("chrf", same) == pytest.approx(100)


def test_rouge_counts_words_in_order():
    # 3 of 4 words in common, in order, with 6 of the reference: precision 3/4, recall 3/6, F1 0.6
    assert mean("rouge_l", sample("Lean forward pinch hard")) == pytest.approx(60)


def test_worse_answers_score_lower():
    near, far = sample("Lean forward and squeeze your nose."), sample("Workers of the world")
    for name in ("rouge_l", "chrf"):
        assert mean(name, near) > mean(name, far)


def test_a_failing_metric_is_recorded_and_the_others_go_on():
    broken = Metric("broken", lambda one: 1 / 0, 1, "", "")
    not_a_number = Metric("nan", lambda one: float("nan"), 1, "", "")
    found = score([sample("Lean forward.")], [*METRICS, broken, not_a_number])
    assert found["broken"].summary() == {"error": "ZeroDivisionError: division by zero"}
    assert "returned nan" in found["nan"].error
    assert found["chrf"].error is None


def test_own_metric_by_import_path(tmp_path, monkeypatch):
    (tmp_path / "my_metrics.py").write_text(
        'def shouting(sample):\n    "Share of capital letters."\n    return sum(map(str.isupper, sample.answer))\n'
        "shouting.better = -1\nnumber = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    metric = own_metric("my_metrics:shouting")
    assert score([sample("LOUD")], [metric])["my_metrics:shouting"].values == (4.0,)
    assert (metric.better, metric.meaning) == (-1, "Share of capital letters.")
    for path, complaint in [
        ("my_metrics", "package.module:function"),
        ("my_metrics:silence", "cannot be imported"),
        ("no_such_module:x", "cannot be imported"),
        ("my_metrics:number", "not a function"),
    ]:
        with pytest.raises(ConfigError, match=complaint):
            own_metric(path)
    sys.modules.pop("my_metrics")
