"""Every file name in a run folder, and how files there are written: aside, flushed, renamed into place.

No torch here: `deploy` reads run folders too.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READY = "READY"
MANIFEST = "manifest.json"
SYSTEM_PROMPT = "system_prompt.txt"
COMMITTED = "COMMITTED"


class ManifestError(ValueError):
    """A folder's files are not the ones its manifest lists."""


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run. Everything in it is written by rank 0, but for RNG states of other ranks in checkpoints."""

    root: Path

    @property
    def best_model(self) -> Path:
        return self.root / "best_model"

    @property
    def history(self) -> Path:
        return self.root / "training_history.json"

    @property
    def summary(self) -> Path:
        return self.root / "training_summary.json"

    @property
    def demo(self) -> Path:
        return self.root / "demo_outputs" / "sample_responses.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def status(self) -> Path:
        return self.root / "status.json"

    @property
    def config(self) -> Path:
        return self.root / "config.resolved.json"

    @property
    def stop(self) -> Path:
        """Made by a person: the run saves, removes this file and stops."""
        return self.root / "STOP"

    @property
    def failure(self) -> Path:
        return self.root / "failure.json"

    def is_finished(self) -> bool:
        """Whether a run ended well here: the summary is the last thing written."""
        return self.summary.is_file() and is_published(self.best_model)

    def clear(self) -> None:
        """Forget an earlier run, all but its published model, which stays until the next one replaces it."""
        for path in (self.history, self.summary, self.status, self.config, self.failure):
            path.unlink(missing_ok=True)
        for path in (self.checkpoints, self.demo.parent):
            shutil.rmtree(path, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Replace `path` atomically: a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half_written = path.with_name(f".{path.name}.{os.getpid()}")
    with half_written.open("w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=2, ensure_ascii=False, allow_nan=False)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    half_written.replace(path)


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Write `manifest.json`: `facts`, and size and sha256 of every other file in the folder."""
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (MANIFEST, READY)
    }
    write_json(folder / MANIFEST, {**facts, "files": files})


def verify_manifest(folder: Path, *, hashes: bool = True) -> dict[str, Any]:
    """Check every file against `manifest.json` and return it; without `hashes`, existence and size alone.

    Raises:
        ManifestError: names the first file that is missing, changed or outside the folder.
    """
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ManifestError(f"{folder / MANIFEST} lists a file outside the folder: {name}")
        if not path.is_file():
            raise ManifestError(f"{path} is missing, though the manifest lists it")
        if path.stat().st_size != expected["bytes"]:
            raise ManifestError(f"{path} has {path.stat().st_size} bytes where the manifest lists {expected['bytes']}")
        if hashes and sha256_of(path) != expected["sha256"]:
            raise ManifestError(f"{path} is not the file the manifest lists (sha256 differs)")
    return manifest


def is_published(model_folder: Path) -> bool:
    """Whether a model folder is complete: its READY marker is written last."""
    return (model_folder / READY).is_file()


@contextmanager
def published_atomically(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; on success it gets READY and takes `folder`'s place, else it is removed.

    An earlier `folder` stays in place and readable until the new one is complete.
    """
    aside = folder.with_name(f".{folder.name}.new")
    previous = folder.with_name(f".{folder.name}.previous")
    for leftover in (aside, previous):
        shutil.rmtree(leftover, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        (aside / READY).touch()
        flush_folder(aside)
        if folder.exists():
            folder.rename(previous)
        aside.rename(folder)
    finally:
        for leftover in (aside, previous):
            shutil.rmtree(leftover, ignore_errors=True)


def flush_folder(folder: Path) -> None:
    """Make sure that every file below `folder` has reached the disk, and the folder's own entries too."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
