"""A run that goes on from a checkpoint ends bit for bit where one that never stopped does."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

ARGUMENTS = (
    "smoke",
    "output.demo=false",
    "output.checkpoint_every_steps=3",
    "output.keep_checkpoints=9",
    "evaluation.every_steps=2",
)


@pytest.fixture(scope="module")
def undisturbed(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    finished = run("train", *ARGUMENTS, f"output.dir={folder}")
    assert finished.returncode == 0, finished.stderr
    return folder


def as_if_killed_after(step, undisturbed, folder):
    """What a SIGKILL after the checkpoint of `step` leaves: that checkpoint, a later half-written one, no summary."""
    shutil.copytree(undisturbed, folder, dirs_exist_ok=True)
    for name in ("best_model", "demo_outputs"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "training_summary.json").unlink()
    for checkpoint in (folder / "checkpoints").glob("checkpoint-*"):
        if int(checkpoint.name.split("-")[1]) > step:
            (checkpoint / "COMMITTED").unlink()
            (checkpoint / "trainable.safetensors").write_bytes(b"half")


def test_resumed_is_bit_equal(run, undisturbed, history, tmp_path):
    as_if_killed_after(3, undisturbed, tmp_path)
    finished = run("train", *ARGUMENTS, f"output.dir={tmp_path}")
    assert finished.returncode == 0, finished.stderr
    assert "resuming from" in finished.stdout
    assert "checkpoint-3" in finished.stdout
    for kind in ("step", "evaluation"):
        exact = [(record["step"], record["loss"]) for record in history(undisturbed, kind)]
        assert [(record["step"], record["loss"]) for record in history(tmp_path, kind)] == exact
    for name in ("best.safetensors", "checkpoint-6/trainable.safetensors"):
        one, other = (load_file(folder / "checkpoints" / name) for folder in (undisturbed, tmp_path))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_other_settings_are_refused(run, undisturbed, tmp_path):
    as_if_killed_after(3, undisturbed, tmp_path)
    finished = run("train", *ARGUMENTS, f"output.dir={tmp_path}", "optim.epochs=3")
    assert finished.returncode == 2
    assert "optim.epochs: 2 -> 3" in finished.stderr
