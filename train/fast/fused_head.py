"""The seam between TRL and the fast paths: what `model(..., labels=, fused_lm_head=True)` computes, computed with less.

TRL's trainers for SFT, DPO and GRPO all make this one call, and read from its result, for every label of every row, the
log-probability, the entropy and whether the label was the most likely token. Losses, metrics and collators are made
from these and stay TRL's own code; only how they come about is ours:

    TRL's trainer --> model(input_ids, attention_mask, labels, fused_lm_head=True)
                        |   plain_forward     the model as it is, the head at label positions alone
                        |   TreeForward       the rows as one prefix tree, the frozen layers from the cache
                        v
                      FusedCausalLMOutput [B, T - 1]: the same numbers

TRL's own forward applies the head to the label positions on a GPU too, but on a CPU to every position, which for a long
prompt and a short answer is most of the work of a step; and it computes the logits a second time in the backward pass.
"""

import functools
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput

from data.render import IGNORE_INDEX
from train.fast.cross_entropy import cross_entropy
from train.fast.frozen_layers import injected_states
from train.fast.last_layer import last_layer_at
from train.fast.tree_attention import TREE_ATTENTION, with_blocks
from train.fast.tree_batch import FLEX_BLOCK_TOKENS, TreeBatch, block_mask, dense_mask

Forward = Callable[..., FusedCausalLMOutput]
"""(model, input_ids=, labels=, attention_mask=) -> per label of every row [B, T - 1]; what TRL passes besides, too."""

TREE_MULTIPLE_TOKENS = 64
"""Few different shapes: oneDNN keeps compiled kernels for each shape it has seen, which grew a run by gigabytes."""


def add_fast_forward(model: PreTrainedModel, forward: Forward) -> None:
    """Let `model(..., fused_lm_head=True)` be computed by `forward`; without the flag nothing changes.

    To be called after TRL has added its own fused head, which this takes the place of.
    """
    without_flag = model.forward

    @functools.wraps(type(model).forward)  # `generate` reads from the signature which inputs the model takes
    def fused_forward(self: PreTrainedModel, *args: Any, fused_lm_head: bool = False, **inputs: Any) -> Any:
        return forward(self, *args, **inputs) if fused_lm_head else without_flag(*args, **inputs)

    model.forward = types.MethodType(fused_forward, model)


def plain_forward(
    model: PreTrainedModel,
    *,
    input_ids: torch.Tensor,
    labels: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    use_cache: bool = False,
) -> FusedCausalLMOutput:
    """The model as it is, on a padded batch [B, T], its head applied to label positions alone."""
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": use_cache}
    hidden = model.base_model(**inputs).last_hidden_state[:, :-1]  # [B, T - 1, hidden_size]
    is_label = labels[:, 1:] != IGNORE_INDEX
    scores = cross_entropy(model.get_output_embeddings()(hidden[is_label]), labels[:, 1:][is_label])

    def in_rows(values: torch.Tensor) -> torch.Tensor:
        # Connected to the model even where no row has a label, so that a backward pass runs.
        return values.new_zeros(is_label.shape).masked_scatter(is_label, values)

    return FusedCausalLMOutput(
        log_probs=in_rows(-scores.losses),
        entropy=in_rows(scores.entropy),
        is_top1=in_rows(scores.is_top1),
        label_mask=is_label,
    )


@dataclass(frozen=True)
class TreeForward:
    """The rows of a padded batch as one prefix tree: what rows begin with in common is computed once.

    The last layer is computed at label positions alone, and the layers below the first trained one not at all where
    `frozen_states` has what they make of the tree.
    """

    frozen_states: Callable[[TreeBatch], torch.Tensor] | None = None
    """The tree's states that enter the first trained layer: [1, N, hidden_size], on any device."""

    by_flex_attention: bool = False
    """With a mask of blocks, in place of one of tokens [1, 1, N, N]."""

    def __call__(
        self,
        model: PreTrainedModel,
        *,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        use_cache: bool = False,
    ) -> FusedCausalLMOutput:
        """Raises ValueError when the batch has no token at all."""
        multiple = FLEX_BLOCK_TOKENS if self.by_flex_attention else TREE_MULTIPLE_TOKENS
        tree = TreeBatch.of(input_ids, labels, attention_mask, multiple)
        scores = cross_entropy(model.get_output_embeddings()(self._hidden(model, tree)), tree.label_targets)
        return FusedCausalLMOutput(
            log_probs=tree.per_row(-scores.losses),
            entropy=tree.per_row(scores.entropy),
            is_top1=tree.per_row(scores.is_top1),
            label_mask=labels[:, 1:] != IGNORE_INDEX,
        )

    def _hidden(self, model: PreTrainedModel, tree: TreeBatch) -> torch.Tensor:
        """The states that predict the tree's labels: [L, hidden_size]."""
        mask, mask_at_labels = self._masks(model, tree)
        states = None if self.frozen_states is None else self.frozen_states(tree).to(model.device)
        inputs = {"input_ids": tree.input_ids, "position_ids": tree.position_ids, "attention_mask": mask}
        with injected_states(model, states), last_layer_at(model, tree.label_positions, mask_at_labels):
            hidden: torch.Tensor = model.base_model(**inputs, use_cache=False).last_hidden_state
        return hidden[0]

    def _masks(self, model: PreTrainedModel, tree: TreeBatch) -> tuple[Any, Any]:
        """Of all tokens, and of the label positions where the last layer cannot make that one itself."""
        if self.by_flex_attention:
            at_labels = block_mask(tree.ends, tree.label_positions) if len(tree.label_positions) else None
            return block_mask(tree.ends), at_labels
        mask = dense_mask(tree.ends)
        return (with_blocks(mask) if model.config._attn_implementation == TREE_ATTENTION else mask), None


def summed_loss(output: FusedCausalLMOutput) -> torch.Tensor:
    """The negative log-likelihood of all labels of a batch, summed, in nats."""
    assert output.log_probs is not None
    return -output.log_probs.sum()
