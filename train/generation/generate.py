"""One answer to one conversation: the generate call behind demo outputs, the publication check and every script."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from data.render import render_prompt
from train.failure import ConfigError
from train.generation.settings import GenerationSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from transformers.generation.streamers import BaseStreamer


@dataclass(frozen=True)
class Answer:
    """Holds what a model said to one prompt, in text and in token ids."""

    text: str
    prompt_ids: list[int]
    token_ids: list[int]
    reached_end: bool
    """Whether the model ended its turn itself, rather than being cut off at `max_new_tokens`."""


def question_conversation(question: str, system_prompt: str | None) -> list[dict[str, str]]:
    """Return the conversation that asks one question.

    >>> question_conversation("Is water wet?", None)
    [{'role': 'user', 'content': 'Is water wet?'}]
    """
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return [*system, {"role": "user", "content": question}]


def generate_answer(
    model: PreTrainedModel,
    tokenizer: "PreTrainedTokenizerBase",
    conversation: Sequence[dict[str, str]],
    settings: GenerationSettings,
    streamer: "BaseStreamer | None" = None,
) -> Answer:
    """Answer the last user turn. Raises ConfigError where the prompt leaves no room in the model's context."""
    return generate_from_ids(model, tokenizer, render_prompt(tokenizer, conversation), settings, streamer)


@torch.inference_mode()
def generate_from_ids(
    model: PreTrainedModel,
    tokenizer: "PreTrainedTokenizerBase",
    prompt_ids: list[int],
    settings: GenerationSettings,
    streamer: "BaseStreamer | None" = None,
) -> Answer:
    """Go on from the token ids of a prompt; raises ConfigError as `generate_answer` does."""
    check_room(model, len(prompt_ids), settings.max_new_tokens)
    input_ids = torch.tensor([prompt_ids], device=model.device)  # [1, prompt_tokens]
    if settings.sample:
        torch.manual_seed(settings.seed)
    output = model.generate(
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        generation_config=_generation_config(model, tokenizer, settings),
        streamer=streamer,
    )
    return make_answer(model, tokenizer, prompt_ids, output[0, len(prompt_ids) :].tolist())


def make_answer(
    model: PreTrainedModel, tokenizer: "PreTrainedTokenizerBase", prompt_ids: list[int], token_ids: list[int]
) -> Answer:
    """Return an answer from the token ids a model made of a prompt."""
    return Answer(
        text=tokenizer.decode(token_ids, skip_special_tokens=True).strip(),
        prompt_ids=prompt_ids,
        token_ids=token_ids,
        reached_end=bool(token_ids) and token_ids[-1] in end_ids(model, tokenizer),
    )


def comparison(
    questions: Sequence[str],
    original: Sequence[Answer],
    tuned: Sequence[Answer],
    settings: GenerationSettings,
    models: dict[str, Any],
) -> dict[str, Any]:
    """Put both models' answers side by side; answers to different prompts are not compared (ValueError)."""
    for question, one, other in zip(questions, original, tuned, strict=True):
        if one.prompt_ids != other.prompt_ids:
            raise ValueError(f"the two models were asked different token ids for {question!r}; nothing to compare")
    return {
        "settings": settings.dump(),
        "models": models,
        "responses": [
            {
                "question": question,
                "original": one.text,
                "tuned": other.text,
                "original_tokens": len(one.token_ids),
                "tuned_tokens": len(other.token_ids),
                "original_reached_end": one.reached_end,
                "tuned_reached_end": other.reached_end,
            }
            for question, one, other in zip(questions, original, tuned, strict=True)
        ],
    }


def context_tokens(model: PreTrainedModel) -> int:
    """Return how many tokens, prompt and answer together, the model has positions for."""
    return int(model.config.get_text_config().max_position_embeddings)


def check_room(model: PreTrainedModel, num_prompt_tokens: int, max_new_tokens: int) -> None:
    """Refuse (ConfigError) a prompt that leaves no room for its answer in the model's context."""
    if num_prompt_tokens + max_new_tokens > context_tokens(model):
        raise ConfigError(
            f"the prompt has {num_prompt_tokens} tokens; with {max_new_tokens} new ones that is more than the model's "
            f"context of {context_tokens(model)}",
            "Ask a shorter question or lower the number of new tokens.",
        )


def _generation_config(
    model: PreTrainedModel, tokenizer: "PreTrainedTokenizerBase", settings: GenerationSettings
) -> GenerationConfig:
    sampling = {"temperature": settings.temperature, "top_p": settings.top_p} if settings.sample else {}
    return GenerationConfig(
        do_sample=settings.sample,
        max_new_tokens=settings.max_new_tokens,
        eos_token_id=end_ids(model, tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        **sampling,
    )


def end_ids(model: PreTrainedModel, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Return every token id that ends a turn, for the model or for its tokenizer."""
    configured = model.generation_config.eos_token_id
    configured = configured if isinstance(configured, list) else [configured]
    return sorted({tokenizer.eos_token_id, *configured} - {None})
