"""In which precision a GGUF file holds its weights, and the room on the disk that takes. No torch here."""

import math
import shutil
from pathlib import Path
from typing import Literal

from inference.models.published import PublishedModel
from train.failure import StorageError

Weights = Literal["f16", "q8_0", "q4_k_m"]
BYTES_PER_WEIGHT: dict[Weights, float] = {"f16": 2.0, "q8_0": 34 / 32, "q4_k_m": 34 / 32}
"""From above: llama-quantize falls back to as much as q8_0 where a row is no multiple of 256 values."""

SPARE_BYTES = 64 * 2**20
"""Beside the weights: vocabulary, metadata, and what rounding up leaves."""


def refuse_full_disk(published: PublishedModel, weights: Weights, output: Path) -> None:
    """Raise StorageError where the file, and for q4_k_m the f16 file it is made from, would not fit."""
    needed_bytes = needed_space_bytes(count_weights(published.folder), weights)
    folder = next(parent for parent in output.absolute().parents if parent.is_dir())
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise StorageError(
            f"{folder} has {free_bytes / 1e9:.2f} GB free, the export needs {needed_bytes / 1e9:.2f} GB",
            "Free space, or name an --output elsewhere.",
        )


def needed_space_bytes(num_weights: int, weights: Weights) -> int:
    """Estimate from above what an export takes of the disk.

    >>> needed_space_bytes(1_000_000_000, "q8_0")
    1129608864
    """
    kinds: list[Weights] = ["f16", "q4_k_m"] if weights == "q4_k_m" else [weights]
    return SPARE_BYTES + sum(int(BYTES_PER_WEIGHT[kind] * num_weights) for kind in kinds)


def count_weights(folder: Path) -> int:
    """Count the values in a folder's safetensors, from their headers alone."""
    from safetensors import safe_open

    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as tensors:
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return total
