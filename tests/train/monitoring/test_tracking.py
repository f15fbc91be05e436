"""A tracker that is down, hangs or comes back, and a run that is tracked."""

import threading
import time

import pytest

from train.monitoring import tracking
from train.monitoring.sink import Point
from train.monitoring.system_metrics import SystemMetrics
from train.monitoring.tracking import Tracked, Tracker, points_of
from train.run_folder.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


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


@pytest.mark.alone
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
