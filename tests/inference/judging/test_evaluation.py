"""Numbers of an evaluation, from rows whose losses and scores are known."""

import pytest

from data.schema import Example
from inference.judging.evaluation import Evaluation, loss_interval, mean_loss, metric_record, prompts_sha256
from inference.judging.held_out import HeldOut
from train.generation.row_loss import RowLoss
from train.generation.scores import Sample, Scores


@pytest.fixture
def evaluation():
    topics = ["Knots", None, "Knots"]
    held_out = HeldOut([Example(f"q{n}", "a", topic) for n, topic in enumerate(topics)], [], [], {"rows": 3})
    return Evaluation(
        facts={"name": "m"},
        held_out=held_out,
        losses=[RowLoss(2.0, 2), RowLoss(9.0, 3), RowLoss(4.0, 1)],
        samples=[Sample(f"q{n}", "a", "b", 5, True, topic) for n, topic in enumerate(topics)],
        scores={"mine": Scores((10.0, 20.0, None)), "broken": Scores(error="OSError: no judge")},
        asked=[],
        safety=[],
        timing={"batch_size": 1},
    )


def test_topics_have_their_own_means(evaluation):
    found = evaluation.by_topic()
    assert found == {
        "Knots": {"rows": 2, "loss": 2.0, "mine": 10.0},  # (2 + 4) nats over 3 labels
        "no topic": {"rows": 1, "loss": 3.0, "mine": 20.0},
    }


def test_a_record_has_every_row_with_its_numbers(evaluation):
    record = evaluation.record()
    assert record["loss"]["estimate"] == 15.0 / 6
    assert record["metrics"]["broken"] == {"error": "OSError: no judge"}
    assert [row["loss"] for row in record["answers"]] == [1.0, 3.0, 4.0]
    assert [row["mine"] for row in record["answers"]] == [10.0, 20.0, None]
    assert "broken" not in record["answers"][0]


def test_long_rows_weigh_more_in_the_loss():
    losses = [RowLoss(1.0, 1), RowLoss(0.0, 9)]
    assert mean_loss(losses) == loss_interval(losses).estimate == 0.1


def test_a_metric_that_applies_to_no_row_has_no_interval():
    assert metric_record(Scores((None, None))) == {"mean": None, "rows": 0}
    found = metric_record(Scores((1.0, 3.0)))
    assert (found["mean"], found["rows"], found["estimate"]) == (2.0, 2, 2.0)


def test_prompts_are_told_apart_by_where_one_ends():
    assert prompts_sha256([[1, 2], [3]]) != prompts_sha256([[1], [2, 3]])
    assert prompts_sha256([[1, 2]]) == prompts_sha256(((1, 2),))
