"""Many rows that begin alike: what they share runs through the model once, and its keys and values are not copied.

In a chat data set five sixths of every prompt is the system prompt. Here a batch holds what follows it; every row's
attention reads the keys and values of the shared prefix where they lie, and its own beside them, under one softmax:
the same sums as over the whole row. Where that is not exact for an architecture (`sharing_is_exact`), the prefix is
empty and the model's own attention runs.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer
from transformers.masking_utils import sdpa_mask

from train.fast import when_exact
from train.fast.row_layout import Layout
from train.fast.tree_attention import TREE_ATTENTION
from train.model.base import attention_by, cache_input

SHARED_PREFIX = "shared_prefix"
GROWTH_TOKENS = 64

KeysAndValues = tuple[torch.Tensor, torch.Tensor]
"""Of one layer: two tensors [1, key heads, prefix tokens, head_size]."""

_prefix: ContextVar[Sequence[KeysAndValues]] = ContextVar("prefix", default=())


def sharing_is_exact(model: PreTrainedModel, longest_row_tokens: int) -> bool:
    """Whether this model's attention is the plain one, so that a prefix may be computed apart from its rows."""
    own = model.config._attn_implementation
    attention = "sdpa" if own == TREE_ATTENTION else own
    refused = when_exact.refusal(model.config, attention, longest_row_tokens=longest_row_tokens)
    return refused is None and when_exact.has_plain_logits(model.config)


def num_shared_tokens(model: PreTrainedModel, rows: Sequence[Sequence[int]], most_new_tokens: int = 0) -> int:
    """How many leading tokens all rows share and may be computed once; each row keeps one of its own."""
    longest_row_tokens = max(map(len, rows)) + most_new_tokens
    return Layout.of([list(row) for row in rows]).prefix_tokens if sharing_is_exact(model, longest_row_tokens) else 0


@contextmanager
def shared_prefix(model: PreTrainedModel, prefix: Sequence[int]) -> Iterator[None]:
    """Let the model continue `prefix` in every row of a batch; positions then count from `len(prefix)`."""
    if not prefix:
        yield
        return
    cache = DynamicCache()
    ids = torch.tensor([list(prefix)], device=model.device)
    model.base_model(ids, use_cache=True, **cache_input(model.base_model, cache))
    token = _prefix.set([(layer.keys, layer.values) for layer in cache.layers])
    try:
        with attention_by(model, SHARED_PREFIX):
            yield
    finally:
        _prefix.reset(token)


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention [rows, tokens, heads, head_size] to the prefix and, under the mask, to the rows' own tokens.

    query [rows, heads, tokens, head_size]; key, value [rows, key heads, own tokens, head_size]; mask [rows, 1,
    tokens, own tokens], True where a token may look.
    """
    prefix_key, prefix_value = _prefix.get()[module.layer_idx]
    num_rows, num_heads, num_tokens, head_size = query.shape
    num_key_heads, num_own, num_prefix = key.shape[1], key.shape[2], prefix_key.shape[2]
    scale = head_size**-0.5 if scaling is None else scaling
    query = query.reshape(num_rows, num_key_heads, -1, head_size) * scale  # query heads of a key head side by side
    of_all_rows = query.transpose(0, 1).reshape(num_key_heads, -1, head_size)
    to_prefix = of_all_rows @ prefix_key[0].transpose(1, 2)  # [key heads, rows * heads * tokens, prefix tokens]
    to_prefix = to_prefix.view(num_key_heads, num_rows, -1, num_prefix).transpose(0, 1)
    to_own = query @ key.transpose(2, 3)  # [rows, key heads, heads * tokens, own tokens]
    may_look = _own_mask(attention_mask, num_tokens, num_own, query.device)
    if may_look is not None:
        per_token = to_own.view(num_rows, num_key_heads, -1, num_tokens, num_own)
        to_own = per_token.masked_fill(~may_look[:, :, None], -torch.inf).view_as(to_own)
    weights = torch.cat([to_prefix, to_own], dim=-1).softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    over_prefix, over_own = weights.split([num_prefix, num_own], dim=-1)
    from_prefix = over_prefix.transpose(0, 1).reshape(num_key_heads, -1, num_prefix) @ prefix_value[0]
    from_prefix = from_prefix.view(num_key_heads, num_rows, -1, head_size).transpose(0, 1)
    attended = (from_prefix + over_own @ value).reshape(num_rows, num_heads, num_tokens, head_size)
    return attended.transpose(1, 2).contiguous(), None


def _own_mask(
    attention_mask: torch.Tensor | None, num_tokens: int, num_own: int, device: torch.device
) -> torch.Tensor | None:
    """[rows or 1, 1, tokens, own tokens]; transformers leaves the causal mask out where nothing is padded."""
    if attention_mask is not None or num_tokens == 1:
        return attention_mask
    return torch.ones(num_tokens, num_own, dtype=torch.bool, device=device).tril(num_own - num_tokens)[None, None]


AttentionInterface.register(SHARED_PREFIX, _attend)
AttentionMaskInterface.register(SHARED_PREFIX, sdpa_mask)


class GrowingLayer(DynamicLayer):
    """A layer's cache with room to grow: transformers' own copies all it holds for every new token."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values so far [rows, key heads, tokens, head_size], the new ones at their end."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.room = (key_states[:, :, :0], value_states[:, :, :0])
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        if end > self.room[0].shape[2]:
            self.room = (_with_room(self.keys, key_states, end), _with_room(self.values, value_states, end))
        for room, states in zip(self.room, (key_states, value_states), strict=True):
            room[:, :, start:end] = states
        self.keys, self.values = (room[:, :, :end] for room in self.room)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Go on with these rows alone."""
        self.keys, self.values = self.keys[indices], self.values[indices]
        self.room = (self.keys, self.values)


def _with_room(held: torch.Tensor, like: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """`held`, if anything, at the beginning of a tensor for `num_tokens` tokens and some more."""
    rows, heads, _, head_size = like.shape
    room = like.new_empty(rows, heads, num_tokens + GROWTH_TOKENS, head_size)
    if held.numel():
        room[:, :, : held.shape[2]] = held
    return room


def own_cache(model: PreTrainedModel) -> Cache:
    """An empty cache for the tokens after the prefix; the model's own kind where attention is the model's own."""
    if not _prefix.get():
        return DynamicCache(config=model.config)
    return Cache(layers=[GrowingLayer() for _ in _prefix.get()])
