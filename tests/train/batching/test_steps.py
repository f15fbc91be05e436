import pytest

from train.batching.steps import refuse_nonsense, steps_per_epoch, total_steps
from train.config.run_config import resolve_config
from train.failure import ConfigError


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
