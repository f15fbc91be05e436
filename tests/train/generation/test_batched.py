"""Batched answers are the answers each prompt gets alone: lengths mixed, rows ending early, prefixes shared or not."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, MistralConfig, PreTrainedModel, Qwen2Config

from train.failure import ConfigError
from train.fast.shared_prefix import num_shared_tokens
from train.generation import batched as batched_generation
from train.generation.batched import answer_prompts, is_plainly_greedy
from train.generation.generate import generate_from_ids
from train.generation.settings import GenerationSettings

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "eos_token_id": 2,
}
ARCHITECTURES = {
    "llama": LlamaConfig(**SIZES),
    "qwen2": Qwen2Config(**SIZES),
    "mistral": MistralConfig(**SIZES, sliding_window=16),  # a window: nothing is shared
    "gemma2": Gemma2Config(**SIZES, head_dim=8, sliding_window=16),  # and logits that are not the head's alone
}


class Words:
    """A tokenizer for token ids that stand for nothing."""

    eos_token_id, pad_token_id = 2, 0

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return " ".join(map(str, ids))


def make_model(architecture: str) -> PreTrainedModel:
    torch.manual_seed(3)
    attention = "eager" if architecture == "gemma2" else "sdpa"  # transformers has no other for it
    model = AutoModelForCausalLM.from_config(ARCHITECTURES[architecture], attn_implementation=attention)
    with torch.no_grad():  # weights of initialisation say the same after every prompt
        for parameter in model.parameters():
            parameter.mul_(6) if parameter.dim() > 1 else None
    return model.eval()


def prompts(shared_tokens: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)

    def tokens(number: int) -> list[int]:
        return torch.randint(3, 97, (number,), generator=generator).tolist()

    prefix = tokens(shared_tokens)
    return [prefix + tokens(number) for number in (3, 9, 1, 14, 30, 6)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("shared_tokens", [0, 40])
def test_same_answers_as_one_by_one(architecture, shared_tokens):
    model, settings = make_model(architecture), GenerationSettings(max_new_tokens=20)
    attention = model.config._attn_implementation
    asked = prompts(shared_tokens)
    alone = [generate_from_ids(model, Words(), prompt, settings) for prompt in asked]
    batched = answer_prompts(model, Words(), asked, settings, batch_size=4)
    assert batched.answers == alone
    assert len({tuple(answer.token_ids) for answer in alone}) > 3  # the prompts matter
    assert model.config._attn_implementation == attention


def test_rows_end_early_and_leave_the_batch():
    model, settings, asked = make_model("llama"), GenerationSettings(max_new_tokens=60), prompts(40)
    ends = [2, *range(10, 20)]  # with one alone among so many tokens, nothing would end
    model.generation_config.eos_token_id = ends
    answers = answer_prompts(model, Words(), asked, settings, batch_size=6).answers
    lengths = {len(answer.token_ids) for answer in answers}
    ended = [answer for answer in answers if answer.reached_end]
    assert len(lengths) > 1
    assert ended
    for answer in ended:
        assert answer.token_ids[-1] in ends
        assert not set(ends) & set(answer.token_ids[:-1])
    assert answers == [generate_from_ids(model, Words(), prompt, settings) for prompt in asked]


def test_prefix_is_shared_only_where_that_is_exact():
    asked = prompts(40)
    assert num_shared_tokens(make_model("llama"), asked) == 40
    assert num_shared_tokens(make_model("mistral"), asked) == 0
    assert num_shared_tokens(make_model("gemma2"), asked) == 0


def test_every_answer_of_a_near_tie_is_made_alone(monkeypatch):
    monkeypatch.setattr(batched_generation, "NEAR_TIE", 1.0)  # everything is one
    model, settings, asked = make_model("llama"), GenerationSettings(max_new_tokens=5), prompts(8)
    told: list[int] = []
    batched = answer_prompts(model, Words(), asked, settings, batch_size=4, on_answered=told.append)
    assert batched.num_alone == len(asked)
    assert told == list(range(1, len(asked) + 1))
    assert batched.answers == [generate_from_ids(model, Words(), prompt, settings) for prompt in asked]


def test_penalties_of_the_models_own_settings_are_kept():
    model, settings, asked = make_model("llama"), GenerationSettings(max_new_tokens=12), prompts(8)
    without = answer_prompts(model, Words(), asked, settings).answers
    model.generation_config.repetition_penalty = 1.8
    assert not is_plainly_greedy(model)
    batched = answer_prompts(model, Words(), asked, settings)
    assert batched.num_alone == len(asked)
    assert batched.answers == [generate_from_ids(model, Words(), prompt, settings) for prompt in asked]
    assert batched.answers != without


def test_prompt_without_room_is_refused():
    with pytest.raises(ConfigError, match="context of 256"):
        answer_prompts(make_model("llama"), Words(), [[5] * 250], GenerationSettings(max_new_tokens=7))


def test_equal_prompts_and_a_single_one():
    model, settings = make_model("llama"), GenerationSettings(max_new_tokens=6)
    (alone,) = answer_prompts(model, Words(), [[5, 6, 7]], settings).answers
    assert answer_prompts(model, Words(), [[5, 6, 7]] * 3, settings).answers == [alone] * 3
    assert answer_prompts(model, Words(), [], settings).answers == []
