"""All guards of a rank at once, in a process of its own: signals belong to a process."""

import json
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROGRAM = """
import os, sys, time
from train.config.run_config import resolve_config
from train.failure import Phases
from train.fault_tolerance.guards import guarded

phases = Phases()
with guarded(resolve_config("smoke", [f"output.dir={sys.argv[1]}"], {}).config, phases, 0, os._exit) as guards:
    with phases("model"):
        guards.lock.acquire()
        print("loading", flush=True)
        time.sleep(60 * len(sys.argv[2:]))
"""


def started(folder, *more):
    command = [sys.executable, "-c", PROGRAM, str(folder), *more]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_before_training_sigterm_ends_a_run_at_once_and_gives_its_folder_back(tmp_path):
    process = started(tmp_path, "waits")
    assert process.stdout.readline() == "loading\n"
    assert (tmp_path / "run.lock").is_file()
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "stopped by SIGTERM; there was nothing to save" in error
    assert not (tmp_path / "run.lock").exists()
    record = json.loads((tmp_path / "failure.json").read_text())
    assert (record["failure_class"], record["phase"], record["exit_code"]) == ("stopped", "model", 143)


def test_a_run_that_ends_well_gives_its_folder_back(tmp_path):
    process = started(tmp_path)
    assert process.communicate(timeout=30) == ("loading\n", "")
    assert process.returncode == 0
    assert list(tmp_path.iterdir()) == []
