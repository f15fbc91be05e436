"""Checkpoints: written whole, counted only once committed, set aside when damaged, deleted when newer ones are kept."""

import json
import re
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data.files import flush, flush_entries
from train.run_folder.manifest import ManifestError, verify_manifest, write_manifest
from train.run_folder.retries import pauses, retried, succeeds
from train.run_folder.run_folder import COMMITTED, RunFolder

TRAINABLE_WEIGHTS = "trainable.safetensors"
BEST_WEIGHTS = "best.safetensors"


def checkpoint_bytes(num_trainable: int) -> int:
    """Return the size of a checkpoint: what trains and AdamW's two moments, all fp32; the rest is small.

    >>> checkpoint_bytes(1_000_000)
    12000000
    """
    return 3 * 4 * num_trainable


def checkpoint_step(folder: Path) -> int | None:
    """Return the step in a checkpoint's name, None where it has none.

    >>> checkpoint_step(Path("checkpoints/checkpoint-40"))
    40
    """
    match = re.fullmatch(r"checkpoint-(\d+)", folder.name)
    return int(match[1]) if match else None


def committed_checkpoints(folder: RunFolder) -> list[Path]:
    """Return the checkpoints whose marker was written, oldest first; a half-written one has none."""
    committed = [path for path in folder.checkpoints.glob("checkpoint-*") if (path / COMMITTED).is_file()]
    return sorted(committed, key=lambda path: checkpoint_step(path) or 0)


def damage(checkpoint: Path) -> str | None:
    """Say what is wrong with a committed checkpoint's content, naming the file; None if every sha256 is as written."""
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
        checkpoint.rename(aside)  # not deleted: it shows what the volume did
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
    """Return the step of the best weights so far, by a checkpoint's own record; None before the first evaluation."""
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
        if committed_checkpoints(folder):  # the newest stays: it is what the run goes on from
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
