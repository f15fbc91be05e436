"""Exact prefix sharing: the rows of a batch become one prefix tree, and a beginning that many share is computed once.

In a causal decoder a token's activations depend on the tokens before it and on nothing else, so rows that begin alike
share the computation of that beginning. The tree's tokens are laid out as one row in depth-first order; token i may
attend to token j exactly when j is its ancestor or itself, which is `j <= i < ends[j]`. Position ids are depths, and
the loss is a list of (position, target, weight): the same sum, and the same gradients, as row by row.

`plan_tree` is the whole idea, in integers and without torch; `train.fast.tree_batch` makes tensors of it. For which
models this would not be exact, `train.fast.when_exact` says.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data.render import IGNORE_INDEX, RenderedRow

Integers = npt.NDArray[np.int64]

PADDING_ID = 0  # any id of the vocabulary: no real token sees a padding token, and none has a label


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """A batch as a prefix tree (a forest where rows begin differently), tokens in depth-first order.

    `ids`, `depths` and `ends` have one entry per token; `ends` is one past the last token of the token's subtree. The
    label triples say: the state at `label_positions[k]` predicts `label_targets[k]` in `label_weights[k]` rows. They
    are sorted and distinct; a position where rows branch occurs with several targets.
    """

    ids: tuple[int, ...]
    depths: tuple[int, ...]
    ends: tuple[int, ...]
    label_positions: tuple[int, ...]
    label_targets: tuple[int, ...]
    label_weights: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        return len(self.ids)

    def padded(self, multiple: int) -> "PrefixTree":
        """With padding up to a multiple of `multiple` tokens: childless roots, each of which sees itself alone.

        Labels are padded alike, by labels of weight 0; a tree without labels stays without.

        >>> tree = plan_tree([RenderedRow([5, 6, 7], [-100, -100, 7])]).padded(4)
        >>> tree.ends, tree.label_weights
        ((3, 3, 3, 4), (1, 0, 0, 0))
        """
        padding = range(self.num_tokens, -(-self.num_tokens // multiple) * multiple)
        no_labels = (0,) * (-len(self.label_weights) % multiple)
        return replace(
            self,
            ids=self.ids + (PADDING_ID,) * len(padding),
            depths=self.depths + (0,) * len(padding),
            ends=self.ends + tuple(position + 1 for position in padding),
            label_positions=self.label_positions + no_labels,
            label_targets=self.label_targets + no_labels,
            label_weights=self.label_weights + no_labels,
        )


def plan_tree(rows: Sequence[RenderedRow]) -> PrefixTree:
    """The prefix tree of `rows`; the same tree for any order of the rows.

    A label at index t of a row is predicted from its index t - 1; one at index 0 is predicted by nothing and left out,
    as in every causal loss.

    >>> plan_tree([RenderedRow([5, 6, 8], [-100, 6, 8]), RenderedRow([5, 6, 7], [-100, 6, 7])])
    PrefixTree(ids=(5, 6, 7, 8), depths=(0, 1, 2, 2), ends=(4, 4, 3, 4),
               label_positions=(0, 1, 1), label_targets=(6, 7, 8), label_weights=(2, 1, 1))

    Raises:
        ValueError: a row has not as many labels as ids, or a label that is neither a token id nor -100.
    """
    return plan_rows(rows).tree


class Plan(NamedTuple):
    """A tree, and how the rows it was planned from lie in it; rows are numbered in the order they were given."""

    tree: PrefixTree
    owners: list[int]
    """For each token of the tree the number of a row that has it."""

    row_labels: list[list[int]]
    """For each row, which label of the tree each of the row's own labels is, in the order of the row."""


def plan_rows(rows: Sequence[RenderedRow]) -> Plan:
    """Plan the prefix tree of `rows` and the way back from it to the rows; raises what `plan_tree` raises.

    >>> plan = plan_rows([RenderedRow([5, 6, 8], [-100, 6, 8]), RenderedRow([5, 6, 7], [-100, 6, 7])])
    >>> plan.owners, plan.row_labels
    ([1, 1, 1, 0], [[0, 2], [0, 1]])
    """
    order = sorted(range(len(rows)), key=lambda number: _lexicographic_key(rows[number]))
    layout = _lay_out([np.array(rows[number].input_ids, dtype=np.int64) for number in order])
    *labels, of_rows = _count_labels(layout.paths, [_next_labels(rows[number]) for number in order])
    columns = (layout.ids, layout.depths, layout.ends, *labels)
    tree = PrefixTree(*(tuple(column.tolist()) for column in columns))
    row_labels = [labels.tolist() for _, labels in sorted(zip(order, of_rows, strict=True), key=lambda pair: pair[0])]
    return Plan(tree, [order[owner] for owner in layout.owners.tolist()], row_labels)


