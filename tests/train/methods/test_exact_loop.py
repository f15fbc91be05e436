"""The loop that every method shares; resumption, stops and lost peers are in tests/parity, through the command line."""

import pytest
import torch

from train.failure import ExitCode
from train.methods.exact_loop import agreed_stop


@pytest.mark.parametrize(
    ("votes", "code"),
    [([0, 0], None), ([1, 0], ExitCode.STOPPED), ([0, 3], ExitCode.INTERRUPTED), ([1, 1], ExitCode.STOPPED)],
)
def test_all_leave_as_any_was_asked(votes, code):
    assert agreed_stop(votes) is code


def test_every_micro_batch_is_a_sign_of_life_and_every_step_has_its_rows(tiny_sft):
    trainer, marks = tiny_sft("optim.batch_size=2", "optim.accumulation_steps=2", "data.max_train_rows=7")
    batches = list(trainer.get_train_dataloader())
    assert [len(batch["input_ids"]) for batch in batches] == [2, 2, 2, 1]  # none dropped, none repeated
    trainer.train()
    assert trainer.state.global_step == 2 * 2  # 4 rows, then 3, in both epochs
    assert len(marks) >= 2 * 4  # a mark for each micro-batch, and those of evaluations


def test_the_best_weights_come_back(tiny_sft):
    trainer, _ = tiny_sft("data.max_train_rows=8")
    trainer.train()
    best = {name: tensor.clone() for name, tensor in trainer.best.load().items()}
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.zero_()
    assert trainer.load_best() == trainer.state.best_global_step
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(parameter, best[name]), name
