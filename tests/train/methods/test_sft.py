import pytest

from data.render import RenderedRow
from train.config.run_config import resolve_config
from train.failure import ConfigError
from train.methods.sft import RowDataset
from train.methods.trl_options import make_sft_config, refuse_nonsense, steps_per_epoch, total_steps


def config(*overrides, recipe="smollm3-l40s-x4"):
    return resolve_config(recipe, overrides, {}).config


def test_flagship_steps():
    assert steps_per_epoch(config(), world_size=4, num_train_rows=2560) == 40
    assert total_steps(config(), world_size=4, num_train_rows=2561) == 4 * 41  # the last step is smaller, not dropped


@pytest.mark.parametrize(
    ("overrides", "num_rows", "says"),
    [
        (
            (),
            63,
            "63 training rows do not fill one effective batch of 64 (batch_size 8 x accumulation_steps 2 x 4 ranks)",
        ),
        (("optim.warmup_fraction=0.99",), 64, "4 warm-up steps of 4 in all"),
        (("evaluation.every_steps=500",), 2560, "evaluation.every_steps=500 is never reached: the run has 160 steps"),
        (("output.checkpoint_every_steps=161",), 2560, "output.checkpoint_every_steps=161 is never reached"),
    ],
)
def test_silent_nonsense_is_refused_with_numbers(overrides, num_rows, says):
    with pytest.raises(ConfigError) as error:
        refuse_nonsense(config(*overrides), world_size=4, num_train_rows=num_rows)
    assert says in str(error.value)


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
