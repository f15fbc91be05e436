"""The loss of the label positions alone: the LM head is applied to the tokens that are trained and to no others.

TRL does the same on a GPU; on a CPU it scores every position, which for a long prompt and a short answer is most of
the work of a step. The numbers are the same; `tests/parity` compares them.
"""

import types
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from data.render import IGNORE_INDEX

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
    logits = head(hidden[:, :-1][is_label]).float()  # [labels, vocabulary]
    targets = targets[is_label]
    return LabelScores(
        functional.cross_entropy(logits, targets, reduction="sum"),
        is_label.sum(),
        (logits.detach().argmax(-1) == targets).sum(),
    )


def add_label_scores(model: PreTrainedModel) -> None:
    """Let `model(..., labels=labels, score_labels=True)` return LabelScores; without the flag nothing changes.

    To be called after TRL has patched the model, whose own scoring serves architectures with transformed logits.
    """
    forward = model.forward
    text_config = model.config.get_text_config()
    plain_logits = all(getattr(text_config, name, None) is None for name in _LOGIT_TRANSFORMS)

    def scoring_forward(self: PreTrainedModel, *args: Any, score_labels: bool = False, **kwargs: Any) -> Any:
        if not score_labels:
            return forward(*args, **kwargs)
        if not plain_logits:
            fused = forward(*args, **kwargs, fused_lm_head=True)
            return LabelScores(-fused.log_probs.sum(), fused.label_mask.sum(), fused.is_top1.sum())
        labels = kwargs.pop("labels")
        hidden = self.base_model(*args, **kwargs, use_cache=False).last_hidden_state
        return label_scores(hidden, labels, self.get_output_embeddings())

    model.forward = types.MethodType(scoring_forward, model)
