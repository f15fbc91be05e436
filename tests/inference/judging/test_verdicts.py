"""Differences, intervals and tallies of known rows: what is better, worse, or nothing."""

import pytest

from inference.judging.evaluation import Evaluation
from inference.judging.held_out import HeldOut
from inference.judging.verdicts import compare_all, newly_broken, regressions, what_got_worse
from train.generation.row_loss import RowLoss
from train.generation.scores import METRICS, Metric, Sample, Scores, score

CHRF = [metric for metric in METRICS if metric.name == "chrf"]
REFERENCE = "Lean forward and pinch the soft part of your nose."


def evaluation(answers: list[str], losses: list[float], metrics=CHRF) -> Evaluation:
    samples = [Sample(f"question {n}", REFERENCE, answer, 5, True, "first aid") for n, answer in enumerate(answers)]
    return Evaluation(
        facts={},
        held_out=HeldOut.nothing(),
        losses=[RowLoss(10 * loss, 10) for loss in losses],
        samples=samples,
        scores=score(samples, metrics),
        asked=[],
        safety=[],
        timing={},
    )


GOOD, BAD = REFERENCE, "workers workers workers"


def test_a_model_with_itself_makes_no_difference():
    one = evaluation([GOOD, BAD, GOOD], [1.0, 2.0, 3.0])
    found = compare_all(one, one, CHRF)
    for judged in found.values():
        assert judged["verdict"] == "no difference"
        assert judged["difference"] == {"estimate": 0.0, "low": 0.0, "high": 0.0}
        assert (judged["win"], judged["tie"], judged["loss"]) == (0, 3, 0)


def test_better_and_worse_in_both_directions():
    original, tuned = evaluation([BAD] * 6, [2.0] * 6), evaluation([GOOD] * 6, [1.0] * 6)
    up, down = compare_all(original, tuned, CHRF), compare_all(tuned, original, CHRF)
    assert {judged["verdict"] for judged in up.values()} == {"better"}
    assert {judged["verdict"] for judged in down.values()} == {"worse"}
    assert up["loss"]["difference"]["estimate"] == pytest.approx(-1.0)
    assert (up["chrf"]["win"], down["chrf"]["loss"]) == (6, 6)


def test_few_rows_that_disagree_decide_nothing():
    original, tuned = evaluation([BAD, GOOD, BAD], [2.0, 1.0, 2.0]), evaluation([GOOD, BAD, BAD], [1.0, 2.0, 2.0])
    found = compare_all(original, tuned, CHRF)
    assert {judged["verdict"] for judged in found.values()} == {"no difference"}
    assert (found["chrf"]["win"], found["chrf"]["tie"], found["chrf"]["loss"]) == (1, 1, 1)


def test_regressions_are_listed_the_worst_first():
    original = evaluation([GOOD, GOOD, BAD], [1.0] * 3)
    tuned = evaluation(["Lean forward and pinch it.", BAD, GOOD], [1.0] * 3)
    assert [one["question"] for one in regressions(original, tuned)] == ["question 1", "question 0"]
    assert regressions(original, original) == []


def test_gate_looks_at_verdicts_rules_and_own_metrics():
    verdicts = {"chrf": {"verdict": "worse"}, "repetition": {"verdict": "worse"}, "loss": {"verdict": "better"}}
    result = {"verdicts": {**verdicts, "mine": {"verdict": "worse"}}, "safety": {"newly_broken": []}}
    assert what_got_worse(result) == ["chrf"]
    assert what_got_worse(result, ["mine"]) == ["chrf", "mine"]
    assert newly_broken([{"passed": True}], [{"passed": False, "rule": "a"}]) == ["a"]
    assert newly_broken([{"passed": False}], [{"passed": False, "rule": "a"}]) == []


def test_a_metric_that_failed_for_one_model_judges_nothing():
    mine = Metric("mine", lambda sample: None, 1, "", "")
    one, other = evaluation([GOOD], [1.0], [mine]), evaluation([GOOD], [1.0], [mine])
    assert compare_all(one, other, [mine])["mine"] == {"rows": 0}
    other.scores["mine"] = Scores(error="ValueError: no")
    assert compare_all(one, other, [mine])["mine"] == {"error": "ValueError: no"}
