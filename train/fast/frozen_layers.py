"""The frozen lower layers: what they make of rows, in one pass, and a model that trains without them.

`compute_states` runs the prefix that all rows share once, and every row from where that ends, up to the first trained
layer. `without_trunk` and `injected_states` then let the layers above run alone, from those states.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from train.fast.row_layout import TRUNK_BATCH_TOKENS, Layout
from train.fast.tree_attention import TREE_ATTENTION, takes_tree_attention
from train.model.adapt import transformer_layers
from train.model.base import attention_by, cache_input


def first_trained_layer(model: PreTrainedModel) -> int:
    """Index of the lowest layer with a parameter that trains; the number of layers if only the head does."""
    layers = transformer_layers(model)
    trained = (index for index, layer in enumerate(layers) if any(p.requires_grad for p in layer.parameters()))
    return next(trained, len(layers) - 1)


def trunk_dtype(model: PreTrainedModel) -> torch.dtype:
    return next(transformer_layers(model)[0].parameters()).dtype


@torch.no_grad()
def compute_states(
    model: PreTrainedModel,
    rows: Sequence[Sequence[int]],
    layout: Layout,
    share: range,
    states: torch.Tensor,
    mark: Callable[[], None] = lambda: None,
) -> None:
    """Fill `states` for the shared prefix and for the rows of `share`, in batches of rows of similar length.

    `mark` is called after every batch.
    """
    model.eval()
    with attention_by(model, TREE_ATTENTION) if takes_tree_attention(model) else nullcontext():
        prefix = _prefix_pass(model, rows[0][: layout.prefix_tokens], states)
        for batch in _batches(rows, layout, share):
            own = [torch.tensor(rows[row][layout.prefix_tokens :]) for row in batch]
            ids = nn.utils.rnn.pad_sequence(own, batch_first=True)  # [rows, tokens]
            hidden = _trunk(model, ids, [len(tokens) for tokens in own], prefix, layout.prefix_tokens)
            for number, row in enumerate(batch):
                states[layout.offsets[row] : layout.offsets[row + 1]] = hidden[number, : len(own[number])].cpu()
            mark()


def _batches(rows: Sequence[Sequence[int]], layout: Layout, share: range) -> Iterator[list[int]]:
    """Rows in order of length, as many at a time as TRUNK_BATCH_TOKENS allow."""
    batch: list[int] = []
    for row in sorted(share, key=lambda number: -len(rows[number])):
        longest = len(rows[batch[0] if batch else row]) - layout.prefix_tokens
        if batch and (len(batch) + 1) * longest > TRUNK_BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


class _PrefixCache(DynamicCache):
    """Gives every layer the prefix's keys and values before its own, and keeps none of them: no row goes on."""

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        prefix = self.layers[layer_idx]
        return _after(prefix.keys, keys), _after(prefix.values, values)


def _after(prefix: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Every row's own keys or values [rows, heads, tokens, head_size], with the prefix's [1, ...] before them."""
    return torch.cat([prefix.expand(len(own), -1, -1, -1), own], dim=-2)


def _prefix_pass(model: PreTrainedModel, prefix: Sequence[int], states: torch.Tensor) -> _PrefixCache | None:
    """Run the shared prefix, if there is one, once; keep its states, and its keys and values for the rows."""
    if not prefix:
        return None
    cache = DynamicCache()
    ids = torch.tensor([list(prefix)], device=model.device)
    states[: len(prefix)] = _stopped_forward(
        model, input_ids=ids, use_cache=True, **cache_input(model.base_model, cache)
    )[0].cpu()
    return _PrefixCache([(layer.keys, layer.values) for layer in cache.layers])


def _trunk(
    model: PreTrainedModel, ids: torch.Tensor, lengths: list[int], prefix: _PrefixCache | None, prefix_tokens: int
) -> torch.Tensor:
    """Hidden states [rows, tokens, hidden_size] of rows that all follow the prefix; what is padding is garbage."""
    num_rows, num_tokens = ids.shape
    is_own = torch.arange(num_tokens) < torch.tensor(lengths)[:, None]  # [rows, tokens]
    mask = torch.cat([torch.ones(num_rows, prefix_tokens, dtype=torch.bool), is_own], dim=1)
    return _stopped_forward(
        model,
        input_ids=ids.to(model.device),
        attention_mask=mask.long().to(model.device),
        position_ids=torch.arange(prefix_tokens, prefix_tokens + num_tokens, device=model.device)[None],
        use_cache=prefix is not None,
        **cache_input(model.base_model, prefix),
    )


class _CutReached(Exception):  # noqa: N818 - a signal, not an error
    """Ends a forward pass once the hidden states at the cut are known."""


def _stopped_forward(model: PreTrainedModel, **inputs: Any) -> torch.Tensor:
    """The hidden states that enter the first trained layer; nothing above it runs."""
    captured: list[torch.Tensor] = []

    def capture(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        captured.append(args[0] if args else kwargs["hidden_states"])
        raise _CutReached

    handle = transformer_layers(model)[first_trained_layer(model)].register_forward_pre_hook(capture, with_kwargs=True)
    try:
        model.base_model(**inputs)
    except _CutReached:
        pass
    finally:
        handle.remove()
    return captured[0]


@contextmanager
def injected_states(model: PreTrainedModel, states: torch.Tensor | None) -> Iterator[None]:
    """Let the first trained layer begin from `states` [1, tokens, hidden_size], not from what came up to it."""
    if states is None:
        yield
        return

    def inject(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return ((states, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": states})

    handle = transformer_layers(model)[first_trained_layer(model)].register_forward_pre_hook(inject, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


class PassThrough(nn.Module):
    """Stands where a trunk layer stood: the layers above keep their indices and names."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        for name, value in vars(layer).items():
            if not name.startswith("_"):
                setattr(self, name, value)
        self.stood_in_for = (layer,)  # in a tuple it is no submodule

    def forward(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return hidden_states


@contextmanager
def without_trunk(model: PreTrainedModel) -> Iterator[None]:
    """Take the layers below the cut out of the model, and off its device, while the cache stands in for them."""
    layers, cut = transformer_layers(model), first_trained_layer(model)
    trunk = list(layers[:cut])
    device = model.device
    for index, layer in enumerate(trunk):
        layers[index] = PassThrough(layer)
        layer.to("cpu")
    try:
        yield
    finally:
        for index, layer in enumerate(trunk):
            layers[index] = layer.to(device)


@contextmanager
def with_trunk(model: PreTrainedModel) -> Iterator[None]:
    """Put the layers that the cache stands in for back for a while: to generate, a model needs all of them."""
    layers, device = transformer_layers(model), model.device
    absent = {index: layer for index, layer in enumerate(layers) if isinstance(layer, PassThrough)}
    for index, stand_in in absent.items():
        layers[index] = stand_in.stood_in_for[0].to(device)
    try:
        yield
    finally:
        for index, stand_in in absent.items():
            stand_in.stood_in_for[0].to("cpu")
            layers[index] = stand_in
