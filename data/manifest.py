"""The manifest beside a built data set: what went in, what was dropped and why, and what came out.

A reader must never see a manifest that does not match its data set: `publish` takes the old one away before
it puts the new data set in place, and the new one comes last.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.dataset import dataset_fingerprint
from data.files import flush, flush_entries, json_text
from data.schema import SCHEMA_VERSION
from data.sources import Source

BUILDER_VERSION = 1  # raise it when the same input gives a different output

Manifest = dict[str, Any]


def manifest_path(output: Path) -> Path:
    """Return where the manifest of a data set lies.

    >>> manifest_path(Path("data/qa_dataset.parquet")).as_posix()
    'data/qa_dataset.manifest.json'
    """
    return output.with_suffix(".manifest.json")


def request(sources: Sequence[Source], options: Mapping[str, Any]) -> Manifest:
    """Return the part of a manifest that is known before the build and decides what the build gives."""
    return {
        "schema_version": SCHEMA_VERSION,
        "builder_version": BUILDER_VERSION,
        "sources": [{"name": source.name, "identity": source.identity} for source in sources],
        "options": dict(options),
    }


def is_up_to_date(output: Path, wanted: Manifest) -> bool:
    """Say whether `output` was built from just this request and has not changed since."""
    path = manifest_path(output)
    if not (path.is_file() and output.is_file()):
        return False
    try:
        manifest = json.loads(path.read_bytes())
    except (ValueError, RecursionError):  # somebody edited it: building anew repairs it
        return False
    if not isinstance(manifest, dict):
        return False
    asked = {key: manifest.get(key) for key in wanted}
    return bool(asked == wanted and manifest.get("sha256") == dataset_fingerprint(output))


def publish(parquet: Path, output: Path, manifest: Manifest) -> None:
    """Move a finished Parquet file and its manifest into place, one folder above where `parquet` lies."""
    unpublished = parquet.with_suffix(".manifest.json")
    # 0. Both files are on the disk before the old ones go: a full volume must not cost the data set that was there.
    unpublished.write_text(json_text(manifest), encoding="utf-8")
    flush([unpublished])
    # 1. From here on the old data set has no manifest, so nobody takes it for current.
    manifest_path(output).unlink(missing_ok=True)
    # 2. The new data set replaces the old one.
    os.replace(parquet, output)
    # 3. The manifest comes last: where it is, it matches.
    os.replace(unpublished, manifest_path(output))
    flush_entries(output.parent)
