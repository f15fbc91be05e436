import json
from types import SimpleNamespace

import pytest

from train.failure import DivergedError
from train.monitoring.recorder import Recorder
from train.run_folder.run_folder import RunFolder


class KeepDisplay:
    def __init__(self):
        self.records, self.closed = [], False

    def show(self, record):
        self.records.append(record)

    def close(self):
        self.closed = True


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def recorder(folder, **overrides):
    defaults = {
        "num_rows": 32,
        "num_tokens": 3200,
        "effective_batch_size": 8,
        "steps_between_evaluations": 4,
        "folder": folder,
        "display": KeepDisplay(),
    }
    return Recorder(**{**defaults, **overrides})


def step(recorder, number, loss=2.0, grad_norm=1.0, max_steps=8):
    state = SimpleNamespace(global_step=number, max_steps=max_steps, epoch=number / 4)
    recorder.on_step_begin(None, state, None)
    recorder.on_step_end(None, state, None)
    logs = {"loss": loss, "grad_norm": grad_norm, "learning_rate": 1e-4, "token_accuracy": 0.5}
    recorder.on_log(None, state, None, logs)
    return state


def test_records_history_and_status(folder):
    record = recorder(folder)
    state = step(record, 1)
    record.on_log(None, state, None, {"eval_loss": 1.5})
    record.on_train_end(None, state, None)
    history = json.loads(folder.history.read_text())
    assert [(entry["kind"], entry["step"]) for entry in history] == [("step", 1), ("evaluation", 1)]
    assert history[0]["percent"] == 12.5
    assert history[0]["perplexity"] == pytest.approx(7.389, abs=1e-3)
    assert json.loads(folder.status.read_text())["evaluation_loss"] == 1.5
    assert record.display.closed


@pytest.mark.parametrize(
    ("loss", "grad_norm", "what"),
    [
        (float("nan"), 1.0, "training loss became nan at step 3"),
        (1.0, float("inf"), "gradient norm became inf at step 3"),
    ],
)
def test_a_diverged_run_stops_naming_the_step(folder, loss, grad_norm, what):
    record = recorder(folder)
    step(record, 2)
    with pytest.raises(DivergedError, match=what):
        step(record, 3, loss, grad_norm)
    assert [entry["step"] for entry in json.loads(folder.history.read_text())] == [2]


def test_every_rank_stops_but_only_the_main_one_writes(folder):
    worker = recorder(None, display=None)
    with pytest.raises(DivergedError):
        step(worker, 1, float("nan"))
    assert not folder.history.exists()


def test_a_resumed_run_takes_up_the_history_up_to_its_checkpoint(folder):
    first = recorder(folder)
    for number in (1, 2, 3):
        step(first, number)
    first.write(force=True)
    resumed = recorder(folder, resumed=True)
    state = SimpleNamespace(global_step=2, max_steps=8, epoch=0.5)
    resumed.on_train_begin(SimpleNamespace(num_train_epochs=2), state, None)
    assert [entry["step"] for entry in resumed.history] == [1, 2]


def test_a_checkpoint_of_an_epochs_last_step_gets_the_epochs_record(folder):
    first = recorder(folder)
    for number in range(1, 5):
        state = step(first, number)
    first.on_save(None, state, None)
    for _ in range(2):  # resumed twice: one record all the same
        resumed = recorder(folder, resumed=True)
        resumed.on_train_begin(SimpleNamespace(num_train_epochs=2), state, None)
        resumed.write(force=True)
        assert [entry["step"] for entry in resumed.history if entry["kind"] == "epoch"] == [4]


def test_an_evaluation_made_again_after_a_resume_replaces_the_first(folder):
    record = recorder(folder)
    state = step(record, 1)
    for loss in (1.5, 1.25):
        record.on_log(None, state, None, {"eval_loss": loss})
    assert record.losses("evaluation") == [1.25]
