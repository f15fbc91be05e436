"""The last layer, computed only where the loss looks.

Nothing above the last layer mixes tokens, so of its output only the states at label positions are ever used. Its keys
and values are needed of every token; its queries, attention, output projection and MLP of the label positions alone,
in a chat data set one token in ten. The layer is called twice, as it is: once to learn its keys and values, once for
the positions that count, with those keys and values in its cache. So this holds for every architecture whose attention
hands them to transformers' cache; where one does not, its full output is computed and then picked from.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel

from train.fast.tree_attention import masked_at
from train.model.adapt import transformer_layers
from train.model.base import cache_argument

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


class _KeysAndValuesKnown(Exception):  # noqa: N818 - a signal, not an error
    """Ends the first call of the layer, once its attention has handed over keys and values."""


class _KeysAndValues:
    """Stands in for transformers' cache: keeps what is handed over first, and gives that back ever after."""

    def __init__(self) -> None:
        self.kept: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of all tokens [1, heads, T, head_size], whatever tokens `keys` and `values` are of."""
        if self.kept is None:
            self.kept = (keys, values)
            raise _KeysAndValuesKnown
        return self.kept


@contextmanager
def last_layer_at(model: PreTrainedModel, positions: torch.Tensor, mask: "BlockMask | None" = None) -> Iterator[None]:
    """Let the last layer put out its states at `positions` [L] alone: [1, L, hidden_size] in place of [1, T, ...].

    A mask that is a tensor is reduced to the positions here; one that is not must be given as `mask`, [1, 1, L, T].
    """
    layer = transformer_layers(model)[-1]
    layer.forward = _Trimmed(layer, positions, mask)
    try:
        yield
    finally:
        del layer.forward


class _Trimmed:
    def __init__(self, layer: nn.Module, positions: torch.Tensor, mask: "BlockMask | None") -> None:
        self.forward, self.positions, self.mask = layer.forward, positions, mask
        self.cache_argument = cache_argument(self.forward)
        # Recomputing a layer in the backward pass would hand over its keys and values a second time.
        is_recomputed = layer.training and getattr(layer, "gradient_checkpointing", False)
        self.stays_whole = is_recomputed or not len(positions)

    def __call__(self, hidden_states: torch.Tensor, **inputs: Any) -> torch.Tensor:
        """The layer's own signature; `hidden_states` [1, T, hidden_size] -> [1, L, hidden_size]."""
        if self.stays_whole or self.cache_argument is None:
            return self.forward(hidden_states, **inputs)[:, self.positions]
        known = _KeysAndValues()
        inputs[self.cache_argument] = known
        try:
            return self.forward(hidden_states, **inputs)[:, self.positions]  # a layer that hands nothing over
        except _KeysAndValuesKnown:
            return self.forward(hidden_states[:, self.positions], **{n: self._picked(n, v) for n, v in inputs.items()})

    def _picked(self, name: str, value: Any) -> Any:
        """An input of the layer, reduced to the positions: masks by query, rotations and position ids by token."""
        if name == "attention_mask" and value is not None:
            return masked_at(value, self.positions) if self.mask is None else self.mask
        if name == "position_ids" and isinstance(value, torch.Tensor):
            return value[:, self.positions]
        if name == "position_embeddings" and value is not None:
            return tuple(rotation[:, self.positions] for rotation in value)
        return value
