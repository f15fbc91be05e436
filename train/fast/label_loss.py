"""The loss of the label positions alone: the LM head is applied to the tokens that are trained and to no others.

TRL does the same on a GPU; on a CPU it scores every position, which for a long prompt and a short answer is most of
the work of a step. The numbers are the same; `tests/parity` compares them.
"""

import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from data.render import IGNORE_INDEX
from train.fast.cross_entropy import cross_entropy
from train.fast.frozen_layers import injected_states
from train.fast.last_layer import last_layer_at
from train.fast.prefix_tree import block_mask
from train.fast.tree_attention import TREE_ATTENTION, with_blocks

# Configuration entries of architectures whose logits are more than `head(hidden)`: left to TRL.
_LOGIT_TRANSFORMS = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "output_multiplier",
)


class LabelScores(NamedTuple):
    """Sums over the label positions of a batch; all three are scalars."""

    summed_loss: torch.Tensor
    num_labels: torch.Tensor
    num_correct: torch.Tensor


def label_scores(hidden: torch.Tensor, labels: torch.Tensor, head: nn.Module) -> LabelScores:
    """Score the next-token labels of `hidden` [rows, tokens, hidden_size] under `labels` [rows, tokens].

    A batch without labels gives a zero that is still connected to the model, so its backward pass runs.
    """
    targets = labels[:, 1:]  # [rows, tokens - 1]
    is_label = targets != IGNORE_INDEX
    losses, is_top = cross_entropy(head(hidden[:, :-1][is_label]), targets[is_label])
    return LabelScores(losses.sum(), is_label.sum(), is_top.sum())


def tree_scores(
    hidden: torch.Tensor,
    head: nn.Module,
    label_targets: torch.Tensor,
    label_weights: torch.Tensor,
) -> LabelScores:
    """Score a prefix tree by the states `hidden` [1, labels, hidden_size] that predict its labels.

    A label that several rows share counts `label_weights` times.
    """
    losses, is_top = cross_entropy(head(hidden[0]), label_targets)
    return LabelScores((losses * label_weights).sum(), label_weights.sum(), (is_top * label_weights).sum())


def score_batch(model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> LabelScores:
    """Scores of a collated batch: a plain one (`labels`), or a tree (`label_positions`, ...) with or without states."""
    head, inputs = model.get_output_embeddings(), dict(batch)
    if "labels" in batch:
        labels = inputs.pop("labels")
        return label_scores(model.base_model(**inputs, use_cache=False).last_hidden_state, labels, head)
    positions, targets, weights = (inputs.pop(f"label_{name}") for name in ("positions", "targets", "weights"))
    mask_at_labels = None
    if "subtree_ends" in inputs:  # flex_attention
        ends = inputs.pop("subtree_ends")
        inputs["attention_mask"] = block_mask(ends)
        mask_at_labels = block_mask(ends, positions) if len(positions) else None
    elif model.config._attn_implementation == TREE_ATTENTION:
        inputs["attention_mask"] = with_blocks(inputs["attention_mask"])
    with injected_states(model, inputs.pop("trunk_states", None)), last_layer_at(model, positions, mask_at_labels):
        hidden = model.base_model(**inputs, use_cache=False).last_hidden_state
    return tree_scores(hidden, head, targets, weights)


def num_labels(batch: Mapping[str, torch.Tensor]) -> int:
    """How many labels the rows of a collated batch have, plain or as a tree."""
    if "label_weights" in batch:
        return int(batch["label_weights"].sum())
    return int((batch["labels"][:, 1:] != IGNORE_INDEX).sum())


def has_plain_logits(model: PreTrainedModel) -> bool:
    """Whether the model's logits are `head(hidden)` and nothing else."""
    text_config = model.config.get_text_config()
    return all(getattr(text_config, name, None) is None for name in _LOGIT_TRANSFORMS)


def add_label_scores(model: PreTrainedModel) -> None:
    """Let `model(..., score_labels=True)` return LabelScores; without the flag nothing changes.

    The batch is a plain one (`labels`), or a prefix tree (`label_positions`, ...), which may bring the states of the
    frozen lower layers along (`trunk_states`). To be called after TRL has patched the model, whose own scoring serves
    architectures with transformed logits.
    """
    forward = model.forward
    plain_logits = has_plain_logits(model)

    def scoring_forward(self: PreTrainedModel, *args: Any, score_labels: bool = False, **kwargs: Any) -> Any:
        if not score_labels:
            return forward(*args, **kwargs)
        if not plain_logits:
            fused = forward(*args, **kwargs, fused_lm_head=True)
            return LabelScores(-fused.log_probs.sum(), fused.label_mask.sum(), fused.is_top1.sum())
        return score_batch(self, kwargs)

    model.forward = types.MethodType(scoring_forward, model)
