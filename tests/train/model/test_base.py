"""Where weights come from, how they are held, and what is said where they cannot be had."""

import pytest
import torch

from data.tokenizer import load_chat_tokenizer
from train.config.run_config import ModelConfig, resolve_config
from train.failure import ExitCode, ModelError
from train.model.base import (
    architecture_without_weights,
    attention_by,
    load_model,
    load_tokenizer,
    model_fingerprint,
    pick_attention,
    pick_precision,
)


def config(*overrides, recipe="smoke"):
    return resolve_config(recipe, overrides, {}).config


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_flash_attention_is_refused_where_it_cannot_run_and_never_chosen():
    assert pick_attention(config("model.attention=auto", "speed.prefix_sharing=off")) == "sdpa"
    with pytest.raises(ModelError, match="needs a CUDA device"):
        pick_attention(config("model.attention=flash_attention_2"))


def test_a_precision_that_was_asked_for_is_taken():
    assert pick_precision(ModelConfig(precision="bf16")) == torch.bfloat16
    assert pick_precision(ModelConfig(precision="fp32")) == torch.float32


def test_the_flagships_shape_is_known_without_a_network():
    architecture = architecture_without_weights(config(recipe="smollm3-l40s-x4"))
    assert (architecture.num_hidden_layers, architecture.hidden_size, architecture.vocab_size) == (36, 2048, 128256)


def test_random_weights_are_known_by_their_shape_and_seed():
    known = model_fingerprint(config())
    assert model_fingerprint(config()) == known
    assert model_fingerprint(config("seed=43")) != known
    assert model_fingerprint(config("model.random_init.hidden_size=96")) != known


@pytest.mark.parametrize("name", ["/nowhere/model", "./nowhere.gguf"])
def test_a_path_that_is_none_is_called_so(name):
    with pytest.raises(ModelError, match="there is no such file or folder") as raised:
        load_tokenizer(config("model.random_init=null", f"model.name={name}"))
    assert raised.value.exit_code is ExitCode.MODEL


def test_weights_that_are_damaged_are_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": 16, "num_attention_heads": 2}')
    (tmp_path / "model.safetensors").write_bytes(b"half a file")
    with pytest.raises(ModelError, match=f"model '{tmp_path}' cannot be loaded: "):
        load_model(config("model.random_init=null", f"model.name={tmp_path}"), load_chat_tokenizer())


def test_a_model_must_know_every_token_of_its_tokenizer():
    with pytest.raises(ModelError, match="its model only 10 embeddings"):
        load_model(config("model.random_init.vocab_size=10"), load_chat_tokenizer())


def test_another_attention_lasts_as_long_as_its_block():
    model = load_model(config(), load_chat_tokenizer())
    with attention_by(model, "eager"):
        assert model.config._attn_implementation == "eager"
    assert model.config._attn_implementation == "sdpa"
    assert not model.training
