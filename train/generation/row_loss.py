"""Loss of every row by itself: what a held-out loss per topic, and its interval, are made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from data.render import IGNORE_INDEX, RenderedRow
from train.fast.shared_prefix import num_shared_tokens, shared_prefix
from train.fast.when_exact import has_plain_logits


@dataclass(frozen=True)
class RowLoss:
    """Negative log-likelihood of a row's label tokens, summed, in nats."""

    summed: float
    num_labels: int


@torch.no_grad()
def row_losses(
    model: PreTrainedModel,
    rows: Sequence[RenderedRow],
    *,
    batch_size: int,
    on_scored: Callable[[int], None] = lambda _: None,
) -> list[RowLoss]:
    """Return the loss of each row, in their order; what all rows share is computed once.

    The mean over all labels of all rows is the validation loss that training reports.
    """
    if not rows:
        return []
    prefix_tokens = _unlabelled_prefix(model, rows)
    by_length = sorted(range(len(rows)), key=lambda number: -len(rows[number].input_ids))
    found: dict[int, RowLoss] = {}
    with shared_prefix(model, rows[0].input_ids[:prefix_tokens]):
        for start in range(0, len(rows), batch_size):
            batch = by_length[start : start + batch_size]
            found |= zip(batch, _score(model, [rows[number] for number in batch], prefix_tokens), strict=True)
            on_scored(len(found))
    return [found[number] for number in range(len(rows))]


def _unlabelled_prefix(model: PreTrainedModel, rows: Sequence[RenderedRow]) -> int:
    """Tokens all rows share, but for the last before any label: the state that predicts a label is a row's own."""
    first_label = min(next(i for i, label in enumerate(row.labels) if label != IGNORE_INDEX) for row in rows)
    return max(0, min(num_shared_tokens(model, [row.input_ids for row in rows]), first_label - 1))


def _score(model: PreTrainedModel, rows: Sequence[RenderedRow], prefix_tokens: int) -> list[RowLoss]:
    device = model.device
    ids, labels, mask = (
        torch.nn.utils.rnn.pad_sequence([torch.tensor(one) for one in column], batch_first=True, padding_value=padding)
        for column, padding in (
            ([row.input_ids[prefix_tokens:] for row in rows], 0),
            ([row.labels[prefix_tokens:] for row in rows], IGNORE_INDEX),
            ([[1] * (len(row.input_ids) - prefix_tokens) for row in rows], 0),
        )
    )  # each [rows, tokens]
    positions = torch.arange(prefix_tokens, prefix_tokens + ids.shape[1], device=device)[None]
    is_label = labels[:, 1:] != IGNORE_INDEX  # [rows, tokens - 1]
    inputs = {"attention_mask": mask.to(device), "position_ids": positions, "use_cache": False}
    logits = _next_token_logits(model, ids.to(device), inputs, is_label.to(device))
    losses = torch.nn.functional.cross_entropy(logits, labels[:, 1:][is_label].to(device), reduction="none")
    counts = is_label.sum(dim=1).tolist()
    return [RowLoss(one.double().sum().item(), len(one)) for one in losses.cpu().split(counts)]


def _next_token_logits(
    model: PreTrainedModel, ids: torch.Tensor, inputs: dict[str, Any], is_label: torch.Tensor
) -> torch.Tensor:
    """[labels, vocabulary]; the head is applied to label positions alone where logits are nothing but its output."""
    if not has_plain_logits(model.config):
        return model(ids, **inputs).logits[:, :-1][is_label].float()
    hidden = model.base_model(ids, **inputs).last_hidden_state[:, :-1][is_label]  # [labels, hidden_size]
    return model.get_output_embeddings()(hidden).float()
