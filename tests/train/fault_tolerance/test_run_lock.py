"""One run in a run folder: who is refused, whose lock is taken over, and how soon."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from train.failure import FolderTakenError, StorageError
from train.fault_tolerance.run_lock import Owner, RunLock, is_alive, read_owner

ROOT = Path(__file__).parents[3]
ELSEWHERE = {"host": "another-host", "pid": 7, "namespace": "there"}

PROGRAM = """
import os, sys, time
from pathlib import Path
from train.fault_tolerance.run_lock import RunLock
def leave(error):
    print(error.problem, flush=True)
    os._exit(error.exit_code)
with RunLock(Path(sys.argv[1]), leave, beat_seconds=0.1, stale_seconds=float(sys.argv[2])) as lock:
    try:
        lock.acquire()
    except Exception as error:
        sys.exit(f"refused by {error}")
    print("mine", flush=True)
    sys.stdin.read()
"""


def lock_at(path, **options):
    return RunLock(path, lambda error: None, **({"beat_seconds": 0.1, "stale_seconds": 0.5} | options))


def start_owner(path, stale_seconds=30.0):
    command = [sys.executable, "-c", PROGRAM, str(path), str(stale_seconds)]
    owner = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout.readline() == "mine\n"
    return owner


def leave_lock(path, **changes):
    """A lock as its owner left it when it died."""
    owner = dataclasses.replace(Owner.this_process(), **changes)
    path.write_text(json.dumps(dataclasses.asdict(owner)))
    return owner


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "run.lock"


def test_taken_once_and_given_back(path):
    with lock_at(path) as lock:
        lock.acquire()
        assert read_owner(path).pid == os.getpid()
        assert list(path.parent.iterdir()) == [path]
    assert not path.exists()


def test_a_living_owner_is_named_even_when_it_is_frozen(path):
    owner = start_owner(path)
    try:
        os.kill(owner.pid, 19)  # SIGSTOP: no sign of life, but a process that will go on
        time.sleep(1)
        with pytest.raises(FolderTakenError) as refused:
            lock_at(path).acquire()
        said = str(refused.value)
        assert f"process {owner.pid} on " in said
        assert "last sign of life" in said
        assert "output.dir" in said
        assert path.exists()
    finally:
        owner.kill()
        owner.communicate()


def test_a_killed_owner_beside_us_is_replaced_at_once(path, capsys):
    owner = start_owner(path)
    owner.kill()
    owner.communicate()
    assert path.exists()
    began = time.monotonic()
    with lock_at(path, stale_seconds=60) as lock:
        lock.acquire()
    assert time.monotonic() - began < 5
    assert f"from a run that is dead (process {owner.pid} on " in capsys.readouterr().err


def test_an_owner_on_another_host_lives_while_it_touches_the_lock(path):
    owner = start_owner(path)
    pretended = dataclasses.replace(read_owner(path), **ELSEWHERE)
    with pytest.raises(FolderTakenError, match="process 7 on another-host"):
        lock_at(path, stale_seconds=30)._take_from(pretended, Owner.this_process())
    owner.communicate("")
    assert owner.returncode == 0


def test_an_owner_on_another_host_is_dead_once_it_stops_touching_the_lock(path):
    path.parent.mkdir()
    leave_lock(path, **ELSEWHERE)
    began = time.monotonic()
    with lock_at(path, stale_seconds=0.5) as lock:
        lock.acquire()
        assert read_owner(path).host != "another-host"
    assert 0.2 < time.monotonic() - began < 10


def test_an_old_lock_needs_no_watching(path):
    path.parent.mkdir()
    leave_lock(path, **ELSEWHERE)
    os.utime(path, (time.time() - 3600,) * 2)
    began = time.monotonic()
    with lock_at(path, stale_seconds=60) as lock:
        lock.acquire()
    assert time.monotonic() - began < 5


def test_a_lock_that_was_never_finished_is_dead_in_time(path):
    path.parent.mkdir()
    path.write_text("")
    with lock_at(path, stale_seconds=0.3) as lock:
        lock.acquire()
    assert not path.exists()


@pytest.mark.parametrize(
    ("changes", "environment", "expected"),
    [
        ({}, {}, False),  # our own process number, from before the container was started again
        ({"pid": 1, "process_started": 0.0}, {}, False),  # the number is in use again, by another process
        ({"pid": 2**22 + 1}, {}, False),
        ({"namespace": "an earlier container"}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),
        ({"namespace": "another container"}, {}, None),
        ({"host": "another-host"}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
    ],
)
def test_what_can_be_seen_of_an_owner(changes, environment, expected):
    us = Owner.this_process()
    assert is_alive(dataclasses.replace(us, **changes), us, environment) is expected


def test_the_parent_process_is_seen_alive():
    import psutil

    us = Owner.this_process()
    parent = dataclasses.replace(us, pid=os.getppid(), process_started=psutil.Process(os.getppid()).create_time())
    assert is_alive(parent, us, {}) is True


def test_who_was_frozen_too_long_finds_the_folder_taken_and_leaves(path):
    owner = start_owner(path, stale_seconds=0.5)
    os.kill(owner.pid, 19)
    path.unlink()
    with lock_at(path) as lock:
        lock.acquire()
        os.kill(owner.pid, 18)
        assert owner.wait(timeout=20) == 2
        assert "was taken over by another run" in owner.communicate()[0]
        assert read_owner(path) == lock.us


def test_of_many_who_find_a_dead_lock_one_gets_it(path):
    path.parent.mkdir()
    leave_lock(path, pid=2**22 + 1)
    command = [sys.executable, "-c", PROGRAM, str(path), "30"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, cwd=ROOT, **pipes) for _ in range(4)]
    deadline = time.monotonic() + 60
    while sum(process.poll() is None for process in processes) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    ended = [(*process.communicate("", timeout=20), process.returncode) for process in processes]
    assert sorted(out for out, _, _ in ended) == ["", "", "", "mine\n"]
    assert all(code == (0 if out else 1) for out, _, code in ended)
    assert all("is being written by another run" in error for out, error, _ in ended if not out)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        lock_at(tmp_path / "file" / "run.lock").acquire()
