"""The cross-entropy of label tokens, in a few rows of logits at a time.

torch's makes three more arrays of the size of the logits, in fp32 even where the logits are bf16: log-probabilities,
their gradient, that of the logits. Here a few rows are worked on while they are in the processor's cache, and the
gradient is written over the logits, which nobody needs any more. Losses are bit-equal to torch's, gradients equal to
rounding. It saves memory everywhere and, with bf16 logits, time (docs/log.md).
"""

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

CPU_BLOCK_ELEMENTS = 2**19
"""Half a million logits in fp32, 2 MiB: what a core keeps near."""

GPU_BLOCK_ELEMENTS = 2**26
"""256 MiB: bounds the memory, and the kernels stay few."""


class TokenScores(NamedTuple):
    """What is known of each label token; all three are [labels]."""

    losses: torch.Tensor
    """Negative log-likelihood in nats, fp32; alone of the three it has a gradient."""

    entropy: torch.Tensor
    """Of the distribution that the label was predicted with, in nats, fp32."""

    is_top1: torch.Tensor
    """Whether no token is more likely than the label, bool."""


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> TokenScores:
    """Score the label tokens `targets` [labels] under `logits` [labels, vocabulary].

    The backward pass overwrites `logits`, so nothing else may need them then.
    """
    return TokenScores(*_CrossEntropy.apply(logits, targets))


class _CrossEntropy(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, ...]:
        losses, entropy = torch.empty(2, len(logits), device=logits.device)
        is_top1 = torch.empty(len(logits), dtype=torch.bool, device=logits.device)
        for rows in _blocks(logits):
            block, wanted = logits[rows], targets[rows, None]
            log_probs = torch.log_softmax(block, -1, dtype=torch.float32)
            losses[rows] = -log_probs.gather(1, wanted)[:, 0]
            entropy[rows] = -torch.linalg.vecdot(log_probs.exp(), log_probs)
            is_top1[rows] = block.gather(1, wanted)[:, 0] == block.amax(-1)  # several times faster than argmax
        ctx.save_for_backward(logits, targets)
        ctx.mark_non_differentiable(entropy, is_top1)
        return losses, entropy, is_top1

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: torch.Tensor, *_: None) -> tuple[torch.Tensor, None]:
        """Of each row of logits: (probabilities - one at the target) times the gradient of its loss."""
        logits, targets = ctx.saved_tensors
        for rows in _blocks(logits):
            gradient = gradients[rows, None]
            block = torch.softmax(logits[rows], -1, dtype=torch.float32).mul_(gradient)
            logits[rows] = block.scatter_add_(1, targets[rows, None], -gradient)
        return logits, None


def _blocks(logits: torch.Tensor) -> list[slice]:
    num_rows, num_words = logits.shape
    most = GPU_BLOCK_ELEMENTS if logits.is_cuda else CPU_BLOCK_ELEMENTS
    size = max(1, most // num_words)
    return [slice(start, start + size) for start in range(0, num_rows, size)]
