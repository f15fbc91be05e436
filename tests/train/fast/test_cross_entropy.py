"""Cross-entropy in blocks of rows against torch's own."""

import pytest
import torch
from torch.nn import functional

from train.fast import cross_entropy as module
from train.fast.cross_entropy import cross_entropy

NUM_LABELS, HIDDEN_SIZE, NUM_WORDS = 13, 8, 50


def scored(by, dtype, weights):
    """Losses, whether each is the top, and the gradients of states and head, under weights that differ by label."""
    chance = torch.Generator().manual_seed(3)
    hidden = torch.randn(NUM_LABELS, HIDDEN_SIZE, generator=chance).to(dtype).requires_grad_()
    head = torch.randn(NUM_WORDS, HIDDEN_SIZE, generator=chance).to(dtype).requires_grad_()
    targets = torch.randint(NUM_WORDS, (NUM_LABELS,), generator=chance)
    losses, entropy, is_top = by(functional.linear(hidden, head), targets)
    (losses * weights).sum().backward()
    return losses.detach(), entropy, is_top, hidden.grad, head.grad


def by_torch(logits, targets):
    entropy = torch.distributions.Categorical(logits=logits.detach().float()).entropy()
    losses = functional.cross_entropy(logits.float(), targets, reduction="none")
    return losses, entropy, logits.argmax(-1) == targets


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("rows_per_block", [1, 4, 100])
def test_equals_torchs_own(monkeypatch, dtype, rows_per_block):
    monkeypatch.setattr(module, "CPU_BLOCK_ELEMENTS", rows_per_block * NUM_WORDS)
    weights = torch.arange(NUM_LABELS) % 4  # some labels do not count
    losses, entropy, is_top, *gradients = scored(cross_entropy, dtype, weights)
    exact_losses, exact_entropy, exact_is_top, *exact_gradients = scored(by_torch, dtype, weights)
    assert torch.equal(losses, exact_losses)
    assert torch.equal(is_top, exact_is_top)
    torch.testing.assert_close(entropy, exact_entropy)
    for gradient, exact in zip(gradients, exact_gradients, strict=True):
        torch.testing.assert_close(gradient, exact)


def test_a_batch_without_labels_has_a_gradient_of_zero():
    head = torch.randn(NUM_WORDS, HIDDEN_SIZE, requires_grad=True)
    losses, *_ = cross_entropy(functional.linear(torch.empty(0, HIDDEN_SIZE), head), torch.empty(0, dtype=torch.int64))
    losses.sum().backward()
    assert torch.equal(head.grad, torch.zeros_like(head))


def test_a_second_backward_pass_is_refused_as_the_logits_are_gone():
    logits = torch.randn(2, NUM_WORDS, requires_grad=True) * 1
    losses, *_ = cross_entropy(logits, torch.tensor([1, 2]))
    losses.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        losses.sum().backward()
