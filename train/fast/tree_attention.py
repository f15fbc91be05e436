"""Attention within a prefix tree on a CPU: of a block of tokens, to those alone that some token of the block may see.

A tree's mask [T, T] is mostly empty: a token sees the beginning it shares and its own row. Under a dense mask every one
of the T x T products is computed, for 32 rows as much work as all else in a layer. In depth-first order the tokens a
block may see are few: its ancestors and the block itself. The sums are those under the dense mask, without the
terms that are zero. On a GPU flex_attention does this.
"""

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

TREE_ATTENTION = "tree"
BLOCK_TOKENS = 256
"""Smaller blocks compute less and start more kernels; 128 to 256 made no difference."""


class Block(NamedTuple):
    """Queries side by side, and the keys that any of them may see."""

    queries: slice
    keys: torch.Tensor
    """Their positions, ascending [keys]."""

    mask: torch.Tensor
    """Which query may see which of them [queries, keys], bool."""


def takes_tree_attention(model: PreTrainedModel) -> bool:
    """Whether TREE_ATTENTION can stand in for the model's own."""
    return bool(model.config._attn_implementation == "sdpa" and model.device.type == "cpu")


def blocks_of(mask: torch.Tensor, block_tokens: int) -> list[Block]:
    """The blocks of a mask [queries, T], bool, True where the query of the row may see the token of the column.

    >>> mask = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]]).bool()
    >>> [block.keys.tolist() for block in blocks_of(mask, block_tokens=2)]
    [[0, 1], [0, 2, 3]]
    """
    found = []
    for start in range(0, len(mask), block_tokens):
        rows = mask[start : start + block_tokens]
        keys = rows.any(0).nonzero()[:, 0]
        found.append(Block(slice(start, start + len(rows)), keys, rows[:, keys]))
    return found


def with_blocks(mask: torch.Tensor) -> torch.Tensor:
    """This mask [1, 1, queries, T], telling TREE_ATTENTION its blocks.

    They go with the mask itself, as a layer that is computed again in the backward pass is handed the same one.
    """
    mask.tree_blocks = blocks_of(mask[0, 0], BLOCK_TOKENS)
    return mask


def masked_at(mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """The rows of `mask` [1, 1, T, T] for the queries at `positions` [L] alone, in blocks if it is: [1, 1, L, T]."""
    picked = mask[:, :, positions]
    return with_blocks(picked) if hasattr(mask, "tree_blocks") else picked


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention [rows, T, heads, head_size] of `query` [rows, heads, T, head_size] to keys of as many heads, or fewer.

    Under a mask without blocks (one of padded rows, none) it is torch's own. transformers' copies keys and values for
    every query head where there is a mask, because CUDA's kernels want that.
    """
    blocks = getattr(attention_mask, "tree_blocks", None)
    if blocks is None:
        return _sdpa(query, key, value, attention_mask, scaling).transpose(1, 2).contiguous(), None
    attended = [
        _sdpa(query[:, :, block.queries], key[:, :, block.keys], value[:, :, block.keys], block.mask, scaling)
        for block in blocks
    ]
    return torch.cat(attended, dim=2).transpose(1, 2).contiguous(), None


def _sdpa(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scaling: float | None
) -> torch.Tensor:
    is_causal = mask is None and query.shape[2] > 1
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=is_causal, scale=scaling, enable_gqa=True
    )


AttentionInterface.register(TREE_ATTENTION, _attend)
AttentionMaskInterface.register(TREE_ATTENTION, sdpa_mask)
