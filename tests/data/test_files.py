"""How files are written: whole or not at all, on the disk before they have their name, and made once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data.files import (
    flush_folder,
    made_once,
    move_into_place,
    read_json,
    sha256_of,
    write_json,
    write_text,
    written_aside,
)


def test_json_is_replaced_whole(tmp_path):
    path = tmp_path / "a" / "x.json"
    write_json(path, {"n": 1})
    with pytest.raises(TypeError):
        write_json(path, {"n": object()})
    assert json.loads(path.read_text()) == {"n": 1}


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})


def test_json_that_is_not_there_is_the_default(tmp_path):
    write_json(tmp_path / "x.json", ["ü"])
    assert read_json(tmp_path / "x.json", None) == ["ü"]
    assert read_json(tmp_path / "y.json", "nothing yet") == "nothing yet"


def test_after_an_error_the_old_file_stands_and_no_other(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with pytest.raises(OSError, match="full"), written_aside(path) as half_written:
        half_written.write_text("ne")
        raise OSError("full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    finished, path, done = tmp_path / "finished", tmp_path / "x.txt", []
    finished.write_text("new")
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append((os.stat(descriptor).st_ino, path.exists())))
    move_into_place(finished, path)
    assert done == [(path.stat().st_ino, False)]
    assert not finished.exists()


def test_a_folder_is_flushed_with_all_that_is_in_it(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "deep").write_text("x")
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.stat(descriptor).st_ino))
    flush_folder(tmp_path)
    assert set(flushed) == {path.stat().st_ino for path in (tmp_path, tmp_path / "a", tmp_path / "a" / "deep")}


def test_sha256_of_known_bytes(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256_of(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_folder_is_made_once_and_never_seen_half_made(tmp_path):
    folder = tmp_path / "deep" / "made"
    calls = []

    def make(aside: Path) -> None:
        assert not folder.exists()
        calls.append(aside)
        aside.mkdir()
        (aside / "x").write_text("made")

    assert made_once(folder, make) == made_once(folder, make) == folder
    assert (folder / "x").read_text() == "made"
    assert len(calls) == 1


def test_processes_that_want_the_same_folder_make_it_once(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from data.files import made_once\n"
        "def make(aside):\n    aside.mkdir(); time.sleep(0.2); print('made', flush=True)\n"
        "made_once(Path(sys.argv[1]), make)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "made")]
    both = [subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(said) == [b"", b"made\n"]
