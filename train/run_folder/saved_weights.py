"""The weights that train, as a safetensors file that carries the hash of its own content."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from data.files import flush_entries, move_into_place
from train.failure import StorageError
from train.run_folder.retries import retried, succeeds

CONTENT_HASH = "sha256"


def content_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the sha256 over names, types, shapes and bytes of the tensors, whatever their order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def save_weights(path: Path, tensors: Mapping[str, torch.Tensor], step: int) -> None:
    """Replace `path` by these tensors: written aside, with their hash, on the disk before it takes its place."""
    half_written = path.with_name(f".{path.name}.new")  # one name for all lives of a run: a kill leaves one at most
    kept = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(kept, half_written, metadata={"step": str(step), CONTENT_HASH: content_hash(kept)})
        move_into_place(half_written, path)
    finally:
        half_written.unlink(missing_ok=True)  # a half-written one would take up the room that is missing
    flush_entries(path.parent)


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file that `save_weights` wrote.

    Raises:
        StorageError: the file is missing, cannot be read, or is not what was written.
    """
    remedy = "Put the file back from a copy, or train again with output.if_exists=fresh."
    try:
        with safe_open(path, framework="pt") as opened:
            written = (opened.metadata() or {}).get(CONTENT_HASH)
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{path} cannot be read ({' '.join(str(error).split())})", remedy) from error
    if written != content_hash(tensors):
        raise StorageError(f"{path} is not what was written there (sha256 differs)", remedy)
    return dict(tensors)


class BestWeights:
    """Keeps the weights of the lowest evaluation loss: on the volume, or in memory while that does not take them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unsaved: tuple[int, dict[str, torch.Tensor]] | None = None

    def keep(self, step: int, tensors: Mapping[str, torch.Tensor], waits: Sequence[float]) -> None:
        """Write these, trying again after each of `waits` (seconds); if that fails, they wait for `save`."""
        self._unsaved = step, {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
        succeeds("the best weights", lambda: retried("the best weights", self.save, waits))

    def save(self) -> None:
        """Write what is not on the volume yet; called before a checkpoint that counts on it."""
        if self._unsaved is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            save_weights(self.path, self._unsaved[1], self._unsaved[0])
            self._unsaved = None

    def load(self) -> dict[str, torch.Tensor]:
        """Return the best weights from where they are; raises as `load_weights` does."""
        return self._unsaved[1] if self._unsaved else load_weights(self.path)
