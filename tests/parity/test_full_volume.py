"""The output volume fills up while a run is under way: it goes on, cannot publish, and ends well once there is room."""

from tests.chaos.storm import assert_same_run
from tests.forked_ranks import Gang, run_gang
from tests.small_volume import fill_up, small_volume
from tests.tiny_runs import CACHED, tiny_run
from train.failure import ExitCode
from train.run_folder.run_folder import COMMITTED, RunFolder

SHORT_RETRIES = "distributed.collective_timeout_seconds=4"


def test_full_in_the_middle_of_training(tmp_path):
    arguments = tiny_run(tmp_path / "data", 1, *CACHED, SHORT_RETRIES)
    run_gang(1, [*arguments, f"output.dir={tmp_path / 'undisturbed'}"], tmp_path / "logs")
    with small_volume(tmp_path / "small", megabytes=24) as volume:
        folder = RunFolder(volume / "run")
        arguments = [*arguments, f"output.dir={folder.root}"]
        with Gang(1, arguments, tmp_path / "full") as gang:
            gang.await_line("step 3/")
            obstacle = fill_up(volume)
            assert gang.await_end(150) == [ExitCode.STORAGE], gang.errors()
        error = gang.ranks[0].error
        assert "step 6/6" in gang.ranks[0].out  # training went on
        assert "warning: checkpoint-4 could not be written" in error
        assert "warning: best_model could not be written" in error
        assert "No space left on device" in error.splitlines()[-1]
        assert "Traceback" not in error
        assert [marker.parent.name for marker in folder.checkpoints.glob(f"*/{COMMITTED}")] == ["checkpoint-2"]
        assert not folder.best_model.exists()
        obstacle.unlink()
        resumed = run_gang(1, arguments, tmp_path / "resumed")
        assert "checkpoint-2" in resumed.ranks[0].out
        assert_same_run(folder, RunFolder(tmp_path / "undisturbed"))
