import pytest

from data.files import write_json
from train.failure import ConfigError
from train.results.run_files import RunFiles
from train.run_folder.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path)
    write_json(folder.config, {"recipe": "smoke"})
    return folder


def test_a_run_that_has_just_begun_has_empty_parts(folder):
    files = RunFiles.read(folder)
    assert (files.config, files.history, files.summary) == ({"recipe": "smoke"}, [], {})
    assert (files.original, files.best, files.num_restarts, files.was_asked_to_stop) == (None, None, 0, False)


def test_the_best_evaluation_is_one_of_the_trained_model(folder):
    losses = {0: 1.0, 4: 3.0, 8: 2.0}
    write_json(folder.history, [{"kind": "evaluation", "step": step, "loss": loss} for step, loss in losses.items()])
    files = RunFiles.read(folder)
    assert (files.original["step"], files.best["step"]) == (0, 8)


def test_restarts_are_those_of_the_summary_once_there_is_one(folder):
    write_json(folder.starts, [{}, {}, {}])
    assert RunFiles.read(folder).num_restarts == 2
    write_json(folder.summary, {"restarts": 5})
    assert RunFiles.read(folder).num_restarts == 5


@pytest.mark.parametrize(
    ("failure_class", "asked"), [("stopped", True), ("interrupted", True), ("diverged", False), (None, False)]
)
def test_a_stop_on_request_is_no_failure(folder, failure_class, asked):
    if failure_class:
        write_json(folder.failure, {"failure_class": failure_class})
    assert RunFiles.read(folder).was_asked_to_stop == asked


def test_what_is_refused(tmp_path, folder):
    with pytest.raises(ConfigError, match="holds no run"):
        RunFiles.read(RunFolder(tmp_path / "none"))
    folder.history.write_text("[{")
    with pytest.raises(ConfigError, match="is not JSON"):
        RunFiles.read(folder)
