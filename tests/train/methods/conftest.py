"""A trainer of the smoke recipe in this very process."""

import pytest
from transformers import set_seed

from data.tokenizer import load_chat_tokenizer
from tests.tiny_runs import TINY_MODEL, run_of
from train.batching.tokenise import load_training_data
from train.config.run_config import resolve_config
from train.fast.choose import ChosenPath
from train.fast.fused_head import plain_forward
from train.methods.sft import build_trainer
from train.model.adapt import adapt
from train.model.base import load_model


@pytest.fixture
def tiny_sft(tmp_path, monkeypatch):
    """Settings -> a trainer, and the list that every sign of life is added to."""

    def build(*settings):
        resolved = resolve_config("smoke", [*TINY_MODEL, *settings, f"output.dir={tmp_path}"], {})
        tokenizer = load_chat_tokenizer()
        run = run_of(resolved, tokenizer, load_training_data(resolved.config, tokenizer))
        set_seed(run.config.seed)
        model = load_model(run.config, tokenizer)
        adapt(model, run.config.adapt)
        marks = []
        monkeypatch.setattr(run.ranks, "mark", lambda: marks.append(1))
        return build_trainer(run, model, ChosenPath("plain", plain_forward, [])), marks

    return build
