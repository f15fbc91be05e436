"""Hidden states entering the first trained layer, computed once and kept in a memory-mapped file.

The layers below the first trained one never change, so what they make of a row is a constant of the run. It is
computed once, the prefix that all rows share only once for all of them, and kept under a key made of everything it
depends on: token ids, weights, precision, attention, the cut. Training then runs the layers above the cut alone.
"""

import hashlib
import json
import os
import shutil
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from filelock import FileLock
from torch.nn import functional
from transformers import PreTrainedModel

from data.files import flush_folder, sha256_of, write_json
from data.model_files import cache_dir
from data.render import RenderedRow
from train.config.run_config import AdaptConfig
from train.distributed.group import Ranks
from train.fast.frozen_layers import compute_states, first_trained_layer, trunk_dtype
from train.fast.row_layout import Layout
from train.fast.tree_batch import TreeBatch
from train.run_folder.retries import reserve

NO_ROOM = "Free space there, name another folder in CACHE_DIR, or set speed.activation_cache=off."
STATES, META = "states.bin", "meta.json"
EXCHANGE_BYTES = 64 * 2**20

KEPT_BYTES = 20 * 2**30
"""Of all caches together; those not used for the longest time go first, when a new one is put in place."""

ABANDONED_SECONDS = 24 * 3600
"""After this a half-built cache counts as left behind by a process that was killed."""


def refusal(model: PreTrainedModel, config: AdaptConfig) -> str | None:
    """Why what the lower layers compute is not a constant of this run, or None; noise refuses sharing already."""
    if first_trained_layer(model) == 0:
        return "the lowest layer trains"
    if model.get_input_embeddings().weight.requires_grad:
        return f"the input embedding trains (adapt.layers={config.layers}, adapt.head={config.head})"
    return None


class ActivationCache:
    """The file, opened: states [num_tokens, hidden_size], read from disk as needed.

    A row is known by its token ids, whatever batch, order or data loader it comes in.
    """

    def __init__(self, folder: Path, rows: Sequence[RenderedRow]) -> None:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        self.folder, self.layout = folder, Layout.of([row.input_ids for row in rows])
        self.numbers = {_digest(row): number for number, row in enumerate(rows)}
        self.states = _map(folder / STATES, self.layout.num_tokens, meta["hidden_size"], getattr(torch, meta["dtype"]))

    def gather(self, rows: Sequence[int], depths: Sequence[int]) -> torch.Tensor:
        """States [tokens, hidden_size] of token `depths[i]` of row `rows[i]`."""
        return self.states[[self.layout.index(row, depth) for row, depth in zip(rows, depths, strict=True)]]

    def of_tree(self, tree: TreeBatch) -> torch.Tensor:
        """What enters the first trained layer for a tree of N tokens, 0 for padding: [1, N, hidden_size].

        A tree without labels, of a rank that has no row in a step, has no gradient whatever its states: it gets zeros.
        """
        num_padded = tree.input_ids.shape[1]
        if not tree.labels_of_rows.numel():
            return self.states.new_zeros(1, num_padded, self.states.shape[1])
        numbers = [self.numbers[_digest(row)] for row in tree.rows]
        num_tokens = len(tree.owners)
        states = self.gather([numbers[owner] for owner in tree.owners], tree.position_ids[0, :num_tokens].tolist())
        return functional.pad(states, (0, 0, 0, num_padded - num_tokens))[None]


def _digest(row: RenderedRow) -> bytes:
    """A row's token ids in 16 bytes: a million rows of them fit in memory, which their ids do not."""
    return hashlib.blake2b(array("q", row.input_ids).tobytes(), digest_size=16).digest()


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


def open_or_build(
    model: PreTrainedModel, rows: Sequence[RenderedRow], model_fingerprint: str, ranks: Ranks
) -> tuple[ActivationCache, bool]:
    """The cache of these rows, and whether it was there already. Every rank calls this; each computes its share."""
    folder = cache_dir() / "activations" / cache_key(rows, model, model_fingerprint)
    if ranks.all_true(is_valid(folder)):
        (folder / META).touch()  # the time of its last use
        return ActivationCache(folder, rows), True
    _build(model, rows, Layout.of([row.input_ids for row in rows]), folder, ranks)
    return ActivationCache(folder, rows), False


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
    shutil.rmtree(aside, ignore_errors=True)  # a container started again has the same host name and process number
    aside.mkdir(parents=True)
    try:
        hidden_size = model.config.get_text_config().hidden_size
        reserve(aside / STATES, layout.num_tokens * hidden_size * trunk_dtype(model).itemsize, NO_ROOM)
        states = _map(aside / STATES, layout.num_tokens, hidden_size, trunk_dtype(model), write=True)
        shares = layout.shares(topology.world_size)
        compute_states(model, [row.input_ids for row in rows], layout, shares[topology.rank], states, ranks.mark)
        if topology.world_size > 1:
            _exchange(states, layout, shares, topology.rank)
        if topology.local_rank == 0:
            meta = {"hidden_size": hidden_size, "dtype": str(states.dtype).removeprefix("torch.")}
            _put_in_place(aside, folder, meta)
            evict(folder.parent, keep=folder)
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


def evict(caches: Path, keep: Path, kept_bytes: int = KEPT_BYTES) -> None:
    """Remove the caches that were used least recently, until all together have `kept_bytes`; and what was abandoned.

    A process that has one of them open goes on reading it: on a local disk a file lives until it is closed.
    """
    for half_built in caches.glob(".*.*"):
        if half_built.is_dir() and time.time() - half_built.stat().st_mtime > ABANDONED_SECONDS:
            shutil.rmtree(half_built, ignore_errors=True)
    finished = [folder for folder in caches.iterdir() if folder != keep and (folder / META).is_file()]
    room = kept_bytes - _size(keep)
    for folder in sorted(finished, key=lambda folder: (folder / META).stat().st_mtime, reverse=True):
        room -= _size(folder)
        if room < 0:
            shutil.rmtree(folder, ignore_errors=True)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


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
