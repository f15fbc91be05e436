import pytest

from data.render import RenderedRow
from train.failure import ConfigError
from train.methods.sft import RowDataset
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


def test_a_rank_without_a_row_gets_one_without_labels():
    rows = RowDataset([RenderedRow([5, 6, 7], [-100, 6, 7])])
    assert rows[-1] == {"input_ids": [5, 6], "labels": [-100, -100], "number": 0}
    assert rows[0] == {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "number": 0}
