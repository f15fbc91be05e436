"""How a run begins in a folder that may hold an earlier one, and checkpoints that count only once committed."""

import json
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist

from train.batching.tokenise import TrainingData
from train.config.run_config import ResolvedConfig, RunConfig
from train.distributed.group import Ranks
from train.failure import ConfigError, StorageError
from train.fault_tolerance.run_lock import RunLock
from train.model.base import model_fingerprint
from train.run_folder.retries import pauses, retried, succeeds
from train.run_folder.run_folder import (
    COMMITTED,
    ManifestError,
    RunFolder,
    flush,
    flush_entries,
    verify_manifest,
    write_json,
    write_manifest,
)
from train.run_folder.saved_weights import load_weights

Beginning = Literal["finished", "resume", "fresh"]

PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets", "tokenizers")
TRAINABLE_WEIGHTS = "trainable.safetensors"
BEST_WEIGHTS = "best.safetensors"
BROADCAST_CHUNK_BYTES = 64 * 2**20


def run_identity(config: RunConfig, data: TrainingData, world_size: int) -> dict[str, Any]:
    """What every rank, and a run and its resumption, must have in common; flat, so a difference can be named."""
    return {
        **config.deciding_fields(),
        "data": data.fingerprint()[:16],
        "model": model_fingerprint(config)[:16],
        "packages": " ".join(f"{name} {version(name)}" for name in PACKAGES) + f" python {platform.python_version()}",
        "world size": world_size,
    }


def begin(
    resolved: ResolvedConfig, folder: RunFolder, identity: dict[str, Any], ranks: Ranks, lock: RunLock
) -> tuple[Beginning, Path | None]:
    """Rank 0 decides what to do with an existing run folder and prepares it; every rank gets the checkpoint.

    Who is going to write the folder takes the lock first; a finished run is only shown.
    """

    def decision() -> tuple[Beginning, str | None]:
        if resolved.config.output.if_exists == "fresh" or not folder.is_finished():
            lock.acquire()
        if resolved.config.output.if_exists == "resume":
            set_aside_damaged(folder)
        beginning, checkpoint = decide_beginning(folder, resolved.config.output.if_exists, identity)
        if checkpoint is not None and best_step_of(checkpoint) is not None:
            load_weights(folder.checkpoints / BEST_WEIGHTS)  # now, not when hours of training depend on it
        if beginning == "fresh":
            prepare_folder(folder)
            write_json(folder.config, {**resolved.dump(), "identity": identity})
        folder.failure.unlink(missing_ok=True)
        return beginning, str(checkpoint) if checkpoint else None

    beginning, checkpoint = ranks.decide("beginning", decision, resolved.config.distributed.rendezvous_timeout_seconds)
    return beginning, checkpoint_on_every_rank(ranks, Path(checkpoint) if checkpoint else None)


def prepare_folder(folder: RunFolder) -> None:
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
        folder.clear()
    except OSError as error:
        raise StorageError(
            f"the output folder {folder.root} cannot be written ({error.strerror})",
            "Set output.dir (OUTPUT_DIR) to a folder this user may write.",
        ) from error


def checkpoint_bytes(num_trainable: int) -> int:
    """Size of a checkpoint: what trains and AdamW's two moments, all fp32; the rest is small.

    >>> checkpoint_bytes(1_000_000)
    12000000
    """
    return 3 * 4 * num_trainable


def checkpoint_step(folder: Path) -> int | None:
    """The step in a checkpoint's name.

    >>> checkpoint_step(Path("checkpoints/checkpoint-40"))
    40
    """
    match = re.fullmatch(r"checkpoint-(\d+)", folder.name)
    return int(match[1]) if match else None


