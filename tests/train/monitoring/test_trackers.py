"""The real TensorBoard, MLflow and Aim, each in a run folder, and one that cannot be reached."""

import json
import time

import pytest

from train.monitoring.sink import Description, Point
from train.monitoring.trackers import AimSink, MlflowSink, TensorBoardSink
from train.monitoring.tracking import Tracked
from train.run_folder.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def description(first_step=0):
    return Description("run", {"seed": "42", "trl": "x" * 9000}, {"fieldcraft.git_commit": "abc"}, first_step)


def point(step, value=1.0, name="train/loss"):
    return Point(name, value, step, time.time())


def test_mlflow_in_the_run_folder_goes_on_in_the_same_run(folder, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    pytest.importorskip("alembic", reason="MLflow's database needs alembic and sqlalchemy")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder.summary.write_text("{}")
    for first_step, steps in [(0, (1, 2)), (2, (3, 4))]:
        sink = MlflowSink(folder, description(first_step))
        sink.open()
        sink.send([point(step, value=step / 10) for step in steps])
        sink.send([point(steps[-1], name="validation/topic/Knots & uses (basic)")])
    sink.finish([folder.summary])
    client = mlflow.tracking.MlflowClient(f"sqlite:///{folder.mlflow / 'mlflow.db'}")
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert run.info.run_id == json.loads(folder.tracking.read_text())["mlflow"]["run_id"]
    assert run.info.status == "FINISHED"
    assert run.data.tags["fieldcraft.git_commit"] == "abc"
    assert run.data.params["seed"] == "42"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)]
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["training_summary.json"]
    assert (folder.mlflow / "artifacts").is_dir()


def test_aim_in_the_run_folder_goes_on_in_the_same_run(folder, monkeypatch):
    aim = pytest.importorskip("aim", reason="Aim is not installed")
    index_manager = pytest.importorskip("aim.sdk.index_manager").RepoIndexManager
    monkeypatch.delenv("AIM_REPO", raising=False)
    folder.summary.write_text("{}")
    for first_step, steps in [(0, (1, 2, 3)), (2, (3, 4))]:
        sink = AimSink(folder, description(first_step))
        sink.open()
        sink.send([point(step, value=10.0 * first_step + step) for step in steps])
        sink.send([point(steps[-1], name="validation/topic/Knots & uses (basic)")])
        sink.finish([folder.summary])
    repository = aim.Repo(str(folder.aim))
    (run_id,) = repository.list_all_runs()
    assert run_id == json.loads(folder.tracking.read_text())["aim"]["run_id"]
    index_manager.get_index_manager(repository).index(run_id)  # as `aim up` does
    run = aim.Run(run_id, repo=repository, read_only=True)
    assert (run.name, run["settings", "seed"], run["made_from"]) == ("run", "42", {"fieldcraft.git_commit": "abc"})
    series = {metric.name: metric.data.numpy() for metric in run.metrics()}
    steps, (values, *_) = series["train/loss"]
    assert list(zip(steps, values, strict=True)) == [(1, 1.0), (2, 2.0), (3, 23.0), (4, 24.0)]
    assert "validation/topic/Knots & uses (basic)" in series
    assert [path.name for path in (folder.aim / "artifacts").glob("*/*")] == ["training_summary.json"]


def test_an_aim_server_is_refused(folder, capsys, monkeypatch):
    monkeypatch.setenv("AIM_REPO", "aim://tracker.example:53800")
    Tracked(AimSink(folder, description())).send([point(1)])
    assert "warning: tracking: aim: ValueError: AIM_REPO must be a folder" in capsys.readouterr().err


def test_an_mlflow_server_that_is_down_costs_a_warning(folder, capsys, monkeypatch):
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # the discard port: nothing listens
    tracked = Tracked(MlflowSink(folder, description()))
    start = time.monotonic()
    tracked.send([point(1)])
    assert time.monotonic() - start < 20
    assert "warning: tracking: mlflow: MlflowException" in capsys.readouterr().err


def test_tensorboard_steps_go_on_and_what_is_repeated_is_hidden(folder):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="TensorBoard is not installed"
    )
    for first_step, steps in [(0, (1, 2, 3)), (2, (3, 4))]:
        sink = TensorBoardSink(folder, description(first_step))
        sink.open()
        sink.send([point(step, value=float(first_step)) for step in steps])
        sink.finish([])
        time.sleep(1.1)  # event files are named by the second, and read in the order of their names
    events = accumulator.EventAccumulator(str(folder.tensorboard))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 0), (2, 0), (3, 2), (4, 2)]
