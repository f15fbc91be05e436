import pytest

from train.config.run_config import resolve_config
from train.failure import ConfigError
from train.planning.dry_run import assumed_world_size, print_dry_run

FLAGSHIP = "smollm3-l40s-x4"


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def ranks(*overrides, recipe="smoke"):
    return assumed_world_size(resolve_config(recipe, overrides, {}))


def test_the_environment_counts_before_the_recipe_and_that_before_local_processes(monkeypatch):
    assert ranks() == 1
    assert ranks("distributed.processes=2") == 2
    assert ranks(recipe=FLAGSHIP) == 4
    for name, value in {"WORLD_SIZE": "3", "RANK": "0", "MASTER_ADDR": "m", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert ranks() == 3
    with pytest.raises(ConfigError, match=r"made for distributed.world_size=4, but 3 process"):
        ranks(recipe=FLAGSHIP)


def test_the_flagship_as_the_design_has_it(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    print_dry_run(resolve_config(FLAGSHIP, ["seed=7"], {}))
    out = capsys.readouterr().out
    for part in ("64 rows", "0.0002", "418.9 M trainable = 13.62 % of the base model's 3,075.1 M", "command line"):
        assert part in out


def test_what_the_run_would_refuse_is_refused():
    with pytest.raises(ConfigError, match=r"evaluation.every_steps=100000 is never reached"):
        print_dry_run(resolve_config("smoke", ["evaluation.every_steps=100000"], {}))
