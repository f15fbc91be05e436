"""ChatTrainer against stock TRL on the same batches: its loss of label positions only is TRL's loss, step by step."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import PrinterCallback, TrainerCallback
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from data.tokenizer import load_chat_tokenizer
from train.batching.tokenise import load_training_data
from train.config.run_config import resolve_config
from train.methods.sft import ChatTrainer, build_trainer
from train.model.adapt import adapt
from train.model.base import load_model
from train.run_folder.run_folder import RunFolder

OVERRIDES = ("data.max_train_rows=12", "data.max_validation_rows=4", "optim.batch_size=2", "optim.accumulation_steps=2")


class StockTrainer(ChatTrainer):
    """Our batches, TRL's own forward and loss."""

    compute_loss = SFTTrainer.compute_loss
    log = SFTTrainer.log


class KeepLogs(TrainerCallback):
    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.logs.append(dict(logs))


def train(trainer_class, folder, monkeypatch):
    config = resolve_config("smoke", [*OVERRIDES, f"output.dir={folder}"], {}).config
    tokenizer = load_chat_tokenizer()
    data = load_training_data(config, tokenizer)
    model = load_model(config, tokenizer)
    adapt(model, config.adapt)
    keep = KeepLogs()
    monkeypatch.setattr("train.methods.sft.ChatTrainer", trainer_class)
    trainer = build_trainer(
        config,
        model=model,
        tokenizer=tokenizer,
        train_rows=data.train,
        validation_rows=data.validation,
        folder=RunFolder(folder),
        world_size=1,
        collator=DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id),
        callbacks=[keep],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return keep.logs, load_file(folder / "checkpoints" / "best.safetensors")


def test_same_losses_and_weights_as_stock_trl(tmp_path, monkeypatch):
    ours, our_weights = train(ChatTrainer, tmp_path / "ours", monkeypatch)
    stock, stock_weights = train(StockTrainer, tmp_path / "stock", monkeypatch)
    assert len(ours) == len(stock) == 6
    for name in ("loss", "grad_norm", "learning_rate"):
        assert [log[name] for log in ours] == pytest.approx([log[name] for log in stock], rel=1e-5)
    stock_accuracy = [log["mean_token_accuracy"] for log in stock]  # a mean of batch means, not of tokens
    assert [log["token_accuracy"] for log in ours] == pytest.approx(stock_accuracy, abs=0.02)
    assert our_weights.keys() == stock_weights.keys()
    for name, tensor in our_weights.items():
        difference = torch.linalg.vector_norm(tensor - stock_weights[name])
        assert difference <= 1e-5 * torch.linalg.vector_norm(stock_weights[name]), name
