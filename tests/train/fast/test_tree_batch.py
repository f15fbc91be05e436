"""Prefix trees as tensors: the way to the model and back, the masks, and that loss and gradients are the rows'."""

from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch.nn import functional
from torch.nn.attention.flex_attention import create_block_mask
from transformers import LlamaConfig, LlamaForCausalLM

from data.render import RenderedRow
from tests.random_rows import FORESTS, NO, padded, random_rows, row
from train.fast.prefix_tree import plan_tree, saving
from train.fast.tree_batch import TreeBatch, block_mask, dense_mask, mask_mod

TOLERANCE = 1e-5


def tree_of(rows, multiple=1):
    batch = padded(rows)
    return TreeBatch.of(batch["input_ids"], batch["labels"], batch["attention_mask"], multiple)


def test_two_rows():
    tree = tree_of([row([5, 6, 7], 1), row([5, 6, 8], 2)])
    assert tree.input_ids.tolist() == [[5, 6, 7, 8]]
    assert tree.position_ids.tolist() == [[0, 1, 2, 2]]
    assert tree.ends.tolist() == [4, 4, 3, 4]
    assert dense_mask(tree.ends)[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]]
    assert tree.label_positions.tolist() == [0, 1, 1]
    assert tree.label_targets.tolist() == [6, 7, 8]
    assert tree.per_row(torch.tensor([1.0, 2.0, 3.0])).tolist() == [[1, 2], [0, 3]]
    integers = (tree.input_ids, tree.position_ids, tree.ends, tree.label_positions, tree.label_targets)
    assert {tensor.dtype for tensor in integers} == {torch.int64}


def test_rows_without_labels_are_left_out_but_never_all():
    with_one = tree_of([row([5, 6, 7], 3), row([5, 6, 8], 2)])
    assert with_one.input_ids.tolist() == [[5, 6, 8]]
    assert with_one.per_row(torch.tensor([3.0])).tolist() == [[0, 0], [0, 3]]
    without = tree_of([row([5, 6], 2)])
    assert without.input_ids.shape == (1, 2)
    assert without.label_positions.shape == without.label_targets.shape == (0,)
    assert without.per_row(torch.zeros(0)).tolist() == [[0]]


def test_no_tokens():
    none = torch.zeros(1, 0, dtype=torch.int64)
    with pytest.raises(ValueError, match="a batch of 1 rows has no tokens"):
        TreeBatch.of(none, none, None)


@settings(max_examples=100, deadline=None)
@given(rows=FORESTS)
def test_labels_return_to_their_places_whichever_side_is_padded(rows):
    right = padded(rows)
    columns = [torch.cat([mask.eq(0).nonzero()[:, 0], mask.nonzero()[:, 0]]) for mask in right["attention_mask"]]
    left = {name: torch.stack([v[c] for v, c in zip(value, columns, strict=True)]) for name, value in right.items()}
    for batch in (right, left):
        tree = TreeBatch.of(batch["input_ids"], batch["labels"], batch["attention_mask"])
        targets = batch["labels"][:, 1:].clone()
        for number, mask in enumerate(batch["attention_mask"]):  # what no token of the row comes before
            targets[number, : int(mask.argmax())] = NO
        assert torch.equal(tree.per_row(tree.label_targets), targets.clamp(min=0))


def test_padding_sees_itself_and_is_seen_by_nothing():
    rows = [row([5, 6, 7], 1), row([5, 6, 8], 2)]
    plain, more = tree_of(rows), tree_of(rows, multiple=8)
    assert more.input_ids.shape == more.position_ids.shape == (1, 8)
    mask = dense_mask(more.ends)[0, 0]
    assert torch.equal(mask[:4, :4], dense_mask(plain.ends)[0, 0])
    assert torch.equal(mask[4:], torch.eye(8, dtype=torch.bool)[4:])
    assert not mask[:4, 4:].any()
    assert len(more.label_targets) == 8
    assert torch.equal(plain.label_targets, more.label_targets[:3])
    assert torch.equal(more.per_row(torch.arange(8)), plain.per_row(torch.arange(3)))


