"""Models of a few thousand random weights, of which the last two layers and the head train."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from train.config.run_config import AdaptConfig
from train.model.adapt import adapt

TINY = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}


def tiny_model(model_type="llama", **overrides):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**TINY, **overrides})).eval()
    adapt(model, AdaptConfig(last_n_layers=2))
    return model
