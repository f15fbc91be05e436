"""Counts on four rows of ids, made by hand: two tokens are shared by all, the third by two."""

import pytest

from data.render import RenderedRow
from train.batching.tokenise import TokenisedRows, TrainingData
from train.config.run_config import resolve_config
from train.planning.cost import ModelShape, Work, training_flops
from train.planning.count_work import data_work, job_of

IDS = ([1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 6], [1, 2, 7])
SHAPE = ModelShape(3, 2, 1, 1, 10, 4, 4, 5, True, 2, 2, 5)


@pytest.fixture
def work():
    rows = [RenderedRow(ids, [-100] * (len(ids) - 1) + ids[-1:]) for ids in IDS]
    data = TrainingData(TokenisedRows(rows[:3], 0, 0), TokenisedRows(rows[3:], 0, 0), "", [], {})
    return data_work(resolve_config("smoke", ["optim.batch_size=3"], {}).config, data, 1, 3)


def test_means_per_training_row(work):
    assert (work.num_rows, work.prefix_tokens) == (3, 2)
    assert work.plain_row == Work(pytest.approx(11 / 3), pytest.approx((10 + 10 + 6) / 3), 1)
    # One tree of 1-2-(3-(4, 5), 6): six tokens; 1 is seen by 6, 2 by 5, 3 by 3, each leaf by itself.
    assert work.tree_row == Work(2, pytest.approx((6 + 5 + 3 + 3) / 3), 1)


def test_the_cache_takes_the_validation_rows_too(work):
    # The prefix once (2 tokens, 3 pairs), then 2 + 2 + 1 + 1 tokens that see it and themselves.
    assert work.cached == Work(8, 3 + 2 * (2 * 2 + 3) + 2 * (2 + 1), 0)


def test_the_largest_batch_is_padded_where_rows_are_not_shared(work):
    assert (work.plain_batch.tokens, work.plain_batch.labels) == (12, 3)
    assert (work.tree_batch.tokens, work.tree_batch.labels) == (6, 3)
    assert work.largest_batch("plain") is work.plain_batch
    assert work.largest_batch("sharing + cache") is work.tree_batch


def test_a_job_counts_what_its_path_computes(work):
    config = resolve_config("smoke", ["optim.epochs=2"], {}).config
    plain, cached = (job_of(config, SHAPE, work, path, 50, in_bf16=False) for path in ("plain", "sharing + cache"))
    assert plain.flops_per_row == training_flops(SHAPE, work.plain_row)
    assert cached.flops_per_row == training_flops(SHAPE, work.tree_row, from_cache=True, labels_only=True)
    assert (plain.num_steps, plain.once_flops, plain.gradient_bytes) == (2, 0, 200)
    assert cached.once_bytes == 8 * 2 * 4