@pytest.mark.parametrize("block_tokens", [16, 128])
@pytest.mark.parametrize(
    ("num_rows", "num_ids", "max_tokens"), [(1, 3, 1), (2, 3, 7), (40, 2, 12), (9, 50, 90), (64, 2, 40), (1, 9, 640)]
)
def test_block_mask_is_what_create_block_mask_makes(num_rows, num_ids, max_tokens, block_tokens):
    """Every block list alike, and the mask function too: all of it that can be checked without a GPU."""
    for multiple in (1, block_tokens):
        ends = torch.tensor(plan_tree(random_rows(num_rows, num_ids, max_tokens, seed=3)).padded(multiple).ends)
        num_tokens = len(ends)
        position = torch.arange(num_tokens)
        ours = block_mask(ends, block_tokens=block_tokens)
        theirs = create_block_mask(
            mask_mod(ends, position), 1, 1, num_tokens, num_tokens, "cpu", BLOCK_SIZE=block_tokens
        )
        assert ours.shape == theirs.shape == (1, 1, num_tokens, num_tokens)
        for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
        for name in ("kv_indices", "full_kv_indices", "q_indices", "full_q_indices"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
        assert torch.equal(ours.to_dense(), theirs.to_dense())
        may_attend = ours.mask_mod(0, 0, position[:, None], position[None])
        assert torch.equal(may_attend, dense_mask(ends)[0, 0])


def test_block_mask_leaves_blocks_out():
    """Or the equality above would say little: a forest of eight rows has most blocks empty and some full."""
    rows = [row([n] * 512) for n in range(8)]
    mask = block_mask(torch.tensor(plan_tree(rows).ends))
    assert mask.kv_num_blocks.sum() == 32, "the diagonal"
    assert mask.full_kv_num_blocks.sum() == 8 * 6, "below it, within each row's 4 x 4 blocks"


def tiny_llama():
    """In float64: gradients that are zero on paper (a query of identical keys) are then zero here too, not rounding."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=7,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        attn_implementation="sdpa",
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).double().train()


def gradients(model, summed_loss):
    """Loss and every parameter's gradient of it."""
    parameters = dict(model.named_parameters())
    grads = torch.autograd.grad(summed_loss, list(parameters.values()))
    return summed_loss.item(), dict(zip(parameters, grads, strict=True))


def row_by_row(model, rows):
    """Summed loss of each row on its own, without mask or positions; label 0 has no predecessor."""
    total = torch.zeros((), dtype=torch.float64)
    for r in rows:
        logits = model(input_ids=torch.tensor([r.input_ids])).logits[0]
        labels = torch.tensor(r.labels)
        total = total + functional.cross_entropy(logits[:-1], labels[1:], reduction="sum", ignore_index=NO)
    return gradients(model, total)


def under_the_tree(model, rows, multiple=1):
    tree = tree_of(rows, multiple)
    inputs = {"input_ids": tree.input_ids, "position_ids": tree.position_ids, "attention_mask": dense_mask(tree.ends)}
    hidden = model.base_model(**inputs, use_cache=False).last_hidden_state  # [1, N, hidden_size]
    logits = model.get_output_embeddings()(hidden[0, tree.label_positions])  # [L, vocabulary]
    losses = functional.cross_entropy(logits, tree.label_targets, reduction="none")
    return gradients(model, tree.per_row(losses).sum())


def assert_equal_to(one, other):
    (loss, grads), (other_loss, other_grads) = one, other
    assert loss == pytest.approx(other_loss, rel=TOLERANCE)
    largest = max(grad.norm().item() for grad in other_grads.values())
    for name, grad in grads.items():
        assert torch.isfinite(grad).all(), name
        scale = max(other_grads[name].norm().item(), 1e-6 * largest)
        assert (grad - other_grads[name]).norm().item() <= TOLERANCE * scale, name


def test_loss_and_gradients_of_random_forests_are_those_of_the_rows():
    model = tiny_llama()
    seen = Counter()

    @settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(rows=FORESTS)
    def check(rows):
        tree = plan_tree(rows)
        seen["examples"] += 1
        seen["shares"] += tree.num_tokens < saving(rows)[0]
        seen["several roots"] += tree.depths.count(0) > 1
        seen["branch"] += len(set(tree.label_positions)) < len(tree.label_positions)
        seen["weight above one"] += any(weight > 1 for weight in tree.label_weights)
        expected = row_by_row(model, rows)
        assert expected[0] > 0 or not tree.label_weights
        assert_equal_to(under_the_tree(model, rows), expected)
        seen["compared"] += bool(tree.label_weights)

    check()
    assert seen["compared"] >= 90, seen
    for kind in ("shares", "several roots", "branch", "weight above one"):
        assert seen[kind] >= 15, seen


def test_padding_changes_neither_loss_nor_gradients():
    model, rows = tiny_llama(), random_rows(5, 3, 8, seed=1)
    assert_equal_to(under_the_tree(model, rows, multiple=64), row_by_row(model, rows))


def test_no_label_gives_a_zero_that_can_be_differentiated():
    model = tiny_llama()
    loss, grads = under_the_tree(model, [RenderedRow([1, 2], [NO, NO])])
    assert loss == 0
    assert all(not grad.any() for grad in grads.values())
