"""A run that was asked to stop saves and leaves; started again, it ends bit for bit where an undisturbed one does."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos.storm import assert_same_run
from tests.forked_commands import clean_environment
from tests.forked_ranks import Gang
from train.run_folder.manifest import verify_manifest
from train.run_folder.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
SECONDS = 120
CACHED = ("smoke", "output.demo=false", "optim.epochs=3", "data.max_validation_rows=24", "evaluation.batch_size=1")
PLAIN = (*CACHED, "speed.prefix_sharing=off", "optim.batch_size=2", "output.checkpoint_every_steps=3")
TWO_RANKS = (*PLAIN, "--nproc", "2")


def start(*arguments):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", "train", *arguments], cwd=ROOT, env=clean_environment(), **pipes)


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


def ended(gang):
    """Exit code and errors of a single rank."""
    [code] = gang.await_end(SECONDS)
    return code, gang.ranks[0].error


@pytest.fixture(scope="module")
def undisturbed(run, tmp_path_factory):
    folders = {}
    for name, arguments in (("cached", CACHED), ("plain", TWO_RANKS)):
        folders[name] = RunFolder(tmp_path_factory.mktemp(name))
        finished = run("train", *arguments, f"output.dir={folders[name].root}")
        assert finished.returncode == 0, finished.stderr
    return folders


def test_one_rank_stopped_by_file_and_in_an_evaluation(undisturbed, run, tmp_path, tmp_path_factory):
    arguments = (*CACHED, f"output.dir={tmp_path}")
    with Gang(1, arguments, tmp_path_factory.mktemp("by-file")) as gang:
        gang.await_line("step 1/")
        (tmp_path / "STOP").touch()
        code, error = ended(gang)
    assert code == 143
    assert error.splitlines()[-1].startswith("stopped: rank 0, training: stopped at step ")
    assert "saved. Start again to go on." in error
    assert not (tmp_path / "STOP").exists()

    with Gang(1, arguments, tmp_path_factory.mktemp("in-evaluation")) as gang:
        gang.await_line("step 8/")  # the end of an epoch: the evaluation is under way when the signal comes
        gang.ranks[0].send(signal.SIGTERM)
        code, error = ended(gang)
    assert code == 143, error
    assert "stopped at step 8, saved" in error

    finished = run("train", *arguments)
    assert finished.returncode == 0, finished.stderr
    assert "checkpoint-8" in finished.stdout
    assert_same_run(RunFolder(tmp_path), undisturbed["cached"])


def test_two_ranks_stopped_by_ctrl_c_and_by_one_of_them(undisturbed, run, tmp_path, tmp_path_factory):
    process = start(*TWO_RANKS, f"output.dir={tmp_path}")
    await_step(process, 2)
    process.send_signal(signal.SIGINT)  # to the launcher, which passes it on
    code, _, error = end(process)
    assert code == 130, error
    assert error.count("saved. Start again to go on.") == 2
    assert "Traceback" not in error

    with Gang(2, (*PLAIN, f"output.dir={tmp_path}"), tmp_path_factory.mktemp("by-one")) as gang:
        gang.await_line("step 7/")
        gang.ranks[1].send(signal.SIGTERM)
        assert gang.await_end(SECONDS) == [143, 143], gang.errors()
        assert all("saved. Start again to go on." in rank.error for rank in gang.ranks)

    finished = run("train", *TWO_RANKS, f"output.dir={tmp_path}")
    assert finished.returncode == 0, finished.stderr
    assert_same_run(RunFolder(tmp_path), undisturbed["plain"])


def test_stopped_while_publishing(undisturbed, run, tmp_path, tmp_path_factory):
    with Gang(1, (*CACHED, f"output.dir={tmp_path}"), tmp_path_factory.mktemp("publishing")) as gang:
        gang.await_line("step 12/")
        while '"phase": "publication"' not in (tmp_path / "status.json").read_text():
            assert gang.ranks[0].process.is_alive()
            time.sleep(0.02)
        gang.ranks[0].send(signal.SIGTERM)
        code, error = ended(gang)
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
