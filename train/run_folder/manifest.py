"""A folder whose files can be proved whole: its manifest, its READY marker, and its publication in one rename.

No torch here: `deploy` verifies what it fetches.
"""

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from data.files import flush_entries, flush_folder, sha256_of, write_json

READY = "READY"
MANIFEST = "manifest.json"


class ManifestError(ValueError):
    """A folder's files are not the ones its manifest lists."""


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Write `manifest.json`: `facts`, and size and sha256 of every other file in the folder."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in (MANIFEST, READY)]
    with ThreadPoolExecutor() as threads:  # hashing large files leaves the interpreter to other threads
        hashes = list(threads.map(sha256_of, paths))
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": sha256}
        for path, sha256 in zip(paths, hashes, strict=True)
    }
    write_json(folder / MANIFEST, {**facts, "files": files})


def parse_manifest(content: bytes, place: str) -> dict[str, Any]:
    """Return a manifest proved to be one, from its bytes; `place` is where it lies, for errors.

    Raises:
        ManifestError: it is not JSON, a file has no size or sha256, or a name leads out of the folder.
    """
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{place} is not JSON ({error})") from None
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict):
        raise ManifestError(f"{place} lists no files")
    for name, facts in files.items():
        if not stays_inside(name):
            raise ManifestError(f"{place} lists a file outside the folder: {name!r}")
        known = facts if isinstance(facts, dict) else {}
        if not isinstance(known.get("bytes"), int) or not isinstance(known.get("sha256"), str):
            raise ManifestError(f"{place} lists {name!r} without its size and sha256")
    return dict(manifest)


def stays_inside(name: str) -> bool:
    """Say whether a relative path is one, and leads down alone.

    >>> [stays_inside(name) for name in ("a/b.json", "../b", "/etc/passwd", "a/../../b", "a\\0b", "\\ud800")]
    [True, False, False, False, False, False]
    """
    path = PurePosixPath(name)
    is_text = name.isprintable()  # neither NUL nor a lone surrogate, which no file name can have
    return is_text and bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def verify_manifest(folder: Path, *, hashes: bool = True) -> dict[str, Any]:
    """Check every file against `manifest.json` and return it; without `hashes`, existence and size alone.

    Raises:
        ManifestError: names the first file that is missing, changed or outside the folder.
    """
    manifest = parse_manifest((folder / MANIFEST).read_bytes(), str(folder / MANIFEST))
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):  # by a link
            raise ManifestError(f"{folder / MANIFEST} lists a file outside the folder: {name}")
        if not path.is_file():
            raise ManifestError(f"{path} is missing, though the manifest lists it")
        if path.stat().st_size != expected["bytes"]:
            raise ManifestError(f"{path} has {path.stat().st_size} bytes where the manifest lists {expected['bytes']}")
        if hashes and sha256_of(path) != expected["sha256"]:
            raise ManifestError(f"{path} is not the file the manifest lists (sha256 differs)")
    return manifest


def is_published(model_folder: Path) -> bool:
    """Say whether a model folder is complete: its READY marker is written last."""
    return (model_folder / READY).is_file()


@contextmanager
def published_atomically(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; on success it gets READY and takes `folder`'s place, else it is removed.

    An earlier `folder` stays in place and readable until the new one is complete; one that was on its way out when
    the process died comes back.
    """
    aside = folder.with_name(f".{folder.name}.new")
    previous = folder.with_name(f".{folder.name}.previous")
    if previous.exists() and not folder.exists():
        previous.rename(folder)
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
        flush_entries(folder.parent)
    finally:
        if previous.exists() and not folder.exists():
            previous.rename(folder)
        for leftover in (aside, previous):
            shutil.rmtree(leftover, ignore_errors=True)
