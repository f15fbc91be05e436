"""A volume that is full or away: what is tried again, what the run goes on without, and what stays intact.

The full volume is a small tmpfs, mounted for the test; that takes root, and the test is skipped without.
"""

import errno
import os

import pytest
import torch

from tests.small_volume import fill_up, small_volume
from train.failure import ExitCode, StorageError, exit_code_of
from train.fault_tolerance.checkpoints import committed_checkpoints, damage, write_checkpoint
from train.run_folder.manifest import published_atomically
from train.run_folder.retries import pauses, reserve, retried, succeeds
from train.run_folder.run_folder import RunFolder
from train.run_folder.saved_weights import BestWeights, load_weights, save_weights

MIB = 2**20


@pytest.fixture
def small(tmp_path):
    with small_volume(tmp_path / "small", megabytes=4) as folder:
        yield folder


class Volume:
    """Fails so many times before it takes anything."""

    def __init__(self, num_failures, error=errno.ENOSPC):
        self.num_failures, self.error, self.num_calls = num_failures, error, 0

    def write(self):
        self.num_calls += 1
        if self.num_calls <= self.num_failures:
            raise OSError(self.error, os.strerror(self.error))
        return "written"


def tensors(num_bytes, value=1.0):
    return {"weight": torch.full((num_bytes // 4,), value)}


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.ESTALE, errno.EDQUOT])
def test_written_at_the_third_attempt_with_a_warning_for_each_before(capsys, error):
    volume = Volume(2, error)
    assert retried("checkpoint-4", volume.write, [0, 0, 0]) == "written"
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2
    assert all(line.startswith("warning: checkpoint-4 could not be written") for line in warnings)
    assert os.strerror(error) in warnings[0]


def test_the_last_failure_is_raised():
    volume = Volume(9)
    with pytest.raises(OSError, match="No space left") as raised:
        retried("best_model", volume.write, [0, 0, 0])
    assert volume.num_calls == 4
    assert exit_code_of(raised.value) is ExitCode.STORAGE


def test_what_is_no_storage_failure_is_not_tried_again():
    calls = []
    with pytest.raises(ZeroDivisionError):
        retried("it", lambda: calls.append(1) or 1 / 0, [0, 0])
    with pytest.raises(ZeroDivisionError):
        succeeds("it", lambda: calls.append(1) or 1 / 0)
    assert len(calls) == 2


def test_going_on_without(capsys):
    assert not succeeds("status.json", Volume(1).write)
    assert "status.json could not be written" in capsys.readouterr().err
    assert succeeds("status.json", Volume(0).write)
    assert sum(pauses(26)) == 26


@pytest.mark.parametrize(
    "write",
    [
        lambda path: save_weights(path, tensors(8 * MIB), step=2),
        lambda path: torch.save(tensors(8 * MIB), path),
        lambda path: path.write_bytes(b"x" * 8 * MIB),
    ],
)
def test_every_writer_in_use_says_in_its_own_way_that_the_disk_is_full(small, write):
    with pytest.raises(Exception) as raised:  # noqa: PT011 - each library has an error of its own
        write(small / "file")
    assert exit_code_of(raised.value) is ExitCode.STORAGE, repr(raised.value)


def test_a_full_volume_keeps_the_previous_best_and_the_new_one_stays_in_memory(small, capsys):
    best = BestWeights(small / "best.safetensors")
    best.keep(2, tensors(MIB, 2.0), waits=[])
    obstacle = fill_up(small)
    best.keep(4, tensors(MIB, 4.0), waits=[0.0])
    assert "the best weights could not be written" in capsys.readouterr().err
    assert load_weights(best.path)["weight"][0] == 2.0
    assert best.load()["weight"][0] == 4.0
    assert not list(small.glob(".*"))
    with pytest.raises(Exception) as raised:  # noqa: PT011
        best.save()
    assert exit_code_of(raised.value) is ExitCode.STORAGE
    obstacle.unlink()
    best.save()
    assert load_weights(best.path)["weight"][0] == 4.0


@pytest.mark.parametrize("harm", ["bytes", "cut", "gone"])
def test_best_weights_that_are_not_what_was_written(tmp_path, harm):
    path = tmp_path / "best.safetensors"
    save_weights(path, tensors(4096), step=2)
    content = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-4] + (b"abcd" if harm == "bytes" else b""))
    with pytest.raises(StorageError, match="sha256 differs" if harm == "bytes" else "cannot be read"):
        load_weights(path)


def checkpoint(folder, step, num_bytes, *, keep=2):
    return write_checkpoint(
        folder,
        folder.checkpoints / f"checkpoint-{step}",
        lambda path: (path / "weights").write_bytes(b"w" * num_bytes) and None,
        keep=keep,
        retry_seconds=0.1,
    )


def test_a_checkpoint_that_does_not_fit_leaves_the_last_one_and_no_debris(small, capsys):
    folder = RunFolder(small)
    assert checkpoint(folder, 2, MIB)
    assert not checkpoint(folder, 4, 8 * MIB)
    assert "checkpoint-4 could not be written" in capsys.readouterr().err
    assert [path.name for path in folder.checkpoints.iterdir()] == ["checkpoint-2"]
    assert damage(folder.checkpoints / "checkpoint-2") is None


def test_the_older_of_two_checkpoints_makes_room(small):
    folder = RunFolder(small)
    assert checkpoint(folder, 2, int(1.5 * MIB))
    assert checkpoint(folder, 4, int(1.5 * MIB))
    assert checkpoint(folder, 6, int(1.5 * MIB))
    assert [path.name for path in committed_checkpoints(folder)] == ["checkpoint-4", "checkpoint-6"] or [
        path.name for path in committed_checkpoints(folder)
    ] == ["checkpoint-6"]
    assert damage(folder.checkpoints / "checkpoint-6") is None


def test_a_full_volume_keeps_the_published_model(small):
    model = small / "best_model"
    with published_atomically(model) as aside:
        (aside / "weights").write_bytes(b"w" * MIB)
    with pytest.raises(OSError, match="No space left"), published_atomically(model) as aside:
        (aside / "weights").write_bytes(b"w" * 8 * MIB)
    assert (model / "weights").stat().st_size == MIB
    assert [path.name for path in small.iterdir()] == ["best_model"]


def test_a_model_whose_replacement_was_killed_halfway_comes_back(tmp_path):
    model = tmp_path / "best_model"
    with published_atomically(model) as aside:
        (aside / "weights").touch()
    model.rename(tmp_path / ".best_model.previous")  # as between the two renames
    with pytest.raises(ZeroDivisionError), published_atomically(model):
        raise ZeroDivisionError
    assert (model / "weights").exists()


def test_a_mapped_file_that_does_not_fit_is_refused_before_it_is_mapped(small):
    reserve(small / "states", MIB, "Free space.")
    assert (small / "states").stat().st_size == MIB
    with pytest.raises(StorageError, match=r"8 MiB are needed in .*, but No space left on device\. Free space\."):
        reserve(small / "more", 8 * MIB, "Free space.")
