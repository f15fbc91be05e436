"""How many tokens, attention pairs and labels a run computes, counted on its real rows. No torch."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from data.render import RenderedRow
from train.batching.batches import NO_ROW, EpochBatches
from train.batching.tokenise import TrainingData
from train.config.run_config import RunConfig
from train.fast.prefix_tree import plan_tree
from train.fast.row_layout import Layout
from train.fast.when_exact import PathName
from train.planning.cost import FP32_BYTES, MicroBatch, ModelShape, Work, caching_flops, row_work, training_flops
from train.planning.predict import BF16_BYTES, Job, gradient_bytes

SAMPLED_BATCHES = 32
"""Micro-batches whose prefix trees are planned; the others are taken to be alike."""


@dataclass(frozen=True)
class DataWork:
    """Holds means per training row, plain and with shared prefixes, and all that the activation cache computes."""

    num_rows: int
    prefix_tokens: int
    """Shared by all rows, those of the validation set too."""
    effective_batch_rows: int
    plain_row: Work
    tree_row: Work
    cached: Work
    plain_batch: MicroBatch
    tree_batch: MicroBatch

    def largest_batch(self, path: PathName) -> MicroBatch:
        return self.plain_batch if path == "plain" else self.tree_batch


def data_work(config: RunConfig, data: TrainingData, num_ranks: int, effective_batch_rows: int) -> DataWork:
    """Count the work of `num_ranks` ranks that share steps of `effective_batch_rows`."""
    rows = data.train.rows
    batch_size = min(config.micro_batch_rows, -(-effective_batch_rows // num_ranks))
    batches = [
        [rows[number] for number in batch if number != NO_ROW]
        for batch in itertools.islice(
            EpochBatches(len(rows), batch_size=batch_size, num_ranks=num_ranks, rank=0, seed=config.seed),
            SAMPLED_BATCHES,
        )
    ]
    trees = [tree_work(batch) for batch in batches]
    layout = Layout.of([row.input_ids for row in [*rows, *data.validation.rows]])
    num_sampled = sum(map(len, batches))
    return DataWork(
        num_rows=len(rows),
        prefix_tokens=layout.prefix_tokens,
        effective_batch_rows=effective_batch_rows,
        plain_row=total([row_work(len(row.input_ids), row.num_label_tokens) for row in rows]).of(1 / len(rows)),
        tree_row=total(trees).of(1 / num_sampled),
        cached=cached_work(layout),
        plain_batch=MicroBatch(
            max(len(batch) * max(len(row.input_ids) for row in batch) for batch in batches),
            max(sum(row.num_label_tokens for row in batch) for batch in batches),
        ),
        tree_batch=MicroBatch(max(tree.tokens for tree in trees), max(tree.labels for tree in trees)),
    )


def total(works: Sequence[Work]) -> Work:
    """Add everything up."""
    return Work(*(sum(getattr(work, name) for work in works) for name in ("tokens", "pairs", "labels")))


def tree_work(rows: Sequence[RenderedRow]) -> Work:
    """Count a batch as a prefix tree: each token is seen by itself and by its descendants.

    >>> tree_work([RenderedRow([5, 6, 7], [-100, -100, 7]), RenderedRow([5, 6, 8], [-100, -100, 8])])
    Work(tokens=4, pairs=9, labels=2)
    """
    tree = plan_tree(rows)
    pairs = sum(end - position for position, end in enumerate(tree.ends))
    return Work(tree.num_tokens, pairs, len(tree.label_positions))


def cached_work(layout: Layout) -> Work:
    """Count one pass over all rows, the prefix that every row shares computed once.

    >>> cached_work(Layout.of([[1, 2, 3], [1, 2, 4, 5]]))
    Work(tokens=5, pairs=13.0, labels=0)
    """
    prefix = layout.prefix_tokens
    own = [end - start for start, end in itertools.pairwise(layout.offsets)]
    pairs = prefix * (prefix + 1) / 2 + sum(tokens * prefix + tokens * (tokens + 1) / 2 for tokens in own)
    return Work(layout.num_tokens, pairs, 0)


def job_of(
    config: RunConfig, shape: ModelShape, work: DataWork, path: PathName, num_trainable: int, *, in_bf16: bool
) -> Job:
    """Return the run as a job for `train.planning.predict.predict`."""
    cached = path == "sharing + cache"
    per_row = work.plain_row if path == "plain" else work.tree_row
    state_bytes = shape.hidden_size * (BF16_BYTES if in_bf16 else FP32_BYTES)
    return Job(
        path=path,
        num_rows=work.num_rows,
        num_epochs=config.optim.epochs,
        effective_batch_rows=work.effective_batch_rows,
        flops_per_row=training_flops(shape, per_row, from_cache=cached, labels_only=path != "plain"),
        num_trainable=num_trainable,
        gradient_bytes=gradient_bytes(num_trainable, config.distributed.gradient_compression),
        in_bf16=in_bf16,
        once_flops=caching_flops(shape, work.cached) if cached else 0.0,
        once_bytes=work.cached.tokens * state_bytes if cached else 0.0,
    )