def saving(rows: Sequence[RenderedRow]) -> tuple[int, int]:
    """How many tokens the model computes for `rows`: one by one (without any padding), and as a tree.

    >>> saving([RenderedRow([5, 6, 7], [-100, -100, 7]), RenderedRow([5, 6, 8], [-100, -100, 8])])
    (6, 4)
    """
    return sum(len(row.input_ids) for row in rows), plan_tree(rows).num_tokens


class _Layout(NamedTuple):
    """The tree without labels; `paths[r]` are the tree positions of row r's tokens, from its first to its last.

    `owners` has for each token the first row that has it.
    """

    ids: Integers
    depths: Integers
    ends: Integers
    owners: Integers
    paths: list[Integers]


def _lexicographic_key(row: RenderedRow) -> bytes:
    """Big-endian ids: sorting these bytes sorts the rows token by token, a row before those it is a prefix of."""
    return np.array(row.input_ids, dtype=">u4").tobytes()


def _lay_out(rows: Sequence[Integers]) -> _Layout:
    """Depth-first layout of lexicographically sorted rows: each adds what it does not share with the one before it."""
    ends = np.zeros(sum(map(len, rows)), dtype=np.int64)
    none = np.zeros(0, dtype=np.int64)
    ids, depths, paths = [none], [none], [none]
    previous, num_tokens = none, 0
    for row in rows:
        shared = _common_length(previous, row)
        ends[paths[-1][shared:]] = num_tokens  # the branch that this row leaves ends here
        ids.append(row[shared:])
        depths.append(np.arange(shared, len(row)))
        paths.append(np.concatenate([paths[-1][:shared], num_tokens + np.arange(len(row) - shared)]))
        previous, num_tokens = row, num_tokens + len(row) - shared
    ends[paths[-1]] = num_tokens
    owners = np.repeat(np.arange(len(rows)), [len(new) for new in ids[1:]])
    return _Layout(np.concatenate(ids), np.concatenate(depths), ends[:num_tokens], owners, paths[1:])


def _common_length(one: Integers, other: Integers) -> int:
    length = min(len(one), len(other))
    differing = np.flatnonzero(one[:length] != other[:length])
    return int(differing[0]) if len(differing) else length


def _next_labels(row: RenderedRow) -> Integers:
    """What each token of the row but the last predicts, -100 for nothing."""
    if len(row.labels) != len(row.input_ids):
        raise ValueError(f"a row has {len(row.input_ids)} ids but {len(row.labels)} labels")
    next_labels = np.array(row.labels[1:], dtype=np.int64)
    if np.any((next_labels < 0) & (next_labels != IGNORE_INDEX)):
        raise ValueError(
            f"label {next_labels[next_labels != IGNORE_INDEX].min()} is neither a token id nor {IGNORE_INDEX}"
        )
    return next_labels


def _count_labels(
    paths: Sequence[Integers], next_labels: Sequence[Integers]
) -> tuple[Integers, Integers, Integers, list[Integers]]:
    """Distinct (position, target) pairs, sorted, how many rows have each, and which of them each row has."""
    none = np.zeros(0, dtype=np.int64)
    sources = [path[: len(labels)] for path, labels in zip(paths, next_labels, strict=True)]
    positions, targets = np.concatenate([none, *sources]), np.concatenate([none, *next_labels])
    is_label = targets != IGNORE_INDEX
    stride = targets.max(initial=0) + 1
    pairs, numbers, weights = np.unique(
        positions[is_label] * stride + targets[is_label], return_inverse=True, return_counts=True
    )
    ends_of_rows = np.cumsum([np.count_nonzero(labels != IGNORE_INDEX) for labels in next_labels], dtype=np.int64)
    of_rows = np.split(numbers, ends_of_rows)[:-1]  # what is after the last row's end is empty
    return pairs // stride, pairs % stride, weights, of_rows