def committed_checkpoints(folder: RunFolder) -> list[Path]:
    """Checkpoints whose marker was written, oldest first; a half-written one has none."""
    committed = [path for path in folder.checkpoints.glob("checkpoint-*") if (path / COMMITTED).is_file()]
    return sorted(committed, key=lambda path: checkpoint_step(path) or 0)


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a committed checkpoint's content, naming the file; None if every sha256 is as written."""
    try:
        verify_manifest(checkpoint)
    except (ManifestError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return str(error) or type(error).__name__  # the manifest itself may be what is damaged
    return None


def set_aside_damaged(folder: RunFolder) -> None:
    """Rename the damaged checkpoints newer than the newest good one, saying which file is at fault."""
    for checkpoint in reversed(committed_checkpoints(folder)):
        problem = damage(checkpoint)
        if problem is None:
            return
        aside = checkpoint.with_name(f"damaged-{checkpoint.name}-{time.time_ns()}")
        checkpoint.rename(aside)
        print(
            f"warning: {checkpoint.name} is damaged, set aside as {aside.name}: {problem}", file=sys.stderr, flush=True
        )


def commit(checkpoint: Path) -> None:
    """Declare a checkpoint complete: all of it on the disk, hashed meanwhile, then the marker."""
    content = list(checkpoint.iterdir())
    with ThreadPoolExecutor(max_workers=1) as aside:
        flushed = aside.submit(flush, content)
        write_manifest(checkpoint, {"step": checkpoint_step(checkpoint)})  # flushes itself
        flushed.result()
    flush_entries(checkpoint)
    (checkpoint / COMMITTED).touch()
    flush_entries(checkpoint)
    flush_entries(checkpoint.parent)


def best_step_of(checkpoint: Path) -> int | None:
    """The step whose weights are the best so far, by a checkpoint's own record; None before the first evaluation."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    step = state.get("best_global_step")
    return None if step is None else int(step)


def write_checkpoint(
    folder: RunFolder, checkpoint: Path, fill: Callable[[Path], None], *, keep: int, retry_seconds: float
) -> bool:
    """Fill a new checkpoint, commit it, delete old ones; returns whether it could be written.

    A failed attempt leaves nothing behind, and before the next one the older of the kept checkpoints make room.
    """

    def write() -> None:
        try:
            shutil.rmtree(checkpoint, ignore_errors=True)  # what an earlier start left half-written
            checkpoint.mkdir(parents=True)
            fill(checkpoint)
            commit(checkpoint)
        except BaseException:
            shutil.rmtree(checkpoint, ignore_errors=True)
            raise

    def make_room() -> None:
        if committed_checkpoints(folder):
            prune(folder, keep=1)

    name = checkpoint.name
    written = succeeds(name, lambda: retried(name, write, pauses(retry_seconds), make_room))
    if written:
        succeeds("the list of checkpoints", lambda: prune(folder, keep))
    return written


def prune(folder: RunFolder, keep: int) -> None:
    """Delete all but the newest `keep` committed checkpoints, and half-written ones older than those."""
    kept = committed_checkpoints(folder)[-keep:]
    newest_step = checkpoint_step(kept[-1]) or 0
    for path in folder.checkpoints.glob("checkpoint-*"):
        if path not in kept and (checkpoint_step(path) or 0) < newest_step:
            shutil.rmtree(path)


def decide_beginning(
    folder: RunFolder, if_exists: Literal["resume", "fresh", "fail"], identity: Mapping[str, Any]
) -> tuple[Beginning, Path | None]:
    """What to do about what is in the run folder, and the checkpoint to go on from.

    `identity` is what must be the same to go on: flat facts of configuration, data, model and world size.

    Raises:
        ConfigError: the folder holds a run that must not be touched, or one that is not this run.
    """
    if if_exists == "fresh" or not folder.config.exists():
        return "fresh", None
    if if_exists == "fail":
        raise ConfigError(
            f"{folder.root} already holds a run", "Name another output.dir, or set output.if_exists=resume or fresh."
        )
    checkpoints = committed_checkpoints(folder)
    if not folder.is_finished() and not checkpoints:
        return "fresh", None
    _refuse_another_run(folder, identity)
    return ("finished", None) if folder.is_finished() else ("resume", checkpoints[-1])


def _refuse_another_run(folder: RunFolder, identity: Mapping[str, Any]) -> None:
    earlier: dict[str, Any] = json.loads(folder.config.read_text(encoding="utf-8")).get("identity", {})
    differing = sorted(name for name in identity.keys() | earlier.keys() if identity.get(name) != earlier.get(name))
    if differing:
        changes = ", ".join(f"{name}: {earlier.get(name)!r} -> {identity.get(name)!r}" for name in differing[:4])
        raise ConfigError(
            f"{folder.root} holds a run with other settings ({changes})",
            "Set output.if_exists=fresh to replace it, or name another output.dir.",
        )


def checkpoint_on_every_rank(ranks: Ranks, checkpoint: Path | None) -> Path | None:
    """Rank 0's checkpoint, as a folder every rank can read: where the volume is rank 0's alone, its files are sent."""
    if ranks.store is None:
        return checkpoint
    files = (
        {} if checkpoint is None else {p.name: p.stat().st_size for p in sorted(checkpoint.iterdir()) if p.is_file()}
    )
    announced = ranks.tell("checkpoint", {"path": str(checkpoint) if checkpoint else None, "files": files})
    if announced["path"] is None:
        return None
    path = Path(announced["path"])
    if ranks.all_true((path / COMMITTED).is_file()):
        return path
    target = path if ranks.topology.is_main else Path(tempfile.mkdtemp(prefix="checkpoint-"))
    for name, num_bytes in announced["files"].items():
        _send_file(target / name, num_bytes, is_source=ranks.topology.is_main)
    return target


def _send_file(path: Path, num_bytes: int, *, is_source: bool) -> None:
    """Copy one file from rank 0 to every other rank, in bounded pieces, over the process group."""
    with path.open("rb" if is_source else "wb") as stream:
        for start in range(0, num_bytes, BROADCAST_CHUNK_BYTES):
            size = min(BROADCAST_CHUNK_BYTES, num_bytes - start)
            piece = torch.frombuffer(bytearray(stream.read(size) if is_source else size), dtype=torch.uint8)
            dist.broadcast(piece, src=0)
            if not is_source:
                stream.write(piece.numpy().tobytes())
