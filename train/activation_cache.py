"""Hidden states entering the first trained layer, computed once and kept in a memory-mapped file.

The layers below the first trained one never change, so what they make of a row is a constant of the run. It is
computed once, the prefix that all rows share only once for all of them, and kept under a key made of everything it
depends on: token ids, weights, precision, attention, the cut. Training then runs the layers above the cut alone.
"""

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from filelock import FileLock
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from data.render import RenderedRow
from data.tokenizer import cache_dir
from train.adapt import transformer_layers
from train.artifacts import flush_folder, sha256_of, write_json
from train.config import AdaptConfig
from train.distributed import Ranks

STATES, META = "states.bin", "meta.json"
TRUNK_BATCH_TOKENS = 4096
EXCHANGE_BYTES = 64 * 2**20


def first_trained_layer(model: PreTrainedModel) -> int:
    """Index of the lowest layer with a parameter that trains; the number of layers if only the head does."""
    layers = transformer_layers(model)
    trained = (index for index, layer in enumerate(layers) if any(p.requires_grad for p in layer.parameters()))
    return next(trained, len(layers) - 1)


def refusal(model: PreTrainedModel, config: AdaptConfig) -> str | None:
    """Why what the lower layers compute is not a constant of this run, or None."""
    if first_trained_layer(model) == 0:
        return "the lowest layer trains"
    if model.get_input_embeddings().weight.requires_grad:
        return f"the input embedding trains (adapt.layers={config.layers}, adapt.head={config.head})"
    settings = model.config.get_text_config().to_dict()
    dropouts = [name for name, value in settings.items() if "drop" in name and isinstance(value, float) and value > 0]
    return f"dropout below the cut ({', '.join(dropouts)})" if dropouts else None


@dataclass(frozen=True)
class Layout:
    """Where each row's states lie in the file: first the shared prefix, then every row's own tokens, in order.

    >>> layout = Layout.of([[1, 2, 3], [1, 2, 4, 5]])
    >>> layout.prefix_tokens, layout.offsets
    (2, (2, 3, 5))
    """

    prefix_tokens: int
    offsets: tuple[int, ...]
    """Start of each row's own tokens; one more than there are rows, the last being the total number of tokens."""

    @classmethod
    def of(cls, rows: Sequence[list[int]]) -> "Layout":
        first, last = min(rows), max(rows)  # what these two share, all share
        differing = (number for number, (one, other) in enumerate(zip(first, last, strict=False)) if one != other)
        # Every row keeps at least its last token as its own, so that no row is empty.
        prefix_tokens = min(next(differing, len(first)), min(map(len, rows)) - 1)
        offsets = [prefix_tokens]
        for row in rows:
            offsets.append(offsets[-1] + len(row) - prefix_tokens)
        return cls(prefix_tokens, tuple(offsets))

    @property
    def num_tokens(self) -> int:
        return self.offsets[-1]

    def index(self, row: int, depth: int) -> int:
        """Place of the state of token `depth` of row `row`."""
        return depth if depth < self.prefix_tokens else self.offsets[row] + depth - self.prefix_tokens

    def shares(self, num_ranks: int) -> list[range]:
        """Rows for each rank to compute: contiguous, with about equally many tokens.

        >>> Layout.of([[1, 2], [1, 3], [1, 4], [1, 5]]).shares(2)
        [range(0, 2), range(2, 4)]
        """
        own = self.num_tokens - self.prefix_tokens
        bounds, row = [0], 0
        for rank in range(1, num_ranks):
            while self.offsets[row] - self.prefix_tokens < own * rank / num_ranks:
                row += 1
            bounds.append(row)
        bounds.append(len(self.offsets) - 1)
        return [range(start, end) for start, end in itertools.pairwise(bounds)]


