"""A resumed run is bit-equal to one never stopped: losses, gradient norms, learning rates and all weights it leaves.

For one rank and several, the plain and the cached path, from the middle of an epoch and from its end, in the middle of
an accumulation, with evaluations in between, and where rank 0 alone can see the volume.
"""

import shutil
import signal

import pytest

from tests.chaos.storm import assert_same_run
from tests.forked_ranks import Gang, run_gang
from tests.tiny_runs import CACHED, PLAIN, tiny_run
from train.run_folder.run_folder import COMMITTED, RunFolder

EVERY_STEP = ("output.checkpoint_every_steps=1", "output.keep_checkpoints=99")
MID_EPOCH, END_OF_EPOCH = 3, 4
SHAPES = [
    pytest.param(1, PLAIN, id="1-plain"),
    pytest.param(2, CACHED, id="2-cached"),
    pytest.param(3, PLAIN, id="3-plain"),  # from three ranks on, a sum depends on its order
    pytest.param(1, CACHED, id="1-cached", marks=pytest.mark.slow),
    pytest.param(2, PLAIN, id="2-plain", marks=pytest.mark.slow),
    pytest.param(4, PLAIN, id="4-plain", marks=pytest.mark.slow),
    pytest.param(4, CACHED, id="4-cached", marks=pytest.mark.slow),
]


def cut_back(folder, step):
    """What a SIGKILL after the checkpoint of `step` leaves: later checkpoints half-written, nothing published."""
    shutil.rmtree(folder.best_model)
    folder.summary.unlink()
    for marker in folder.checkpoints.glob(f"checkpoint-*/{COMMITTED}"):
        if int(marker.parent.name.rpartition("-")[2]) > step:
            marker.unlink()
            (marker.parent / "trainable.safetensors").write_bytes(b"half")


@pytest.mark.parametrize(("world_size", "path"), SHAPES)
def test_from_a_checkpoint(tmp_path, world_size, path):
    """Each rank has a folder of its own, as pods have when the volume is the master's alone; rank 0's holds the run."""
    arguments = tiny_run(tmp_path / "data", world_size, *EVERY_STEP, *path)
    undisturbed = RunFolder(tmp_path / "rank-0")
    own_folders = [[f"output.dir={tmp_path / f'rank-{rank}'}"] for rank in range(world_size)]
    run_gang(world_size, arguments, tmp_path / "logs", own_folders)
    resumed = RunFolder(tmp_path / "resumed")
    elsewhere = [[f"output.dir={tmp_path / f'elsewhere-{rank}'}"] for rank in range(1, world_size)]
    for step in (MID_EPOCH, END_OF_EPOCH):
        shutil.rmtree(resumed.root, ignore_errors=True)
        shutil.copytree(undisturbed.root, resumed.root)
        cut_back(resumed, step)
        gang = run_gang(world_size, arguments, tmp_path / f"from-{step}", [[f"output.dir={resumed.root}"], *elsewhere])
        assert f"checkpoint-{step}" in gang.ranks[0].out
        assert_same_run(resumed, undisturbed)
    for rank in range(1, world_size):
        assert not list((tmp_path / f"rank-{rank}").rglob("*.safetensors"))  # only rank 0 writes


@pytest.mark.parametrize(
    ("world_size", "path"),
    [pytest.param(1, CACHED, id="1-cached"), pytest.param(2, PLAIN, id="2-plain", marks=pytest.mark.slow)],
)
def test_killed_within_a_step(tmp_path, world_size, path):
    """SIGKILL falls between two steps' lines: in an accumulation, an evaluation or a checkpoint."""
    arguments = tiny_run(tmp_path / "data", world_size, *path)
    run_gang(world_size, [*arguments, f"output.dir={tmp_path / 'undisturbed'}"], tmp_path / "logs")
    disturbed = [*arguments, f"output.dir={tmp_path / 'disturbed'}"]
    with Gang(world_size, disturbed, tmp_path / "killed") as gang:
        gang.await_line("step 3/")
        for rank in gang.ranks:
            rank.send(signal.SIGKILL)
        assert gang.await_end() == [137] * world_size
    gang = run_gang(world_size, disturbed, tmp_path / "resumed")
    assert "checkpoint-2" in gang.ranks[0].out
    assert_same_run(RunFolder(tmp_path / "disturbed"), RunFolder(tmp_path / "undisturbed"))
