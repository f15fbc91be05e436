"""How a run begins in a folder that may hold an earlier one: afresh, resumed, or finished already."""

import json
import platform
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist

from data.files import write_json
from train.batching.tokenise import TrainingData
from train.config.run_config import ResolvedConfig, RunConfig
from train.distributed.group import Ranks
from train.failure import ConfigError, StorageError
from train.fault_tolerance.checkpoints import BEST_WEIGHTS, best_step_of, committed_checkpoints, set_aside_damaged
from train.fault_tolerance.run_lock import RunLock
from train.model.base import model_fingerprint
from train.run_folder.run_folder import COMMITTED, RunFolder
from train.run_folder.saved_weights import load_weights

Beginning = Literal["finished", "resume", "fresh"]

PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets", "tokenizers")
BROADCAST_CHUNK_BYTES = 64 * 2**20


def run_identity(config: RunConfig, data: TrainingData, world_size: int) -> dict[str, Any]:
    """Return what all ranks, and a run and its resumption, must have in common; flat, so a difference can be named."""
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
    """Let rank 0 decide what to do with an existing run folder, and prepare it; every rank gets the checkpoint.

    Who is going to write the folder takes the lock first; a finished run is only shown.
    """

    def decision() -> tuple[Beginning, str | None]:
        # 1. nobody else writes the folder, 2. what is damaged does not count, 3. the decision, 4. what it counts on is
        # there, 5. only now is anything cleared or written.
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
        folder.failure.unlink(missing_ok=True)  # it is of the life before
        return beginning, str(checkpoint) if checkpoint else None

    beginning, checkpoint = ranks.decide("beginning", decision, resolved.config.distributed.rendezvous_timeout_seconds)
    return beginning, checkpoint_on_every_rank(ranks, Path(checkpoint) if checkpoint else None)


def prepare_folder(folder: RunFolder) -> None:
    """Make the run folder, and clear what an earlier run left there (StorageError where it cannot be written)."""
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
        folder.clear()
    except OSError as error:
        raise StorageError(
            f"the output folder {folder.root} cannot be written ({error.strerror})",
            "Set output.dir (OUTPUT_DIR) to a folder this user may write.",
        ) from error


def decide_beginning(
    folder: RunFolder, if_exists: Literal["resume", "fresh", "fail"], identity: Mapping[str, Any]
) -> tuple[Beginning, Path | None]:
    """Decide what to do about what is in the run folder, and which checkpoint to go on from.

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
    """Return rank 0's checkpoint as a folder this rank can read: where it cannot see rank 0's volume, it is sent."""
    if ranks.store is None:
        return checkpoint
    files = (
        {} if checkpoint is None else {p.name: p.stat().st_size for p in sorted(checkpoint.iterdir()) if p.is_file()}
    )
    announced = ranks.tell("checkpoint", {"path": str(checkpoint) if checkpoint else None, "files": files})
    if announced["path"] is None:
        return None
    path = Path(announced["path"])
    if ranks.all_true((path / COMMITTED).is_file()):  # all or none: to send is a collective
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
