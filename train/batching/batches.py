"""Which rows form which optimizer step, on which rank: pure integers, the same for any world size.

Row order is a seeded permutation per epoch, cut into steps of `effective batch` rows; a step's rows are dealt to
micro-batches and ranks in order. So one process and four, accumulating or not, take the very same rows in every
step. The last step of an epoch is simply smaller: nothing is dropped and nothing repeated. A rank for which it
has no row gets `NO_ROW`, a row without labels, because every rank must take part in every step.
"""

import math
import random
from collections.abc import Iterator

NO_ROW = -1


def epoch_order(num_rows: int, *, seed: int, epoch: int) -> list[int]:
    """Return the order of rows in one epoch.

    >>> epoch_order(5, seed=42, epoch=0)
    [2, 1, 4, 3, 0]
    """
    order = list(range(num_rows))
    # A text, not seed + epoch: that would give epoch 1 of seed 42 the order of epoch 0 of seed 43.
    random.Random(f"{seed}:{epoch}").shuffle(order)
    return order


def deal(rows: list[int], *, num_ranks: int, rank: int) -> list[int]:
    """Return one rank's share of one micro-batch: contiguous, sizes differing by at most one.

    >>> deal([7, 8, 9], num_ranks=2, rank=0), deal([7, 8, 9], num_ranks=2, rank=1), deal([7], num_ranks=2, rank=1)
    ([7, 8], [9], [-1])
    """
    share, extra = divmod(len(rows), num_ranks)
    start = rank * share + min(rank, extra)
    return rows[start : start + share + (rank < extra)] or [NO_ROW]


class EpochBatches:
    """This batch sampler yields one rank's micro-batches of one epoch, as lists of row numbers.

    >>> list(EpochBatches(5, batch_size=2, num_ranks=1, rank=0, seed=42))
    [[2, 1], [4, 3], [0]]
    """

    def __init__(self, num_rows: int, *, batch_size: int, num_ranks: int, rank: int, seed: int) -> None:
        self.num_rows, self.batch_size, self.num_ranks, self.rank, self.seed = (
            num_rows,
            batch_size,
            num_ranks,
            rank,
            seed,
        )
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(self.num_rows / (self.batch_size * self.num_ranks))

    def __iter__(self) -> Iterator[list[int]]:
        order = epoch_order(self.num_rows, seed=self.seed, epoch=self.epoch)
        width = self.batch_size * self.num_ranks
        for start in range(0, self.num_rows, width):
            yield deal(order[start : start + width], num_ranks=self.num_ranks, rank=self.rank)
