"""Attention in blocks against the dense mask: the same loss and gradients, and that it is what runs."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from data.render import IGNORE_INDEX, RenderedRow
from tests.random_rows import padded
from train.fast import tree_attention
from train.fast.choose import ChosenPath, summed_loss_of
from train.fast.fused_head import TREE_MULTIPLE_TOKENS, TreeForward
from train.fast.tree_attention import TREE_ATTENTION, blocks_of
from train.fast.tree_batch import TreeBatch, dense_mask

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
DENSE = ChosenPath("prefix sharing", TreeForward(), [])
IN_BLOCKS = ChosenPath("prefix sharing", TreeForward(), [], attention=TREE_ATTENTION)


def branching_rows():
    """Rows that part at different depths, one of them a beginning of others, one that shares nothing."""
    stems = [[1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 9, 9], [1, 2, 3, 4, 5], [8, 8]]
    rows = [[*stem, 10 + number, 11 + number, *range(20, 24 + number)] for number in range(4) for stem in stems]
    return [RenderedRow(ids, [IGNORE_INDEX] * 2 + ids[2:]) for ids in [*rows, stems[0]]]


@pytest.fixture(params=["llama", "gemma3_text", "recomputed llama"])
def model(request):
    """In fp64, where another order of sums does not hide a wrong one."""
    torch.manual_seed(0)
    shape = AutoConfig.for_model(request.param.split()[-1], **SIZES)
    built = AutoModelForCausalLM.from_config(shape, attn_implementation="sdpa").double()
    if request.param.startswith("recomputed"):
        built.gradient_checkpointing_enable()
    return built


def gradients(model, path):
    with path.scoring(model):
        summed_loss = summed_loss_of(model.train(), path, branching_rows())  # gradient checkpointing is for training
        summed_loss.backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    return summed_loss.item(), found


@pytest.mark.parametrize("block_tokens", [1, 7, 64])
def test_same_loss_and_gradients_as_under_the_dense_mask(model, monkeypatch, block_tokens):
    monkeypatch.setattr(tree_attention, "BLOCK_TOKENS", block_tokens)
    calls = []
    sdpa = tree_attention._sdpa
    monkeypatch.setattr(tree_attention, "_sdpa", lambda *arguments: calls.append(1) or sdpa(*arguments))
    expected_loss, expected = gradients(model, DENSE)
    assert not calls
    loss, found = gradients(model, IN_BLOCKS)
    tree = tree_of(branching_rows(), TREE_MULTIPLE_TOKENS)
    in_layer, in_top_layer = (-(-ids.shape[-1] // block_tokens) for ids in (tree.input_ids, tree.label_positions))
    # Two whole layers and the trimmed one; recomputed, three whole ones, twice.
    assert len(calls) == (6 * in_layer if model.is_gradient_checkpointing else 2 * in_layer + in_top_layer)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-12)
    assert model.config._attn_implementation == "sdpa"


def tree_of(rows, multiple=1):
    batch = padded(rows)
    return TreeBatch.of(batch["input_ids"], batch["labels"], batch["attention_mask"], multiple)


def test_a_block_has_the_keys_that_its_queries_may_see_and_no_others():
    mask = dense_mask(tree_of(branching_rows()).ends)[0, 0]
    blocks = blocks_of(mask, 8)
    rebuilt = torch.zeros_like(mask)
    for block in blocks:
        assert block.mask.any(0).all()
        rebuilt[block.queries, block.keys] = block.mask
    assert torch.equal(rebuilt, mask)
    assert sum(block.mask.numel() for block in blocks) < mask.numel() / 2
