"""How a file gets onto the disk and is known again: written aside, flushed, renamed into place; its sha256.

A reader, or a run that goes on after a crash, sees the old content or the new one, never a part. Nothing of ours is
imported here and no torch: every package stands on this file.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Any) -> None:
    """Replace `path` by this content, as `write_text` does."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, content: str) -> None:
    """Replace `path` atomically: a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half_written = path.with_name(f".{path.name}.{os.getpid()}")
    with half_written.open("w", encoding="utf-8") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    half_written.replace(path)


def read_json(path: Path, default: Any) -> Any:
    """A JSON file's content, `default` where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else default


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def flush_entries(folder: Path) -> None:
    """Make sure that what was made or renamed in `folder` stays so; the content of its files is not touched."""
    flush([folder])


def flush_folder(folder: Path) -> None:
    """Make sure that every file below `folder` has reached the disk, and the folder's own entries too."""
    flush([*folder.rglob("*"), folder])


def flush(paths: Iterable[Path]) -> None:
    """Make sure that the content of these files, and the entries of these folders, have reached the disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
