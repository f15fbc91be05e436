"""How a run stands, as `python -m train status` shows it, with the exit code for each state."""

import datetime
import json

import pytest
from rich.console import Console

from data.files import write_json
from train.failure import ConfigError
from train.results.status import show_status, sparkline
from train.run_folder.run_folder import RunFolder
from train.units import utc_now

CONFIG = {"recipe": "smoke", "config": {}, "sources": {}}
STATUS = {
    "phase": "training",
    "restarts": 2,
    "step": 2,
    "total_steps": 8,
    "percent": 25.0,
    "seconds_left": 75.0,
    "tokens_per_second": 1234.5,
    "memory_bytes": 2**30,
    "seconds_per_step": 1.0,
}


def ago(seconds):
    moment = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds)
    return moment.isoformat(timespec="seconds")


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path)
    write_json(folder.config, CONFIG)
    write_json(folder.history, [{"kind": "step", "step": step, "loss": 3.0 - step} for step in (1, 2)])
    write_json(folder.status, {**STATUS, "updated": utc_now()})
    return folder


def shown(folder, **options):
    console = Console(width=120, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    code = show_status(folder, follow=False, console=console, **options)
    return code, console.export_text()


def test_a_run_under_way(folder):
    code, text = shown(folder)
    assert code == 0
    for part in ("under way", "2 of 8  (25.0 %)", "1.0000", "1,234 tokens/s", "1 min 15 s", "restarts", "1.00 GiB"):
        assert part in text


@pytest.mark.parametrize(
    ("status", "failure", "code", "said"),
    [
        ({"updated": 600}, None, 1, "No sign of life for 10 min"),
        ({"updated": 600, "seconds_per_step": 90.0}, None, 0, "under way"),
        ({"updated": 600, "phase": "demo"}, None, 0, "under way"),
        ({"phase": "done"}, None, 0, "done"),
        ({}, {"exit_code": 6, "failure_class": "diverged", "message": "loss [nan]", "remedy": "Lower it."}, 6, "[nan]"),
        ({}, {"exit_code": 143, "failure_class": "stopped", "message": "saved", "remedy": ""}, 143, "stopped"),
    ],
)
def test_states_and_their_exit_codes(folder, status, failure, code, said):
    write_json(folder.status, {**STATUS, **status, "updated": ago(status.get("updated", 0))})
    if failure:
        write_json(folder.failure, failure)
    found, text = shown(folder)
    assert found == code
    assert said in text


def test_following_ends_with_the_run(folder):
    looks = []

    def wait(seconds):
        looks.append(seconds)
        if len(looks) == 2:
            write_json(folder.status, {**STATUS, "phase": "done", "updated": utc_now()})

    console = Console(width=100, file=open("/dev/null", "w"))  # noqa: SIM115
    assert show_status(folder, follow=True, console=console, wait=wait) == 0
    assert len(looks) == 2


def test_where_there_is_no_run(tmp_path):
    with pytest.raises(ConfigError, match="holds no run"):
        show_status(RunFolder(tmp_path), follow=False)


def test_a_flat_curve_has_no_bars():
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert len(sparkline(list(range(1000)))) <= 40


def test_the_command(run, smoke_run, tmp_path):
    finished = run("train", "status", str(smoke_run))
    assert finished.returncode == 0, finished.stderr
    assert "done" in finished.stdout
    refused = run("train", "status", str(tmp_path))
    assert refused.returncode == 2
    assert "holds no run" in refused.stderr
    assert json.loads((smoke_run / "status.json").read_text())["restarts"] == 0