class ActivationCache:
    """The file, opened: states [num_tokens, hidden_size], read from disk as needed."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        self.folder, self.layout = folder, layout
        self.states = _map(folder / STATES, layout.num_tokens, meta["hidden_size"], getattr(torch, meta["dtype"]))

    def gather(self, rows: Sequence[int], depths: Sequence[int]) -> torch.Tensor:
        """States [tokens, hidden_size] of token `depths[i]` of row `rows[i]`."""
        return self.states[[self.layout.index(row, depth) for row, depth in zip(rows, depths, strict=True)]]


def _map(path: Path, num_tokens: int, hidden_size: int, dtype: torch.dtype, *, write: bool = False) -> torch.Tensor:
    size = num_tokens * hidden_size
    return torch.from_file(str(path), shared=write, size=size, dtype=dtype).view(num_tokens, hidden_size)


def cache_key(rows: Sequence[RenderedRow], model: PreTrainedModel, model_fingerprint: str) -> str:
    """Hash of all that the states depend on."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row.input_ids).encode())
    facts = {
        "model": model_fingerprint,
        "cut": first_trained_layer(model),
        "dtype": str(trunk_dtype(model)),
        "attention": model.config._attn_implementation,
        "torch": torch.__version__,
    }
    digest.update(json.dumps(facts, sort_keys=True).encode())
    return digest.hexdigest()[:32]


def trunk_dtype(model: PreTrainedModel) -> torch.dtype:
    return next(transformer_layers(model)[0].parameters()).dtype


def open_or_build(
    model: PreTrainedModel, rows: Sequence[RenderedRow], model_fingerprint: str, ranks: Ranks
) -> tuple[ActivationCache, bool]:
    """The cache of these rows, and whether it was there already. Every rank calls this; each computes its share."""
    layout = Layout.of([row.input_ids for row in rows])
    folder = cache_dir() / "activations" / cache_key(rows, model, model_fingerprint)
    if ranks.all_true(is_valid(folder)):
        return ActivationCache(folder, layout), True
    _build(model, rows, layout, folder, ranks)
    return ActivationCache(folder, layout), False


def is_valid(folder: Path) -> bool:
    """Whether a cache is complete and holds what was written: the checksum of every byte agrees."""
    if not (folder / META).is_file() or not (folder / STATES).is_file():
        return False
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(meta, dict) and meta.get("sha256") == sha256_of(folder / STATES)


def _build(model: PreTrainedModel, rows: Sequence[RenderedRow], layout: Layout, folder: Path, ranks: Ranks) -> None:
    """1. each rank computes its share, 2. all exchange, 3. one rank per machine puts the file in place, 4. all wait."""
    topology = ranks.topology
    aside = folder.with_name(f".{folder.name}.{os.uname().nodename}.{os.getpid()}")
    aside.mkdir(parents=True)
    try:
        hidden_size = model.config.get_text_config().hidden_size
        states = _map(aside / STATES, layout.num_tokens, hidden_size, trunk_dtype(model), write=True)
        shares = layout.shares(topology.world_size)
        compute_states(model, [row.input_ids for row in rows], layout, shares[topology.rank], states)
        if topology.world_size > 1:
            _exchange(states, layout, shares, topology.rank)
        if topology.local_rank == 0:
            meta = {"hidden_size": hidden_size, "dtype": str(states.dtype).removeprefix("torch.")}
            _put_in_place(aside, folder, meta)
        if topology.world_size > 1:
            dist.barrier()
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _put_in_place(aside: Path, folder: Path, meta: dict[str, Any]) -> None:
    """Publish a finished cache; an invalid one of the same key makes way, a valid one (another process's) stays."""
    write_json(aside / META, {**meta, "sha256": sha256_of(aside / STATES)})
    flush_folder(aside)
    with FileLock(f"{folder}.lock"):
        if not is_valid(folder):
            shutil.rmtree(folder, ignore_errors=True)
            aside.rename(folder)


