"""How a file gets onto the disk and is known again: written aside, flushed, renamed into place; its sha256.

A reader, or a run that goes on after a crash, sees the old content or the new one, never a part. Nothing of ours is
imported here and no torch: every package stands on this file.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Any) -> None:
    """Replace `path` by this content, as `write_text` does.

    Raises:
        TypeError, ValueError: the content cannot be written as JSON; NaN cannot, since other readers refuse it.
    """
    write_text(path, json_text(content))


def json_text(content: Any) -> str:
    """Spell content as every JSON file of the project is spelled.

    >>> json_text({"topic": "Küche"})
    '{\\n  "topic": "Küche"\\n}\\n'
    """
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_text(path: Path, content: str) -> None:
    """Replace `path` atomically by UTF-8 text; its folder is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as half_written:
        half_written.write_text(content, encoding="utf-8")


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a place beside `path` to write a file to, which takes the place of `path` once it is written and flushed.

    After an error `path` is as it was, and what was written is removed: it would take up the room that is missing.
    """
    half_written = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield half_written
        move_into_place(half_written, path)
    finally:
        half_written.unlink(missing_ok=True)


def move_into_place(finished: Path, path: Path) -> None:
    """Replace `path` by a finished file of the same volume, whose content is flushed first.

    Without the flush a machine that loses power may keep the new name and an empty file under it.
    """
    flush([finished])
    finished.replace(path)


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Have `make` fill a new folder aside, then give it its name; one that is there already is returned as it is.

    Of several processes that want the folder one makes it, and the others wait for it.
    """
    from filelock import FileLock  # here, since most who write a file lock nothing

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            half_made = folder.with_name(f".{folder.name}.{os.getpid()}")
            make(half_made)
            half_made.rename(folder)
    return folder


def read_json(path: Path, default: Any) -> Any:
    """Return a JSON file's content, `default` where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else default


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
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
