"""Against stock TRL on the same batches, step by step: the fast forwards give TRL's own losses, metrics and weights."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import PrinterCallback, TrainerCallback, set_seed

from data.tokenizer import load_chat_tokenizer
from tests.tiny_runs import run_of
from train.batching.tokenise import load_training_data
from train.config.run_config import resolve_config
from train.fast.choose import ChosenPath
from train.fast.fused_head import TreeForward, plain_forward
from train.methods.sft import build_trainer
from train.model.adapt import adapt
from train.model.base import load_model

OVERRIDES = ("data.max_train_rows=12", "data.max_validation_rows=4", "optim.batch_size=2", "optim.accumulation_steps=2")

STOCK = ChosenPath("plain", None, [])
"""TRL's own forward, under the same loop."""

OURS = {
    "head at labels": ChosenPath("plain", plain_forward, []),
    "prefix trees": ChosenPath("prefix sharing", TreeForward(), []),
}


class KeepLogs(TrainerCallback):
    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.logs.append(dict(logs))


def train(path, folder):
    resolved = resolve_config("smoke", [*OVERRIDES, f"output.dir={folder}"], {})
    tokenizer = load_chat_tokenizer()
    run = run_of(resolved, tokenizer, load_training_data(resolved.config, tokenizer))
    set_seed(run.config.seed)
    model = load_model(run.config, tokenizer)
    adapt(model, run.config.adapt)
    keep = KeepLogs()
    trainer = build_trainer(run, model, path, callbacks=[keep])
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return keep.logs, load_file(folder / "checkpoints" / "best.safetensors")


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    return train(STOCK, tmp_path_factory.mktemp("stock"))


@pytest.mark.parametrize("path", OURS)
def test_same_losses_metrics_and_weights_as_stock_trl(stock, path, tmp_path):
    (stock_logs, stock_weights), (ours, our_weights) = stock, train(OURS[path], tmp_path)
    assert len(ours) == len(stock_logs) == 6
    for name in ("loss", "grad_norm", "learning_rate", "entropy", "mean_token_accuracy", "token_accuracy"):
        assert [log[name] for log in ours] == pytest.approx([log[name] for log in stock_logs], rel=1e-5)
    assert [log["num_tokens"] for log in ours] == [log["num_tokens"] for log in stock_logs]  # of the rows, not the tree
    assert our_weights.keys() == stock_weights.keys()
    for name, tensor in our_weights.items():
        difference = torch.linalg.vector_norm(tensor - stock_weights[name])
        assert difference <= 1e-5 * torch.linalg.vector_norm(stock_weights[name]), name
