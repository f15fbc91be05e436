"""A manifest is there only where it matches its data set, and says what that was built from."""

import json
import os

import pytest

from data.files import sha256_of, write_json
from data.manifest import is_up_to_date, manifest_path, publish, request
from data.sources import Source


def test_publish_moves_both_files(tmp_path):
    (tmp_path / "work").mkdir()
    finished = tmp_path / "work" / "rows.parquet"
    finished.write_bytes(b"rows")
    publish(finished, tmp_path / "rows.parquet", {"sha256": "x"})
    assert (tmp_path / "rows.parquet").read_bytes() == b"rows"
    assert json.loads((tmp_path / "rows.manifest.json").read_text()) == {"sha256": "x"}
    assert list((tmp_path / "work").iterdir()) == []


def test_a_request_is_what_decides_the_build():
    asked = request([Source("rows.jsonl", "sha256:x", 7)], {"max_dropped": "1%"})
    assert asked["sources"] == [{"name": "rows.jsonl", "identity": "sha256:x"}]
    assert asked["options"] == {"max_dropped": "1%"}
    assert {"schema_version", "builder_version"} < asked.keys()


def test_up_to_date_is_the_same_request_and_the_same_bytes(tmp_path):
    output = tmp_path / "rows.parquet"
    output.write_bytes(b"rows")
    asked = request([], {"seed": 1})
    assert not is_up_to_date(output, asked)
    write_json(manifest_path(output), {**asked, "sha256": sha256_of(output)})
    assert is_up_to_date(output, asked)
    assert not is_up_to_date(output, request([], {"seed": 2}))
    output.write_bytes(b"other")
    assert not is_up_to_date(output, asked)
    manifest_path(output).write_text("[]")
    assert not is_up_to_date(output, asked)


def test_what_is_published_is_on_the_disk_before_the_old_manifest_goes(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    finished = tmp_path / "work" / "rows.parquet"
    finished.write_bytes(b"rows")
    manifest_path(tmp_path / "rows.parquet").write_text("old")

    def full(descriptor):
        raise OSError("full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="full"):
        publish(finished, tmp_path / "rows.parquet", {"sha256": "x"})
    assert manifest_path(tmp_path / "rows.parquet").read_text() == "old"
