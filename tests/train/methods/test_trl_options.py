import pytest

from train.failure import ConfigError
from train.methods.trl_options import make_sft_config


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"learning_rate": 1}, "trl.learning_rate is decided elsewhere"),
        ({"adam_betta2": 0.9}, "Did you mean 'trl.adam_beta2'?"),
        ({"lr_scheduler_kwargs": "{"}, "TRL refuses these options"),
    ],
)
def test_trl_options_are_validated(extra, says, tmp_path):
    with pytest.raises(ConfigError) as error:
        make_sft_config({"output_dir": str(tmp_path), "learning_rate": 1e-4, "use_cpu": True, "bf16": False}, extra)
    assert says in str(error.value)
