"""Exact prefix sharing: the rows of a batch become one prefix tree, and a beginning that many share is computed once.

In a causal decoder a token's activations depend on the tokens before it and on nothing else, so rows that begin alike
share the computation of that beginning. The tree's tokens are laid out as one row in depth-first order; token i may
attend to token j exactly when j is its ancestor or itself, which is `j <= i < ends[j]`. Position ids are depths, and
the loss is a list of (position, target, weight): the same sum, and the same gradients, as row by row.

`plan_tree` is the whole idea, in integers; `PrefixSharingCollator` makes tensors of it; `block_mask` is the mask for
flex_attention on a GPU. For which models this would not be exact, `train/fast/when_exact.py` says.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data.render import IGNORE_INDEX, RenderedRow

if TYPE_CHECKING:
    import torch
    from torch.nn.attention.flex_attention import BlockMask

Integers = npt.NDArray[np.int64]

PADDING_ID = 0  # any id of the vocabulary: no real token sees a padding token, and none has a label
FLEX_BLOCK_TOKENS = 128  # flex_attention's own block size


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

    @property
    def num_label_tokens(self) -> int:
        """Labels of all rows together: what the summed loss is divided by."""
        return sum(self.label_weights)

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
    return plan_with_owners(rows)[0]


def plan_with_owners(rows: Sequence[RenderedRow]) -> tuple[PrefixTree, list[int]]:
    """The prefix tree of `rows`, and for each of its tokens the number of a row that has it.

    >>> plan_with_owners([RenderedRow([5, 6, 8], [-100] * 3), RenderedRow([5, 6, 7], [-100] * 3)])[1]
    [1, 1, 1, 0]
    """
    order = sorted(range(len(rows)), key=lambda number: _lexicographic_key(rows[number]))
    layout = _lay_out([np.array(rows[number].input_ids, dtype=np.int64) for number in order])
    labels = _count_labels(layout.paths, [_next_labels(rows[number]) for number in order])
    columns = (layout.ids, layout.depths, layout.ends, *labels)
    tree = PrefixTree(*(tuple(column.tolist()) for column in columns))
    return tree, [order[owner] for owner in layout.owners.tolist()]


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


def _count_labels(paths: Sequence[Integers], next_labels: Sequence[Integers]) -> tuple[Integers, Integers, Integers]:
    """Distinct (position, target) pairs, sorted, and how many rows have each."""
    none = np.zeros(0, dtype=np.int64)
    sources = [path[: len(labels)] for path, labels in zip(paths, next_labels, strict=True)]
    positions, targets = np.concatenate([none, *sources]), np.concatenate([none, *next_labels])
    is_label = targets != IGNORE_INDEX
    stride = targets.max(initial=0) + 1
    pairs, weights = np.unique(positions[is_label] * stride + targets[is_label], return_counts=True)
    return pairs // stride, pairs % stride, weights


# --- tensors ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PrefixSharingCollator:
    """Rows (`input_ids` and `labels`, as lists) -> one batch of shape [1, T], T the tokens of their prefix tree.

    The batch has `input_ids` and `position_ids` [1, T]; `label_positions`, `label_targets`, `label_weights` [L], all
    int64; and for sdpa `attention_mask` [1, 1, T, T], bool, True where a token may attend. With `dense_mask=False`,
    for flex_attention, it has `subtree_ends` [T] in place of that mask: hand it to `block_mask`, on the device.

    T is padded up to a multiple of `pad_to_multiple_of` by tokens that see only themselves and that nothing sees.
    """

    pad_to_multiple_of: int = 1
    dense_mask: bool = True

    def __call__(self, examples: Sequence[Mapping[str, Sequence[int]]]) -> "dict[str, torch.Tensor]":
        """Raises ValueError when the examples have no token at all."""
        return self.with_owners(examples)[0]

    def with_owners(
        self, examples: Sequence[Mapping[str, Sequence[int]]]
    ) -> "tuple[dict[str, torch.Tensor], list[int]]":
        """The batch, and for each of its tokens but the padding the number of an example that has it."""
        import torch

        tree, owners = plan_with_owners([RenderedRow(list(row["input_ids"]), list(row["labels"])) for row in examples])
        if not tree.num_tokens:
            raise ValueError(f"a batch of {len(examples)} rows has no tokens")
        tree = tree.padded(self.pad_to_multiple_of)
        ends = torch.tensor(tree.ends)  # [T]
        batch = {
            "input_ids": torch.tensor([tree.ids]),
            "position_ids": torch.tensor([tree.depths]),
            **({"attention_mask": dense_mask(ends)} if self.dense_mask else {"subtree_ends": ends}),
            "label_positions": torch.tensor(tree.label_positions, dtype=torch.int64),
            "label_targets": torch.tensor(tree.label_targets, dtype=torch.int64),
            "label_weights": torch.tensor(tree.label_weights, dtype=torch.int64),
        }
        return batch, owners


def dense_mask(ends: "torch.Tensor") -> "torch.Tensor":
    """Subtree ends [T] -> which token (row) may attend to which (column): [1, 1, T, T], bool.

    >>> import torch
    >>> dense_mask(torch.tensor([3, 2, 3]))[0, 0].int().tolist()
    [[1, 0, 0], [1, 1, 0], [1, 0, 1]]
    """
    import torch

    position = torch.arange(len(ends), device=ends.device)
    mask: torch.Tensor = (position[:, None] < ends).tril_()
    return mask[None, None]


def mask_mod(
    ends: "torch.Tensor", queries: "torch.Tensor"
) -> "Callable[[Any, Any, torch.Tensor, torch.Tensor], torch.Tensor]":
    """The same mask as `dense_mask`, as the function of (batch, head, query, key) that flex_attention evaluates.

    Query number i is the token at `queries[i]`.
    """

    def may_attend(batch: Any, head: Any, query: "torch.Tensor", key: "torch.Tensor") -> "torch.Tensor":
        position = queries[query]
        return (key <= position) & (position < ends[key])

    return may_attend


def block_mask(
    ends: "torch.Tensor", queries: "torch.Tensor | None" = None, block_tokens: int = FLEX_BLOCK_TOKENS
) -> "BlockMask":
    """Subtree ends [T] and query positions [Q], all by default -> the BlockMask that flex_attention takes for a mask.

    For all tokens it equals torch's `create_block_mask(mask_mod(ends, queries), ...)`, but it is made from the
    smallest and the largest end in each block of keys: `create_block_mask` fills a Q x T mask on the way. For some
    tokens only, blocks in which none may attend can be among the partial ones, which costs time and changes nothing.
    """
    import torch
    from torch.nn.attention.flex_attention import BlockMask

    num_tokens = len(ends)
    queries = torch.arange(num_tokens, device=ends.device) if queries is None else queries
    asking = _in_blocks(queries, block_tokens, padding=num_tokens)  # [query blocks, block_tokens]
    asked = _in_blocks(ends, block_tokens, padding=0)  # [key blocks, block_tokens]
    first, last = asking.amin(1, keepdim=True), asking.amax(1, keepdim=True)  # [query blocks, 1]
    start = torch.arange(len(asked), device=ends.device) * block_tokens  # [key blocks]
    is_full = (start + block_tokens - 1 <= first) & (asked.amin(1) > last)  # [query blocks, key blocks]
    is_partial = (start <= last) & (asked.amax(1) > first) & ~is_full
    return BlockMask.from_kv_blocks(
        *_listed(is_partial),
        *_listed(is_full),
        BLOCK_SIZE=block_tokens,
        mask_mod=mask_mod(ends, queries),
        seq_lengths=(len(queries), num_tokens),
    )


def _in_blocks(values: "torch.Tensor", block_tokens: int, padding: int) -> "torch.Tensor":
    """[n] -> [blocks, block_tokens], the last block filled up with `padding`."""
    import torch

    missing = -len(values) % block_tokens
    return torch.nn.functional.pad(values, (0, missing), value=padding).view(-1, block_tokens)


def _listed(blocks: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
    """Which key blocks each query block has [query blocks, key blocks], as counts [1, 1, queries] and lists of them."""
    import torch

    counts = blocks.sum(1, dtype=torch.int32)
    order = blocks.to(torch.int32).argsort(dim=1, descending=True, stable=True).to(torch.int32)
    return counts[None, None], order[None, None]
