"""Every recipe parses and dry-runs, here, without weights and without the network."""

import pytest

from train.config.run_config import resolve_config
from train.config.yaml_files import RECIPES, recipe_names
from train.planning.dry_run import print_dry_run


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_dry_runs(recipe, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    print_dry_run(resolve_config(recipe, (), {}))
    out = capsys.readouterr().out
    assert "effective batch" in out
    assert f"recipe {recipe}.yaml" in out


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_states_command_hardware_time_and_result(recipe):
    header = [line for line in (RECIPES / f"{recipe}.yaml").read_text().splitlines() if line.startswith("#")]
    stated = {line.removeprefix("#").split()[0] for line in header}
    assert {"command", "hardware", "time", "result"} <= stated, recipe


def test_the_flagship_is_the_one_designed(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    print_dry_run(resolve_config("smollm3-l40s-x4", (), {}))
    cells = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    lines = {cell[1].strip(): cell[2].strip() for cell in cells}
    assert lines["effective batch"] == "64 rows"
    assert lines["learning rate"] == "0.0002"
    assert lines["parameters"] == "418.9 M trainable = 13.62 % of the base model's 3,075.1 M"


def test_the_single_node_recipe():
    config = resolve_config("smollm3-l40s-x1", (), {}).config
    assert (config.effective_batch_size(1), config.learning_rate_at(1)) == (60, 5e-5)
