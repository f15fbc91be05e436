"""A volume that is full or away: what is tried again, and what the run goes on without."""

import errno
import os

import pytest
import torch

from train.failure import ExitCode, StorageError, exit_code_of
from train.run_folder.retries import pauses, reserve, retried, succeeds
from train.run_folder.saved_weights import save_weights

MIB = 2**20


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


def test_a_mapped_file_that_does_not_fit_is_refused_before_it_is_mapped(small):
    reserve(small / "states", MIB, "Free space.")
    assert (small / "states").stat().st_size == MIB
    with pytest.raises(StorageError, match=r"8 MiB are needed in .*, but No space left on device\. Free space\."):
        reserve(small / "more", 8 * MIB, "Free space.")
