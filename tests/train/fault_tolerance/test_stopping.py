"""Requests to stop: who keeps them, who leaves at once, and with which exit code."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from train.failure import ConfigError, ExitCode
from train.fault_tolerance.stopping import StoppedError, StopRequest, grace_warning, refuse_unsavable

ROOT = Path(__file__).parents[3]

PROGRAM = """
import os, sys, time
from train.fault_tolerance.stopping import StopRequest
def leave(error):
    print(error.problem, flush=True)
    os._exit(error.exit_code)
stop = StopRequest(grace_seconds=float(sys.argv[2]), leave=leave)
stop.listen()
def wait():
    print("ready", flush=True)
    deadline = time.monotonic() + 20
    while not stop.code and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(float(sys.argv[3]))
if sys.argv[1] == "training":
    with stop.left_to_trainer():
        wait()
else:
    wait()
"""


def signalled(where, *numbers, grace_seconds=30.0, busy_seconds=0.0):
    """Exit code and output of a small program that is sent some signals once it is ready."""
    command = [sys.executable, "-c", PROGRAM, where, str(grace_seconds), str(busy_seconds)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.2)
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    return process.returncode, out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_where_nothing_is_to_be_saved_a_signal_ends_the_process(number, code):
    ended, out = signalled("loading", number)
    assert ended == code
    assert out == f"stopped by {number.name}; there was nothing to save\n"


def test_a_second_signal_ends_the_process_at_once():
    ended, out = signalled("training", signal.SIGTERM, signal.SIGTERM, busy_seconds=20)
    assert ended == 143
    assert out.splitlines() == ["SIGTERM: stopping after this step", "left at once, on a second SIGTERM"]


def test_who_cannot_save_within_the_grace_period_says_so():
    start = time.monotonic()
    ended, out = signalled("training", signal.SIGTERM, grace_seconds=1.0, busy_seconds=20)
    assert ended == 143
    assert "could not save within 1 s" in out
    assert time.monotonic() - start < 15


def test_a_request_is_kept_for_the_trainer():
    stop = StopRequest()
    with pytest.raises(StoppedError, match="before it was published") as stopped, stop.left_to_trainer():
        assert stop.code is None
        stop.on_signal(signal.SIGINT)
        assert stop.code == ExitCode.INTERRUPTED
    assert stopped.value.exit_code == 130


def test_other_signals_are_none_of_ours():
    stop = StopRequest()
    stop.on_signal(signal.SIGCHLD)
    assert stop.code is None


def test_the_stop_file_asks_once(tmp_path):
    stop = StopRequest(stop_file=tmp_path / "STOP")
    assert stop.code is None
    (tmp_path / "STOP").touch()
    assert stop.code == ExitCode.STOPPED
    stop.fulfilled()
    assert stop.code is None
    stop.fulfilled()


def test_a_checkpoint_that_no_volume_can_take_in_time_is_refused():
    refuse_unsavable(5 * 10**9, grace_seconds=30)
    with pytest.raises(ConfigError, match=r"931.3 GiB .* takes 93 s"):
        refuse_unsavable(10**12, grace_seconds=30)


def test_the_warning_names_the_measured_times():
    assert grace_warning(20, 6.9, 30) is None
    assert "a step takes 7.1 s and a checkpoint 20.0 s, but distributed.grace_seconds=30" in grace_warning(20, 7.1, 30)
