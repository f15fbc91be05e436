"""From the best weights to `best_model/`: saved aside, read back, asked one question, listed, then put in place."""

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from train.failure import ModelError
from train.generation.generate import generate_answer, question_conversation
from train.generation.settings import GenerationSettings
from train.model.adapt import cast_weights
from train.run_folder.manifest import published_atomically, write_manifest
from train.run_folder.run_folder import MODEL_CARD, SYSTEM_PROMPT, RunFolder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Publication:
    """Holds what is published beside the weights, and asked of the result before it counts."""

    system_prompt: str
    check_question: str
    facts: dict[str, Any]
    """Goes into the manifest: base model, config and data fingerprints, best step."""
    answer_tokens: int
    """Length limit of the answer that is asked for: all of it is compared."""
    card: str | None = None
    """README.md, see `train.results.model_card`."""


def publish(
    model: PreTrainedModel,
    tokenizer: "PreTrainedTokenizerBase",
    folder: RunFolder,
    publication: Publication,
    dtype: torch.dtype,
) -> None:
    """Write `best_model/` in `dtype`; an earlier one stays in place until the new one has proved itself.

    Raises:
        ModelError: the saved model does not answer as the trained one does.
    """
    with published_atomically(folder.best_model) as aside:
        cast_weights(model, dtype)
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        (aside / SYSTEM_PROMPT).write_text(publication.system_prompt + "\n", encoding="utf-8")
        if publication.card is not None:
            (aside / MODEL_CARD).write_text(publication.card, encoding="utf-8")
        _check_reloaded(model, tokenizer, aside, publication)
        write_manifest(aside, publication.facts)


def _check_reloaded(
    model: PreTrainedModel, tokenizer: "PreTrainedTokenizerBase", saved: Path, publication: Publication
) -> None:
    """Ask the saved model and the one in memory the same question; token for token the same, or no publication."""
    settings = GenerationSettings(max_new_tokens=publication.answer_tokens)
    conversation = question_conversation(publication.check_question, publication.system_prompt)
    expected = generate_answer(model.eval(), tokenizer, conversation, settings)
    reloaded_model, reloaded_tokenizer = load_published(saved, model)
    answered = generate_answer(reloaded_model, reloaded_tokenizer, conversation, settings)
    if answered.prompt_ids != expected.prompt_ids:
        raise ModelError(
            f"the saved tokenizer, read back as {type(reloaded_tokenizer).__name__}, makes other token ids of a "
            f"question than the one trained with ({len(answered.prompt_ids)} and {len(expected.prompt_ids)} of them)",
            "Nothing was published; the checkpoints are kept. The tokenizer must be one of the model's own kind.",
        )
    if answered.token_ids != expected.token_ids:
        raise ModelError(
            f"the saved model answers {answered.text!r} where the trained one answers {expected.text!r}",
            "Nothing was published; the checkpoints are kept.",
        )
    del reloaded_model  # the demo needs the room: it loads the published and the original model
    gc.collect()


def load_published(folder: Path, like: PreTrainedModel) -> tuple[PreTrainedModel, "PreTrainedTokenizerBase"]:
    """Load a saved model as any user would, on the device and with the attention of `like`."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=like.dtype, attn_implementation=like.config._attn_implementation
    )
    return model.to(like.device).eval(), AutoTokenizer.from_pretrained(folder)