def _exchange(states: torch.Tensor, layout: Layout, shares: Sequence[range], rank: int) -> None:
    """Every rank sends its rows' states to all others, in bounded pieces; afterwards all files are complete."""
    num_tokens = max(1, EXCHANGE_BYTES // (states.shape[1] * states.element_size()))
    for source, share in enumerate(shares):
        start, end = layout.offsets[share.start], layout.offsets[share.stop]
        for begin in range(start, end, num_tokens):
            piece = states[begin : min(begin + num_tokens, end)]
            sent = piece.clone()
            dist.broadcast(sent, src=source)
            if source != rank:
                piece.copy_(sent)


@torch.no_grad()
def compute_states(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], layout: Layout, share: range, states: torch.Tensor
) -> None:
    """Fill `states` for the shared prefix and for the rows of `share`, in batches of rows of similar length."""
    model.eval()
    with _grouped_attention(model):
        prefix = _prefix_pass(model, rows[0][: layout.prefix_tokens], states)
        for batch in _batches(rows, layout, share):
            own = [torch.tensor(rows[row][layout.prefix_tokens :]) for row in batch]
            ids = nn.utils.rnn.pad_sequence(own, batch_first=True)  # [rows, tokens]
            hidden = _trunk(model, ids, [len(tokens) for tokens in own], prefix, layout.prefix_tokens)
            for number, row in enumerate(batch):
                states[layout.offsets[row] : layout.offsets[row + 1]] = hidden[number, : len(own[number])].cpu()


@contextmanager
def _grouped_attention(model: PreTrainedModel) -> Iterator[None]:
    """On a CPU, let attention read keys and values of few heads as they are.

    transformers' sdpa copies them for every query head where there is a mask, because CUDA's kernels want that. Here
    every row of a batch has the prefix's keys and values, and those copies took a fifth of the whole pass.
    """
    configured = model.config._attn_implementation
    if configured != "sdpa" or model.device.type != "cpu":
        yield
        return
    model.set_attn_implementation(GROUPED_SDPA)
    try:
        yield
    finally:
        model.set_attn_implementation(configured)


def _grouped_sdpa(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention [rows, tokens, heads, head_size] of `query` [rows, heads, tokens, head_size] to fewer key heads."""
    is_causal = attention_mask is None and query.shape[2] > 1
    attended = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, is_causal=is_causal, scale=scaling, enable_gqa=True
    )
    return attended.transpose(1, 2).contiguous(), None


GROUPED_SDPA = "grouped_sdpa"
AttentionInterface.register(GROUPED_SDPA, _grouped_sdpa)
AttentionMaskInterface.register(GROUPED_SDPA, sdpa_mask)


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


KeysAndValues = list[tuple[torch.Tensor, torch.Tensor]]


def _prefix_pass(model: PreTrainedModel, prefix: Sequence[int], states: torch.Tensor) -> KeysAndValues:
    """Run the shared prefix once; keep its states, and its keys and values for the rows that go on from it."""
    if not prefix:
        return []
    cache = DynamicCache()
    ids = torch.tensor([list(prefix)], device=model.device)
    states[: len(prefix)] = _stopped_forward(model, input_ids=ids, past_key_values=cache, use_cache=True)[0].cpu()
    return [(layer.keys, layer.values) for layer in cache.layers]


def _trunk(
    model: PreTrainedModel, ids: torch.Tensor, lengths: list[int], prefix: KeysAndValues, prefix_tokens: int
) -> torch.Tensor:
    """Hidden states [rows, tokens, hidden_size] of rows that all follow the prefix; what is padding is garbage."""
    num_rows, num_tokens = ids.shape
    cache = DynamicCache([(k.expand(num_rows, -1, -1, -1), v.expand(num_rows, -1, -1, -1)) for k, v in prefix])
    is_own = torch.arange(num_tokens) < torch.tensor(lengths)[:, None]  # [rows, tokens]
    mask = torch.cat([torch.ones(num_rows, prefix_tokens, dtype=torch.bool), is_own], dim=1)
    return _stopped_forward(
        model,
        input_ids=ids.to(model.device),
        attention_mask=mask.long().to(model.device),
        position_ids=torch.arange(prefix_tokens, prefix_tokens + num_tokens, device=model.device)[None],
        past_key_values=cache,
        use_cache=True,
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
