"""A run that was asked to stop saves and leaves; started again, it ends bit for bit where an undisturbed one does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos.storm import assert_same_run
from tests.free_ports import free_port
from train.run_folder.manifest import verify_manifest
from train.run_folder.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
SECONDS = 120
CACHED = ("smoke", "output.demo=false", "optim.epochs=3", "data.max_validation_rows=24", "evaluation.batch_size=1")
PLAIN = (*CACHED, "speed.prefix_sharing=off", "optim.batch_size=2", "output.checkpoint_every_steps=3")
TWO_RANKS = (*PLAIN, "--nproc", "2")


def start(*arguments, **environment):
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", "train", *arguments], cwd=ROOT, env=variables, **pipes)


def await_step(process, step):
    for line in process.stdout:
        if line.startswith(f"step {step}/"):
            return
    raise AssertionError(f"step {step} never came: {process.communicate()[1]}")


def end(process):
    try:
        out, error = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    return process.returncode, out, error


@pytest.fixture(scope="module")
def undisturbed(run, tmp_path_factory):
    folders = {}
    for name, arguments in (("cached", CACHED), ("plain", TWO_RANKS)):
        folders[name] = RunFolder(tmp_path_factory.mktemp(name))
        finished = run("train", *arguments, f"output.dir={folders[name].root}")
        assert finished.returncode == 0, finished.stderr
    return folders


def test_one_rank_stopped_by_file_and_in_an_evaluation(undisturbed, run, tmp_path):
    arguments = (*CACHED, f"output.dir={tmp_path}")
    process = start(*arguments)
    await_step(process, 1)
    (tmp_path / "STOP").touch()
    code, _, error = end(process)
    assert code == 143
    assert error.splitlines()[-1].startswith("stopped: rank 0, training: stopped at step ")
    assert "saved. Start again to go on." in error
    assert not (tmp_path / "STOP").exists()

    process = start(*arguments)
    await_step(process, 8)  # the end of an epoch: the evaluation is under way when the signal comes
    process.send_signal(signal.SIGTERM)
    code, _, error = end(process)
    assert code == 143, error
    assert "stopped at step 8, saved" in error

    finished = run("train", *arguments)
    assert finished.returncode == 0, finished.stderr
    assert "checkpoint-8" in finished.stdout
    assert_same_run(RunFolder(tmp_path), undisturbed["cached"])


def test_two_ranks_stopped_by_ctrl_c_and_by_one_of_them(undisturbed, run, tmp_path):
    process = start(*TWO_RANKS, f"output.dir={tmp_path}")
    await_step(process, 2)
    process.send_signal(signal.SIGINT)  # to the launcher, which passes it on
    code, _, error = end(process)
    assert code == 130, error
    assert error.count("saved. Start again to go on.") == 2
    assert "Traceback" not in error

    meet = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [start(*PLAIN, f"output.dir={tmp_path}", RANK=str(rank), **meet) for rank in range(2)]
    await_step(ranks[0], 7)
    ranks[1].send_signal(signal.SIGTERM)
    ended = [end(process) for process in ranks]
    assert [code for code, _, _ in ended] == [143, 143], ended
    assert all("saved. Start again to go on." in error for _, _, error in ended)

    finished = run("train", *TWO_RANKS, f"output.dir={tmp_path}")
    assert finished.returncode == 0, finished.stderr
    assert_same_run(RunFolder(tmp_path), undisturbed["plain"])


def test_stopped_while_publishing(undisturbed, run, tmp_path):
    process = start(*CACHED, f"output.dir={tmp_path}")
    await_step(process, 12)
    while '"phase": "publication"' not in (tmp_path / "status.json").read_text():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    code, _, error = end(process)
    assert code == 143, error
    assert "publication" in error
    assert not (tmp_path / "best_model").exists()
    finished = run("train", *CACHED, f"output.dir={tmp_path}")
    assert finished.returncode == 0, finished.stderr
    assert_same_run(RunFolder(tmp_path), undisturbed["cached"])


def test_checkpoints_by_the_clock(run, tmp_path):
    often = ("output.checkpoint_every_minutes=0.0001", "output.keep_checkpoints=99")
    finished = run("train", "smoke", "output.demo=false", "optim.epochs=1", *often, f"output.dir={tmp_path}")
    assert finished.returncode == 0, finished.stderr
    committed = sorted(path.parent.name for path in (tmp_path / "checkpoints").glob("*/COMMITTED"))
    assert committed == [f"checkpoint-{step}" for step in range(1, 5)]
    for name in committed:
        assert "trainable.safetensors" in verify_manifest(tmp_path / "checkpoints" / name)["files"]
