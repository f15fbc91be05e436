import pytest

from train.config.run_config import ENVIRONMENT, field_names, resolve_config
from train.config.yaml_files import recipe_names
from train.failure import ConfigError


def resolve(*overrides, recipe="laptop", environment=None):
    return resolve_config(recipe, overrides, environment or {})


def test_precedence_is_command_line_environment_recipe_default():
    assert resolve().config.optim.learning_rate == 2e-4  # recipe
    assert resolve().config.optim.weight_decay == 0.01  # default
    assert resolve(environment={"EPOCHS": "5"}).config.optim.epochs == 5
    resolved = resolve("optim.epochs=7", environment={"EPOCHS": "5", "BATCH_SIZE": "3"})
    assert (resolved.config.optim.epochs, resolved.config.optim.batch_size) == (7, 3)
    assert resolved.source_of("optim.epochs") == "command line"
    assert resolved.source_of("optim.batch_size") == "environment BATCH_SIZE"
    assert resolved.source_of("optim.learning_rate") == "recipe laptop.yaml"
    assert resolved.source_of("optim.weight_decay") == "default"


def test_every_environment_name_sets_a_real_field():
    assert set(ENVIRONMENT.values()) <= set(field_names())


def test_recipe_from_environment_and_from_a_file(tmp_path):
    assert resolve_config(None, (), {"RECIPE": "smoke"}).recipe == "smoke"
    own = tmp_path / "mine.yaml"
    own.write_text("optim: {epochs: 9}\n")
    assert resolve_config(str(own), (), {}).config.optim.epochs == 9


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optim.epoch=2", "Did you mean 'optim.epochs'?"),
        ("learning_rate=1", "Did you mean 'optim.learning_rate'?"),
        ("optim.epochs=two", "optim.epochs: input should be a valid integer"),
        ("optim.epochs=0", "optim.epochs: input should be greater than 0, not 0 (command line)"),
        ("adapt.head=knotted", "adapt.head: input should be 'untied', 'tied' or 'frozen'"),
        ("data.validation_fraction=0.9", "less than or equal to 0.5"),
        ("optim.epochs", "not of the form key=value"),
        ("=3", "not of the form key=value"),
        ("optim.epochs=[1", "not valid YAML"),
    ],
)
def test_bad_overrides_name_the_field_and_the_remedy(override, says):
    with pytest.raises(ConfigError) as error:
        resolve(override)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("optim: {epochz: 2}", "Did you mean 'optim.epochs'"),
        ("optimm: {epochs: 2}", "unknown key 'optimm.epochs' (recipe bad.yaml)"),
        ("[1, 2]", "must be a mapping"),
        ("optim: {epochs", "not valid YAML"),
        ("", "holds no settings"),
    ],
)
def test_bad_recipes(tmp_path, content, says):
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError) as error:
        resolve_config(str(path), (), {})
    assert says in str(error.value)


def test_unknown_recipe_names_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'laptop'"):
        resolve(recipe="labtop")


def test_trl_options_pass_through():
    assert resolve("trl.adam_beta2=0.98", "trl.optim=adamw_torch").config.trl == {
        "adam_beta2": 0.98,
        "optim": "adamw_torch",
    }


def test_learning_rate_scales_with_the_world():
    config = resolve("optim.learning_rate=5e-5").config
    assert config.learning_rate_at(4) == pytest.approx(2e-4)
    assert resolve("optim.scale_learning_rate=false", "optim.learning_rate=5e-5").config.learning_rate_at(4) == 5e-5


def test_deciding_fields_ignore_where_output_goes():
    assert (
        resolve("output.dir=/a", "distributed.processes=3").config.deciding_fields()
        == resolve().config.deciding_fields()
    )
    assert resolve("optim.epochs=3").config.deciding_fields() != resolve().config.deciding_fields()


def test_a_file_is_looked_for_in_data_dir_first(tmp_path):
    config = resolve(f"data.dir={tmp_path}").config
    assert config.data_file(config.data.system_prompt).is_file()  # the repository's own
    own = tmp_path / config.data.system_prompt
    own.parent.mkdir()
    own.write_text("mine")
    assert config.data_file(config.data.system_prompt) == own


def test_config_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        resolve().config.seed = 1


def test_there_are_recipes():
    assert {"laptop", "smoke", "smollm3-l40s-x4", "smollm3-l40s-x1"} <= set(recipe_names())
