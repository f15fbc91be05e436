"""A prefix tree as tensors: what the model is given for a padded batch, which of it each row is, and its masks.

rows [B, T]      5 6 7        the tree [1, N]   5 6 7 8       depths  0 1 2 2
                 5 6 8                          |_|_|  |      a token sees its ancestors and itself
                                                  |____|
what the model says at label positions [L]  --per_row-->  [B, T - 1], as if each row had been computed by itself
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask

from data.render import IGNORE_INDEX, RenderedRow
from train.fast.prefix_tree import plan_rows

FLEX_BLOCK_TOKENS = 128  # flex_attention's own block size


@dataclass(frozen=True)
class TreeBatch:
    """The rows of a padded batch [B, T] as one prefix tree of N tokens and L distinct labels.

    N and L are padded: by tokens that see only themselves and that nothing sees, and by labels that no row has.
    """

    rows: list[RenderedRow]
    """The rows in it, without padding. Those without a label are left out, but for one if there is no other."""

    owners: list[int]
    """For each token but the padding, which of `rows` has it."""

    input_ids: torch.Tensor
    """[1, N]"""

    position_ids: torch.Tensor
    """[1, N]: each token's place in its rows."""

    ends: torch.Tensor
    """[N]: one past the last token of each token's subtree."""

    label_positions: torch.Tensor
    """[L]: the token whose state predicts the label."""

    label_targets: torch.Tensor
    """[L]: the token id that it is to predict."""

    labels_of_rows: torch.Tensor
    """Of every label of every row, one after the other, which of the L it is."""

    places_in_rows: torch.Tensor
    """Of the same labels, where they stand in [B, T - 1], flattened."""

    shape: tuple[int, int]
    """(B, T - 1)"""

    @classmethod
    def of(
        cls, input_ids: torch.Tensor, labels: torch.Tensor, attention_mask: torch.Tensor | None, multiple: int = 1
    ) -> "TreeBatch":
        """Lay out a padded batch, all three [B, T], padded on either side; N and L become multiples of `multiple`.

        The result is on the device of `input_ids`; planning is done on the CPU, which waits for a GPU's batch.

        Raises:
            ValueError: the batch has no token at all.
        """
        device, (num_rows, num_tokens) = input_ids.device, input_ids.shape
        is_token = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        columns = [row.nonzero()[:, 0] for row in is_token.cpu()]
        labelled = (labels[:, 1:] != IGNORE_INDEX).any(1).nonzero()[:, 0].tolist() or [0]
        ids, wanted = input_ids.cpu(), labels.cpu()
        rows = [RenderedRow(ids[row, columns[row]].tolist(), wanted[row, columns[row]].tolist()) for row in labelled]
        plan = plan_rows(rows)
        if not plan.tree.num_tokens:
            raise ValueError(f"a batch of {num_rows} rows has no tokens")
        tree = plan.tree.padded(multiple)
        places = [torch.zeros(0, dtype=torch.int64)]
        for row in labelled:
            # A label stands one place after the state that predicts it; nothing predicts a row's first token.
            is_label = wanted[row, columns[row]][1:] != IGNORE_INDEX
            places.append(row * (num_tokens - 1) + columns[row][1:][is_label] - 1)
        batch = cls(
            rows=rows,
            owners=plan.owners,
            input_ids=torch.tensor([tree.ids]),
            position_ids=torch.tensor([tree.depths]),
            ends=torch.tensor(tree.ends),
            label_positions=torch.tensor(tree.label_positions, dtype=torch.int64),
            label_targets=torch.tensor(tree.label_targets, dtype=torch.int64),
            labels_of_rows=torch.tensor([label for row in plan.row_labels for label in row], dtype=torch.int64),
            places_in_rows=torch.cat(places),
            shape=(num_rows, num_tokens - 1),
        )
        return batch.to(device)

    def to(self, device: torch.device) -> "TreeBatch":
        """The same batch with its tensors on `device`."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items()})

    def per_row(self, values: torch.Tensor) -> torch.Tensor:
        """Values of the L labels [L] -> of every row's labels, in their places: [B, T - 1], 0 where there is none.

        The result is connected to `values` even where no row has a label, so that a backward pass runs.
        """
        flat = values.new_zeros(self.shape[0] * self.shape[1])
        return flat.index_put((self.places_in_rows,), values[self.labels_of_rows]).view(self.shape)


def dense_mask(ends: torch.Tensor) -> torch.Tensor:
    """Subtree ends [T] -> which token (row) may attend to which (column): [1, 1, T, T], bool.

    >>> import torch
    >>> dense_mask(torch.tensor([3, 2, 3]))[0, 0].int().tolist()
    [[1, 0, 0], [1, 1, 0], [1, 0, 1]]
    """
    position = torch.arange(len(ends), device=ends.device)
    mask: torch.Tensor = (position[:, None] < ends).tril_()
    return mask[None, None]


def mask_mod(
    ends: torch.Tensor, queries: torch.Tensor
) -> Callable[[Any, Any, torch.Tensor, torch.Tensor], torch.Tensor]:
    """The same mask as `dense_mask`, as the function of (batch, head, query, key) that flex_attention evaluates.

    Query number i is the token at `queries[i]`.
    """

    def may_attend(batch: Any, head: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        position = queries[query]
        return (key <= position) & (position < ends[key])

    return may_attend


def block_mask(
    ends: torch.Tensor, queries: torch.Tensor | None = None, block_tokens: int = FLEX_BLOCK_TOKENS
) -> BlockMask:
    """Subtree ends [T] and query positions [Q], all by default -> the BlockMask that flex_attention takes for a mask.

    For all tokens it equals torch's `create_block_mask(mask_mod(ends, queries), ...)`, but it is made from the
    smallest and the largest end in each block of keys: `create_block_mask` fills a Q x T mask on the way. For some
    tokens only, blocks in which none may attend can be among the partial ones, which costs time and changes nothing.
    """
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


def _in_blocks(values: torch.Tensor, block_tokens: int, padding: int) -> torch.Tensor:
    """[n] -> [blocks, block_tokens], the last block filled up with `padding`."""
    missing = -len(values) % block_tokens
    return functional.pad(values, (0, missing), value=padding).view(-1, block_tokens)


def _listed(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which key blocks each query block has [query blocks, key blocks], as counts [1, 1, queries] and lists of them."""
    counts = blocks.sum(1, dtype=torch.int32)
    order = blocks.to(torch.int32).argsort(dim=1, descending=True, stable=True).to(torch.int32)
    return counts[None, None], order[None, None]
