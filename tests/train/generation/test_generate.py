"""One answer: greedy choices as made by hand, the end of a turn, and what is refused."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from train.failure import ConfigError
from train.generation.generate import Answer, check_room, comparison, end_ids, generate_from_ids, question_conversation
from train.generation.settings import GenerationSettings


class Words:
    """A tokenizer for token ids that stand for nothing."""

    eos_token_id, pad_token_id = 2, 0

    def decode(self, ids, skip_special_tokens=True):
        return " ".join(map(str, ids))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, max_position_embeddings=32)).eval()


def test_the_best_token_is_taken_again_and_again(model):
    prompt = [5, 6, 7]
    answer = generate_from_ids(model, Words(), prompt, GenerationSettings(max_new_tokens=6))
    ids = list(prompt)
    for _ in answer.token_ids:
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    assert answer.token_ids == ids[3:]
    assert answer.reached_end == (ids[-1] == 2)
    assert answer.prompt_ids == prompt


def test_a_sample_is_the_seeds(model):
    def sampled(seed):
        settings = GenerationSettings(max_new_tokens=12, sample=True, temperature=5.0, top_p=1.0, seed=seed)
        return generate_from_ids(model, Words(), [5, 6, 7], settings).token_ids

    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)


def test_a_turn_ends_with_any_token_that_model_or_tokenizer_calls_its_end(model):
    known = model.generation_config.eos_token_id
    try:
        model.generation_config.eos_token_id = [4, 2]
        assert end_ids(model, Words()) == [2, 4]
        model.generation_config.eos_token_id = None
        assert end_ids(model, Words()) == [2]
    finally:
        model.generation_config.eos_token_id = known


def test_prompt_and_answer_must_fit_the_context(model):
    check_room(model, 20, 12)
    with pytest.raises(ConfigError, match=r"the prompt has 20 tokens; with 13 new ones that is more than .* of 32"):
        check_room(model, 20, 13)


def test_answers_to_different_prompts_are_not_compared():
    one, other = Answer("a", [1], [3], True), Answer("b", [1], [4, 5], False)
    settings = GenerationSettings()
    (response,) = comparison(["Why?"], [one], [other], settings, {})["responses"]
    assert (response["original"], response["tuned"], response["tuned_tokens"]) == ("a", "b", 2)
    with pytest.raises(ValueError, match="different token ids for 'Why\\?'"):
        comparison(["Why?"], [one], [Answer("b", [2], [4], True)], settings, {})


def test_without_a_system_prompt_there_is_no_system_turn():
    assert [turn["role"] for turn in question_conversation("Why?", "Be brief.")] == ["system", "user"]
    assert [turn["role"] for turn in question_conversation("Why?", "")] == ["user"]
