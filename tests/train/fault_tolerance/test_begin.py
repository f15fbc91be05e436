import pytest

from data.files import write_json
from tests.tiny_checkpoints import IDENTITY, begun_run, checkpoint
from train.failure import ConfigError
from train.fault_tolerance.begin import decide_beginning
from train.run_folder.manifest import published_atomically
from train.run_folder.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    return begun_run(tmp_path)


def finish(folder):
    with published_atomically(folder.best_model) as aside:
        (aside / "weights").touch()
    write_json(folder.summary, {})


def test_an_empty_folder_begins_fresh(tmp_path):
    assert decide_beginning(RunFolder(tmp_path / "none"), "resume", IDENTITY) == ("fresh", None)


def test_only_committed_checkpoints_count_and_the_newest_wins(folder):
    checkpoint(folder, 4)
    ten = checkpoint(folder, 10)
    checkpoint(folder, 12, committed=False)
    assert decide_beginning(folder, "resume", IDENTITY) == ("resume", ten)


def test_nothing_committed_begins_fresh(folder):
    checkpoint(folder, 4, committed=False)
    assert decide_beginning(folder, "resume", IDENTITY) == ("fresh", None)


def test_a_finished_run_is_left_alone(folder):
    checkpoint(folder, 4)
    finish(folder)
    assert decide_beginning(folder, "resume", IDENTITY) == ("finished", None)


def test_fresh_and_fail(folder):
    checkpoint(folder, 4)
    assert decide_beginning(folder, "fresh", IDENTITY) == ("fresh", None)
    with pytest.raises(ConfigError, match="already holds a run"):
        decide_beginning(folder, "fail", IDENTITY)


def test_another_run_is_refused_naming_the_difference(folder):
    checkpoint(folder, 4)
    with pytest.raises(ConfigError, match=r"optim.epochs: 2 -> 3.*if_exists=fresh"):
        decide_beginning(folder, "resume", {**IDENTITY, "optim.epochs": 3})
