import errno
import os

import pytest

from tests.tiny_checkpoints import IDENTITY, begun_run, checkpoint
from train.fault_tolerance.begin import decide_beginning
from train.fault_tolerance.checkpoints import (
    checkpoint_step,
    commit,
    committed_checkpoints,
    damage,
    prune,
    set_aside_damaged,
    write_checkpoint,
)
from train.run_folder.manifest import MANIFEST
from train.run_folder.run_folder import COMMITTED, RunFolder

MIB = 2**20


@pytest.fixture
def folder(tmp_path):
    return begun_run(tmp_path)


def test_prune_keeps_the_newest_and_removes_older_debris(folder):
    for step in (2, 4, 6):
        checkpoint(folder, step)
    checkpoint(folder, 3, committed=False)
    newer_half_written = checkpoint(folder, 8, committed=False)
    prune(folder, keep=2)
    assert [checkpoint_step(path) for path in committed_checkpoints(folder)] == [4, 6]
    assert newer_half_written.exists()
    assert not (folder.checkpoints / "checkpoint-3").exists()


def test_the_marker_is_written_last_when_all_else_is_on_the_disk(folder, monkeypatch):
    path = checkpoint(folder, 4, committed=False)
    flushed_before_the_marker, fsync = set(), os.fsync

    def noted(descriptor):
        if not (path / COMMITTED).exists():
            flushed_before_the_marker.add(os.stat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    commit(path)
    assert (path / COMMITTED).exists()
    content = {(path / name).stat().st_ino for name in ("weights", MANIFEST)}
    assert content | {path.stat().st_ino} <= flushed_before_the_marker


def test_a_checkpoint_that_does_not_reach_the_disk_is_not_committed(folder, monkeypatch):
    path = checkpoint(folder, 4, committed=False)
    weights = (path / "weights").stat().st_ino

    def refusing(descriptor):
        if os.stat(descriptor).st_ino == weights:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", refusing)
    with pytest.raises(OSError, match="Input/output error"):
        commit(path)
    assert not (path / COMMITTED).exists()


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda path: (path / "weights").write_text("x"), "weights is not the file"),
        (lambda path: (path / "weights").write_text("longer"), "weights has 6 bytes where the manifest lists 1"),
        (lambda path: (path / "weights").unlink(), "weights is missing"),
        (lambda path: (path / "manifest.json").unlink(), "manifest.json"),
        (lambda path: (path / "manifest.json").write_text('{"files": ["half'), "Unterminated string"),
        (lambda path: (path / "manifest.json").write_text('{"files": {"../out": {}}}'), "outside the folder"),
        (lambda path: (path / "manifest.json").write_text("[]"), "lists no files"),
    ],
)
def test_a_damaged_checkpoint_is_set_aside_and_the_newest_good_one_resumed(folder, capsys, harm, says):
    for step in (2, 4, 6, 8):
        checkpoint(folder, step)
    for step in (2, 6, 8):
        harm(folder.checkpoints / f"checkpoint-{step}")
    set_aside_damaged(folder)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("warning: checkpoint-8 is damaged")
    assert says in lines[0]
    assert decide_beginning(folder, "resume", IDENTITY)[1] == folder.checkpoints / "checkpoint-4"
    assert len(list(folder.checkpoints.glob("damaged-checkpoint-*"))) == 2
    prune(folder, keep=1)
    assert [checkpoint_step(path) for path in committed_checkpoints(folder)] == [4]


def test_nothing_is_set_aside_where_all_is_well(folder, capsys):
    checkpoint(folder, 2)
    set_aside_damaged(folder)
    assert not capsys.readouterr().err
    assert (folder.checkpoints / "checkpoint-2").is_dir()


def written(folder, step, num_bytes, *, keep=2):
    return write_checkpoint(
        folder,
        folder.checkpoints / f"checkpoint-{step}",
        lambda path: (path / "weights").write_bytes(b"w" * num_bytes) and None,
        keep=keep,
        retry_seconds=0.1,
    )


def test_a_checkpoint_that_does_not_fit_leaves_the_last_one_and_no_debris(small, capsys):
    folder = RunFolder(small)
    assert written(folder, 2, MIB)
    assert not written(folder, 4, 8 * MIB)
    assert "checkpoint-4 could not be written" in capsys.readouterr().err
    assert [path.name for path in folder.checkpoints.iterdir()] == ["checkpoint-2"]
    assert damage(folder.checkpoints / "checkpoint-2") is None


def test_the_older_of_two_checkpoints_makes_room(small):
    folder = RunFolder(small)
    assert written(folder, 2, int(1.5 * MIB))
    assert written(folder, 4, int(1.5 * MIB))
    assert written(folder, 6, int(1.5 * MIB))
    assert [path.name for path in committed_checkpoints(folder)] == ["checkpoint-4", "checkpoint-6"] or [
        path.name for path in committed_checkpoints(folder)
    ] == ["checkpoint-6"]
    assert damage(folder.checkpoints / "checkpoint-6") is None
