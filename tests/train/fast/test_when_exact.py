"""Which models may share prefixes, and the reason that the others are refused for."""

import pytest
import transformers
from transformers import LlamaConfig

from train.fast.when_exact import refusal


@pytest.mark.parametrize("attention", ["eager", "flash_attention_2", "flash_attention_3", "kernels/x", None])
def test_attention_that_cannot_take_the_mask_is_refused(attention):
    assert "cannot take a tree mask" in refusal(LlamaConfig(), attention)


@pytest.mark.parametrize("attention", ["sdpa", "flex_attention"])
@pytest.mark.parametrize(
    "name", ["Llama", "SmolLM3", "Qwen2", "Qwen3", "GPTNeoX", "Gemma", "Mixtral", "Qwen3Moe", "Olmo2", "DeepseekV3"]
)
def test_plain_causal_decoders_are_exact(name, attention):
    assert refusal(getattr(transformers, f"{name}Config")(), attention) is None


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("T5", {}, "encoder-decoder"),
        ("Bart", {}, "encoder-decoder"),
        ("Gemma3", {}, "made of parts"),
        ("MusicgenConfig", {}, "made of parts"),
        ("Gemma3Text", {"use_bidirectional_attention": True}, "see what comes after"),
        ("Mamba", {}, "outside the attention mask"),
        ("FalconH1", {}, "outside the attention mask"),
        ("Jamba", {}, "outside the attention mask"),
        ("RecurrentGemma", {}, "outside the attention mask"),
        ("Qwen3Next", {}, "outside the attention mask"),
        ("DeepseekV32", {}, "outside the attention mask"),
        ("Doge", {}, "a window over the batch"),
        ("Zaya", {}, "not plain attention"),
        ("Bloom", {}, "no rotary position embedding"),
        ("GPT2", {}, "no rotary position embedding"),
        ("OPT", {}, "no rotary position embedding"),
        ("Rwkv", {}, "no rotary position embedding"),
        ("Falcon", {"alibi": True}, "alibi=True"),
        ("Llama4Text", {"attention_chunk_size": 4096}, "positions are counted over the batch"),
        ("Llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "'dynamic'"),
        ("Llama", {"attention_dropout": 0.1}, "attention_dropout=0.1"),
        ("GPTNeoX", {"hidden_dropout": 0.1}, "hidden_dropout=0.1"),
        ("Phimoe", {}, "router_jitter_noise"),
    ],
)
def test_what_is_not_exact_is_refused_with_a_reason(name, settings, reason):
    config = getattr(transformers, name if name.endswith("Config") else f"{name}Config")
    # What a composite is made of is a property of the class; this one cannot be made without its parts.
    config = config.__new__(config) if name == "MusicgenConfig" else config(**settings)
    assert reason in refusal(config, "sdpa", longest_row_tokens=8)


def test_a_long_rope_is_refused():
    factors = [1.0] * 16
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": factors, "long_factor": factors, "factor": 2.0}
    config = LlamaConfig(hidden_size=64, num_attention_heads=2, rope_parameters=rope)
    assert "'longrope'" in refusal(config, "sdpa")


@pytest.mark.parametrize("name", ["Mistral", "Gemma2", "Gemma3Text", "Olmo3", "Starcoder2"])
def test_a_window_is_exact_only_for_rows_that_fit_in_it(name):
    config = getattr(transformers, f"{name}Config")(sliding_window=512)
    assert refusal(config, "sdpa") == "sliding_window=512: the longest row would have to fit in it"
    assert refusal(config, "sdpa", longest_row_tokens=512) is None
    assert "shorter than the longest row (513" in refusal(config, "sdpa", longest_row_tokens=513)


def test_chunked_attention_is_judged_by_its_chunk():
    config = transformers.Llama4TextConfig(attention_chunk_size=64, attn_temperature_tuning=False)
    assert refusal(config, "sdpa") == "attention_chunk_size=64: the longest row would have to fit in it"
    assert "shorter than the longest row" in refusal(config, "sdpa", longest_row_tokens=65)
    assert refusal(config, "sdpa", longest_row_tokens=64) is None


def test_a_window_that_no_layer_uses_is_no_reason():
    assert refusal(transformers.Qwen2Config(sliding_window=512, use_sliding_window=False), "sdpa") is None


def test_code_that_is_not_part_of_transformers_is_refused():
    class ForeignConfig(LlamaConfig):
        model_type = "foreign"

    assert "'foreign' is not part of transformers" in refusal(ForeignConfig(), "sdpa")
