"""Arithmetic and memory of training against numbers worked out by hand."""

import pytest

from train.planning.cost import MicroBatch, ModelShape, Work, caching_flops, memory_bytes, row_work, training_flops

GIGA = 1e9
SMOLLM3 = ModelShape(
    num_layers=36,
    num_cached_layers=34,
    num_backward_layers=2,
    num_trained_layers=2,
    layer_parameters=78_118_912,
    key_value_parameters=2 * 2048 * 512,
    attention_width=2048,
    head_parameters=262_668_288,
    head_trains=True,
    hidden_size=2048,
    intermediate_size=11008,
    vocabulary_size=128_256,
)
"""36 layers of 78.12 M weights, a head of 262.7 M; the last two layers and the head train."""

PREFIX, OWN, LABELS, ROWS_PER_TREE, ROWS = 262, 46, 28, 32, 2560
PLAIN = row_work(PREFIX + OWN, LABELS)
OWN_PAIRS = OWN * PREFIX + OWN**2 / 2
TREE = Work(PREFIX / ROWS_PER_TREE + OWN, PREFIX**2 / 2 / ROWS_PER_TREE + OWN_PAIRS, LABELS)
ONCE = Work(PREFIX / ROWS + OWN, PREFIX**2 / 2 / ROWS + OWN_PAIRS, 0)


@pytest.mark.parametrize(
    ("flops", "gflops"),
    [
        (training_flops(SMOLLM3, PLAIN), 1985),
        (training_flops(SMOLLM3, TREE, labels_only=True), 375),
        (training_flops(SMOLLM3, TREE, from_cache=True, labels_only=True), 83.5),
        (training_flops(SMOLLM3, TREE, from_cache=True), 95.6),
        (caching_flops(SMOLLM3, ONCE), 248.5),
    ],
)
def test_work_of_a_row(flops, gflops):
    assert flops / GIGA == pytest.approx(gflops, rel=2e-3)


def test_a_small_model_by_hand():
    """3 layers of 10 weights, attention 4 wide, a head of 5; 7 tokens, 28 pairs, 2 labels."""
    shape = ModelShape(3, 2, 1, 1, 10, 4, 4, 5, True, 2, 2, 5)
    forward = 2 * 10 * 7 + 4 * 4 * 28
    assert training_flops(shape, row_work(7, 2)) == 2 * forward + 3 * forward + 6 * 5 * 2
    assert training_flops(shape, row_work(7, 2), from_cache=True) == 3 * forward + 6 * 5 * 2
    trimmed = 6 * (4 * 7 + 6 * 2) + 12 * 4 * 28 * 2 / 7
    assert training_flops(shape, row_work(7, 2), from_cache=True, labels_only=True) == trimmed + 6 * 5 * 2


def test_a_trained_embedding_sends_the_backward_pass_through_every_layer_and_checkpointing_computes_twice():
    tied = ModelShape(3, 2, 3, 1, 10, 4, 0, 5, True, 2, 2, 5)
    checkpointed = ModelShape(3, 2, 3, 1, 10, 4, 0, 5, True, 2, 2, 5, recomputes=True)
    product = 2 * 10 * 7
    assert training_flops(tied, row_work(7, 0)) == (2 * 2 + 3) * product
    assert training_flops(checkpointed, row_work(7, 0)) == (2 * 3 + 4) * product


def test_memory_counts_weights_moments_and_what_the_cache_takes_away():
    batch = MicroBatch(tokens=0, labels=0)
    numbers = {"num_parameters": 3_337_000_000, "num_trainable": 418_900_000, "element_bytes": 2}
    whole = memory_bytes(SMOLLM3, batch, **numbers)
    assert whole == (3_337_000_000 - 418_900_000) * 2 + 418_900_000 * (16 + 2)
    assert memory_bytes(SMOLLM3, batch, **numbers, num_ranks=4) - whole == 418_900_000 * 4
    cached = memory_bytes(SMOLLM3, MicroBatch(8192, 1024), **numbers, cached=True)
    assert memory_bytes(SMOLLM3, MicroBatch(8192, 1024), **numbers) - cached == 34 * 78_118_912 * 2
