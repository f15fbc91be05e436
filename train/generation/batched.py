"""Greedy answers to many prompts at once, the same text as `generate_answer` gives to each alone.

- Rows are taken in order of length and padded on the left, so that all of them grow at the same end. Padding is masked
  and positions count a row's own tokens, so a row computes what it computes alone, but for the order of sums.
- That order may decide where the two best tokens are all but equal. A row that came to such a near tie is answered
  again, alone (`NEAR_TIE`); proved for fp32, and not claimed for bf16.
- What all prompts share is computed once (`shared_prefix`); rows that have ended leave the batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from data.render import render_prompt
from train.fast.shared_prefix import num_shared_tokens, own_cache, shared_prefix
from train.generation.generate import Answer, check_room, end_ids, generate_from_ids, make_answer, question_conversation
from train.generation.settings import GenerationSettings
from train.model.base import cache_input

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_BATCH_SIZE = 32

NEAR_TIE = 2e-5
"""Gap between the two best logits, as a share of the largest logit's size, below which a row is answered alone.

Batched and single logits were seen to differ by up to 1.6e-6 of it (SmolLM2-135M, fp32, 128 steps, 2026-11-21).
"""

# What a model's own generation settings may hold without changing a greedy choice.
_HARMLESS = {
    "bos_token_id", "eos_token_id", "pad_token_id", "do_sample", "temperature", "top_k", "top_p", "max_length",
    "max_new_tokens", "transformers_version", "_from_model_config", "use_cache", "output_attentions",
    "output_hidden_states",
}  # fmt: skip


@dataclass
class Batched:
    """Holds answers in the order of their prompts, and how many were made alone: a near tie, or nothing to batch."""

    answers: list[Answer]
    num_alone: int = 0


@dataclass
class _Row:
    number: int
    prompt_ids: list[int]
    token_ids: list[int] = field(default_factory=list)
    is_near_tie: bool = False


@torch.no_grad()
def answer_prompts(
    model: PreTrainedModel,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[list[int]],
    settings: GenerationSettings,
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
    on_answered: Callable[[int], None] = lambda _: None,
) -> Batched:
    """Answer prompts of token ids greedily; `on_answered` hears how many answers are done so far.

    Raises:
        ConfigError: a prompt leaves no room in the model's context.
    """
    assert not settings.sample, "batched answers are greedy"
    for prompt_ids in prompts:
        check_room(model, len(prompt_ids), settings.max_new_tokens)
    found: dict[int, Answer] = {}
    alone = list(range(len(prompts)))
    if batch_size > 1 and len(prompts) > 1 and is_plainly_greedy(model):
        alone = []
        prefix_tokens = num_shared_tokens(model, prompts, settings.max_new_tokens)
        with shared_prefix(model, prompts[0][:prefix_tokens]):
            for batch in _batches(prompts, batch_size):
                for row in _decode(model, tokenizer, batch, prefix_tokens, settings.max_new_tokens):
                    if row.is_near_tie:
                        alone.append(row.number)
                    else:
                        found[row.number] = make_answer(model, tokenizer, row.prompt_ids, row.token_ids)
                        on_answered(len(found))
    for number in alone:
        found[number] = generate_from_ids(model, tokenizer, prompts[number], settings)
        on_answered(len(found))
    return Batched([found[number] for number in range(len(prompts))], len(alone))


def question_prompts(
    tokenizer: "PreTrainedTokenizerBase", questions: Sequence[str], system_prompt: str
) -> list[list[int]]:
    """Return the token ids that ask each question alone."""
    return [render_prompt(tokenizer, question_conversation(question, system_prompt)) for question in questions]


def is_plainly_greedy(model: PreTrainedModel) -> bool:
    """Say whether the model's own generation settings leave a greedy choice to the logits alone (no penalties, ...)."""
    return model.generation_config.to_diff_dict().keys() <= _HARMLESS


def _batches(prompts: Sequence[list[int]], batch_size: int) -> Iterator[list[_Row]]:
    """Rows in order of length, the longest first, so that little is padded and memory is at its peak at once."""
    by_length = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
    for start in range(0, len(by_length), batch_size):
        yield [_Row(number, prompts[number]) for number in by_length[start : start + batch_size]]


def _decode(
    model: PreTrainedModel,
    tokenizer: "PreTrainedTokenizerBase",
    rows: list[_Row],
    prefix_tokens: int,
    max_new_tokens: int,
) -> list[_Row]:
    """Let every row grow until it ends, is full, or came to a near tie."""
    ends, cache, running = set(end_ids(model, tokenizer)), own_cache(model), rows
    own = [row.prompt_ids[prefix_tokens:] for row in rows]
    longest = max(map(len, own))
    padding = tokenizer.pad_token_id or 0
    ids = torch.tensor([[padding] * (longest - len(one)) + one for one in own], device=model.device)  # [rows, tokens]
    mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in own], device=model.device)
    positions = prefix_tokens + (mask.cumsum(dim=1) - 1).clamp(min=0)
    known = cache_input(model, cache)
    while True:
        inputs = {"attention_mask": mask, "position_ids": positions, "use_cache": True, **known}
        best, near_tie = _choose(model(ids, **inputs, logits_to_keep=1).logits[:, -1].float())
        for row, token, is_near_tie in zip(running, best.tolist(), near_tie.tolist(), strict=True):
            row.token_ids.append(token)
            row.is_near_tie = is_near_tie and model.dtype == torch.float32
        stays = [i for i, row in enumerate(running) if not _has_ended(row, ends, max_new_tokens)]
        if not stays:
            return rows
        ids, positions = best[:, None], positions[:, -1:] + 1
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
        if len(stays) < len(running):
            index = torch.tensor(stays, device=model.device)
            cache.batch_select_indices(index)
            ids, positions, mask = ids[index], positions[index], mask[index]
            running = [running[i] for i in stays]


def _has_ended(row: _Row, ends: set[int], max_new_tokens: int) -> bool:
    return row.is_near_tie or row.token_ids[-1] in ends or len(row.token_ids) == max_new_tokens


def _choose(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The best token of each row [rows], and whether the next best is all but equal.

    >>> _choose(torch.tensor([[1.0, 3.0, 2.0], [2.0, 1.999999, 0.0]]))
    (tensor([1, 0]), tensor([False,  True]))
    """
    top = logits.topk(2, dim=-1)
    gap = top.values[:, 0] - top.values[:, 1]
    return top.indices[:, 0], gap < NEAR_TIE * logits.abs().amax(dim=-1)
