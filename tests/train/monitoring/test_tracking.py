"""Trackers told of a run: the real TensorBoard and MLflow, and trackers that are down, hang or come back."""

import json
import threading
import time

import pytest
import torch.distributed as dist

from train.monitoring import system_metrics, tracking
from train.monitoring.sink import Description, Point
from train.monitoring.system_metrics import SystemMetrics, sample_system
from train.monitoring.trackers import AimSink, MlflowSink, TensorBoardSink
from train.monitoring.tracking import Tracked, Tracker, points_of
from train.run_folder.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def description(first_step=0):
    return Description("run", {"seed": "42", "trl": "x" * 9000}, {"fieldcraft.git_commit": "abc"}, first_step)


def point(step, value=1.0, name="train/loss"):
    return Point(name, value, step, time.time())


def a_step(number):
    return {"kind": "step", "step": number, "total_steps": 8, "percent": 1.0, "loss": 2.0, "grad_norm": 1.0}


class Sink:
    """A tracker that fails as long as it is told to."""

    name = "mine"

    def __init__(self, fails=0, gate=None):
        self.fails, self.gate, self.sent, self.files = fails, gate, [], None

    def open(self):
        if self.gate:
            self.gate.wait(30)
        self.fails -= 1
        if self.fails >= 0:
            raise ConnectionError("refused")

    def send(self, points):
        self.sent += points

    def finish(self, files):
        self.files = files


def test_numbers_of_records():
    assert {(p.name, p.value) for p in points_of(a_step(3), 0.0)} == {("train/loss", 2.0), ("train/grad_norm", 1.0)}
    assert points_of({"kind": "epoch", "step": 3, "epoch": 1}, 0.0) == []


def test_a_tracker_that_comes_back_gets_everything(capsys, monkeypatch):
    monkeypatch.setattr(tracking, "SECONDS_BETWEEN_TRIES", 0.0)
    tracked = Tracked(sink := Sink(fails=2))
    for step in (1, 2, 3):
        tracked.send([point(step)])
    tracked.finish([])
    assert [p.step for p in sink.sent] == [1, 2, 3]
    assert sink.files == []
    assert capsys.readouterr().err == "warning: tracking: mine: ConnectionError: refused. The run goes on without it.\n"


def test_a_tracker_that_stays_down_is_named_once_and_its_loss_counted(capsys, monkeypatch):
    monkeypatch.setattr(tracking, "MOST_KEPT", 2)
    tracked = Tracked(sink := Sink(fails=99))
    for step in (1, 2, 3):
        tracked.send([point(step)], now=True)
    tracked.finish([])
    assert sink.files is None
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "3 numbers were not delivered" in lines[1]


def test_a_warning_shows_no_secret(capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct-horse")
    tracking.warn("mlflow: correct-horse was refused by https://me:p@ss@tracker.example/x")
    assert capsys.readouterr().err == "warning: tracking: mlflow: *** was refused by https://***@tracker.example/x.\n"


def test_a_tracker_that_hangs_does_not_hold_up_training(folder, capsys, monkeypatch):
    monkeypatch.setattr(tracking, "PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 0.2)
    tracker = Tracker([Sink(gate=(gate := threading.Event()))], SystemMetrics(0, 1, None), folder)
    tracker.start()
    start = time.monotonic()
    for step in range(1000):
        tracker.show(a_step(step))
    assert time.monotonic() - start < 0.5
    tracker.pause()
    tracker.enter("done")
    assert time.monotonic() - start < 2
    assert "not finished" in capsys.readouterr().err
    gate.set()


def test_a_tracker_gets_numbers_system_metrics_and_files(folder, capsys):
    folder.summary.write_text("{}")
    tracker = Tracker([sink := Sink()], SystemMetrics(0, 1, None), folder)
    tracker.start()
    tracker.show(a_step(1))
    tracker.pause()
    assert {"train/loss", "system/rank0/cpu_percent"} <= {p.name for p in sink.sent}
    tracker.show(a_step(2))
    tracker.enter("done")
    assert [p.step for p in sink.sent if p.name == "train/loss"] == [1, 2]
    assert sink.files == [folder.summary]
    assert capsys.readouterr().err == ""


def test_system_metrics_of_every_rank_reach_rank_0(monkeypatch):
    monkeypatch.setattr(system_metrics, "SECONDS_BETWEEN_SAMPLES", 0.05)
    store = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
    other = SystemMetrics(1, 2, dist.TCPStore("127.0.0.1", store.port, 2, is_master=False))
    other.start()
    mine = SystemMetrics(0, 2, store)
    deadline = time.monotonic() + 20
    while "rank1/memory_gib" not in (found := mine.of_all_ranks()) and time.monotonic() < deadline:
        time.sleep(0.05)
    other.stop()
    assert found["rank1/memory_gib"] > 0
    assert found.keys() == {f"rank{rank}/{name}" for rank in (0, 1) for name in sample_system()}


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


def test_a_tracked_run_is_bit_for_bit_the_untracked_one_though_a_tracker_is_down(run, smoke_run, history, tmp_path):
    options = ("output.demo=false", "output.track=[tensorboard, mlflow]")
    server = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    tracked = run("train", "smoke", f"output.dir={tmp_path}", *options, **server)
    assert tracked.returncode == 0, tracked.stderr
    assert tracked.stderr.count("warning: tracking: mlflow: MlflowException") == 1
    for name in ("loss", "grad_norm"):
        plain, watched = ([record[name] for record in history(folder, "step")] for folder in (smoke_run, tmp_path))
        assert watched == plain
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_an_unknown_tracker_is_refused(run):
    refused = run("train", "smoke", "output.track=[wandb]", "--dry-run")
    assert refused.returncode == 2
    assert "output.track" in refused.stderr
