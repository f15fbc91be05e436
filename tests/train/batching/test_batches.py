"""Every row once per epoch, in the same steps, for any number of ranks."""

from hypothesis import given
from hypothesis import strategies as st

from train.batching.batches import NO_ROW, EpochBatches, deal


def steps(num_rows, batch_size, num_ranks, accumulation, epoch=0):
    """The rows of every optimizer step, over all ranks and micro-batches."""
    per_rank = []
    for rank in range(num_ranks):
        batches = EpochBatches(num_rows, batch_size=batch_size, num_ranks=num_ranks, rank=rank, seed=7)
        batches.set_epoch(epoch)
        per_rank.append(list(batches))
        assert len(per_rank[-1]) == len(batches)
    micro = [[row for rank in ranks for row in rank if row != NO_ROW] for ranks in zip(*per_rank, strict=True)]
    return [sum(micro[start : start + accumulation], []) for start in range(0, len(micro), accumulation)]


@given(num_rows=st.integers(1, 70), epoch=st.integers(0, 3))
def test_any_world_size_takes_the_same_rows_in_every_step(num_rows, epoch):
    plain = steps(num_rows, 8, 1, 1, epoch)
    assert sorted(sum(plain, [])) == list(range(num_rows))
    for batch_size, num_ranks, accumulation in [(4, 2, 1), (2, 4, 1), (2, 2, 2), (1, 4, 2), (4, 1, 2)]:
        assert steps(num_rows, batch_size, num_ranks, accumulation, epoch) == plain


@given(rows=st.lists(st.integers(0, 99), max_size=20), num_ranks=st.integers(1, 6))
def test_deal_shares_out_everything_evenly(rows, num_ranks):
    shares = [deal(rows, num_ranks=num_ranks, rank=rank) for rank in range(num_ranks)]
    real = [[row for row in share if row != NO_ROW] for share in shares]
    assert sum(real, []) == rows
    assert all(shares)
    assert max(map(len, real)) - min(map(len, real)) <= 1


def test_epochs_differ_and_repeat_exactly():
    assert steps(40, 8, 1, 1, epoch=0) != steps(40, 8, 1, 1, epoch=1)
    assert steps(40, 8, 1, 1, epoch=1) == steps(40, 8, 1, 1, epoch=1)
