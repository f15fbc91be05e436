"""The prefix tree of every shape of batch, its masks, and that its loss and gradients are the rows'."""

import itertools
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torch.nn.attention.flex_attention import create_block_mask
from transformers import LlamaConfig, LlamaForCausalLM

from data.render import IGNORE_INDEX, RenderedRow
from train.fast.prefix_tree import (
    PrefixSharingCollator,
    PrefixTree,
    block_mask,
    dense_mask,
    mask_mod,
    plan_tree,
    plan_with_owners,
    saving,
)

ROOT = Path(__file__).parents[3]
NO = IGNORE_INDEX
TOLERANCE = 1e-5


def row(ids, labelled_from=0):
    """A row whose tokens from index `labelled_from` on are trained."""
    return RenderedRow(list(ids), [NO] * labelled_from + list(ids[labelled_from:]))


def paths_of(tree):
    """Every token's ids from its root to itself, found by the ends alone."""
    ancestors = [[j for j in range(i + 1) if i < tree.ends[j]] for i in range(tree.num_tokens)]
    return [tuple(tree.ids[j] for j in line) for line in ancestors]


def labels_of(tree):
    """Every label as (ids up to the predicting token, target), counted by its weight."""
    paths = paths_of(tree)
    triples = zip(tree.label_positions, tree.label_targets, tree.label_weights, strict=True)
    return Counter({(paths[position], target): weight for position, target, weight in triples})


def labels_by_row(rows):
    """What `labels_of` must be, counted row by row."""
    return Counter(
        (tuple(r.input_ids[:t]), r.labels[t]) for r in rows for t in range(1, len(r.labels)) if r.labels[t] != NO
    )


def assert_is_the_tree_of(tree, rows):
    prefixes = {tuple(r.input_ids[:length]) for r in rows for length in range(1, len(r.input_ids) + 1)}
    assert sorted(paths_of(tree)) == sorted(prefixes), "a token of the tree for every distinct prefix, and no other"
    assert [depth + 1 for depth in tree.depths] == [len(path) for path in paths_of(tree)]
    assert labels_of(tree) == labels_by_row(rows)
    assert tree.num_label_tokens == sum(tree.label_weights) == sum(labels_by_row(rows).values())


# --- shapes of trees -------------------------------------------------------------------------------------------------


def test_no_rows():
    assert plan_tree([]) == PrefixTree((), (), (), (), (), ())
    assert plan_tree([row([])]).num_tokens == 0
    assert saving([]) == (0, 0)


def test_one_row():
    tree = plan_tree([row([5, 6, 7], labelled_from=1)])
    assert tree == PrefixTree((5, 6, 7), (0, 1, 2), (3, 3, 3), (0, 1), (6, 7), (1, 1))


def test_identical_rows_merge_entirely():
    rows = [row([5, 6, 7], labelled_from=2)] * 9
    assert plan_tree(rows) == PrefixTree((5, 6, 7), (0, 1, 2), (3, 3, 3), (1,), (7,), (9,))
    assert saving(rows) == (27, 3)


def test_a_row_that_is_a_prefix_of_another():
    tree = plan_tree([row([5, 6, 7, 8], labelled_from=2), row([5, 6, 7], labelled_from=2), row([5])])
    assert tree == PrefixTree((5, 6, 7, 8), (0, 1, 2, 3), (4, 4, 4, 4), (1, 2), (7, 8), (2, 1))


def test_rows_with_nothing_in_common_are_a_forest():
    tree = plan_tree([row([8, 6]), row([5, 6]), row([7])])
    assert (tree.ids, tree.depths, tree.ends) == ((5, 6, 7, 8, 6), (0, 1, 0, 0, 1), (2, 2, 3, 5, 5))
    mask = dense_mask(torch.tensor(tree.ends))[0, 0]
    roots = [0, 0, 1, 2, 2]
    for query, key in itertools.product(range(5), range(5)):
        assert not mask[query, key] or roots[query] == roots[key], "one root sees another"


def test_nested_prefixes():
    rows = [row([1, 2, 3, 4]), row([1, 2, 3, 5]), row([1, 2, 6]), row([1, 7]), row([9, 2, 3])]
    tree = plan_tree(rows)
    assert tree.ids == (1, 2, 3, 4, 5, 6, 7, 9, 2, 3)
    assert tree.depths == (0, 1, 2, 3, 3, 2, 1, 0, 1, 2)
    assert tree.ends == (7, 6, 5, 4, 5, 6, 7, 10, 10, 10)
    assert saving(rows) == (16, 10)
    assert_is_the_tree_of(tree, rows)


def test_a_branch_has_several_targets_at_one_position():
    tree = plan_tree([row([1, 2, 3]), row([1, 2, 4]), row([1, 2, 4])])
    assert tree.label_positions == (0, 1, 1)
    assert tree.label_targets == (2, 3, 4)
    assert tree.label_weights == (3, 1, 2)


def test_equal_ids_with_different_labels_count_only_the_rows_that_train_there():
    tree = plan_tree(
        [row([1, 2, 3], labelled_from=2), row([1, 2, 3], labelled_from=1), row([1, 2, 3], labelled_from=3)]
    )
    assert tree.num_tokens == 3
    assert (tree.label_positions, tree.label_targets, tree.label_weights) == ((0, 1), (2, 3), (1, 2))


def test_the_target_is_the_label_even_where_it_is_not_the_next_id():
    tree = plan_tree([RenderedRow([1, 2, 3], [NO, NO, 9]), row([1, 2, 3])])
    assert labels_of(tree) == {((1,), 2): 1, ((1, 2), 3): 1, ((1, 2), 9): 1}


def test_a_label_at_the_first_index_is_predicted_by_nothing():
    assert plan_tree([row([1, 2])]).num_label_tokens == 1
    assert plan_tree([row([1])]).num_label_tokens == 0


def test_ids_sort_as_numbers_not_as_bytes():
    rows = [row([256, 1]), row([1, 256]), row([255, 2]), row([2, 255]), row([2**31, 1])]
    assert plan_tree(rows).ids == (1, 256, 2, 255, 255, 2, 256, 1, 2**31, 1)


def test_rows_that_are_wrong():
    with pytest.raises(ValueError, match="3 ids but 2 labels"):
        plan_tree([RenderedRow([1, 2, 3], [NO, 2])])
    with pytest.raises(ValueError, match="label -1 is neither"):
        plan_tree([RenderedRow([1, 2, 3], [NO, -1, 3])])
    with pytest.raises(ValueError, match="1 rows has no tokens"):
        PrefixSharingCollator()([{"input_ids": [], "labels": []}])


# Few different ids, so that rows share beginnings, repeat each other and are prefixes of each other.
FORESTS = st.lists(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from([True, True, True, False])), min_size=1, max_size=8).map(
        lambda tokens: RenderedRow([i for i, _ in tokens], [i if trained else NO for i, trained in tokens])
    ),
    min_size=1,
    max_size=7,
)


@settings(max_examples=300, deadline=None)
@given(rows=FORESTS, random=st.randoms(use_true_random=False))
def test_any_forest_is_the_tree_of_its_rows_in_any_order(rows, random):
    tree = plan_tree(rows)
    assert_is_the_tree_of(tree, rows)
    assert plan_tree(random.sample(rows, len(rows))) == tree
    assert saving(rows) == (sum(len(r.input_ids) for r in rows), tree.num_tokens)
    same_tree, owners = plan_with_owners(rows)
    assert same_tree == tree
    for path, owner in zip(paths_of(tree), owners, strict=True):
        assert tuple(rows[owner].input_ids[: len(path)]) == path


def test_planning_is_fast():
    rows = [row([*range(330), *range(1000 * n, 1000 * n + 100)], labelled_from=400) for n in range(64)]
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        assert plan_tree(rows).num_tokens < 64 * 430
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05  # 2 ms on the machine this was written on


def test_planner_does_not_load_torch():
    code = (
        "import sys; from train.fast.prefix_tree import plan_tree; from data.render import RenderedRow;"
        "plan_tree([RenderedRow([1, 2], [-100, 2])]); sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


# --- tensors and masks -----------------------------------------------------------------------------------------------


def examples_of(rows):
    return [{"input_ids": r.input_ids, "labels": r.labels} for r in rows]


def test_collator():
    batch = PrefixSharingCollator()(examples_of([row([5, 6, 7], 1), row([5, 6, 8], 2)]))
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 2]]
    assert batch["attention_mask"].shape == (1, 1, 4, 4)
    assert batch["attention_mask"].dtype == torch.bool
    assert batch["attention_mask"][0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]]
    assert batch["label_positions"].tolist() == [0, 1, 1]
    assert batch["label_targets"].tolist() == [6, 7, 8]
    assert batch["label_weights"].tolist() == [1, 1, 1]
    assert {value.dtype for name, value in batch.items() if name != "attention_mask"} == {torch.int64}


def test_collator_for_flex_attention_has_ends_in_place_of_the_mask():
    batch = PrefixSharingCollator(dense_mask=False)(examples_of([row([5, 6, 7], 1), row([5, 6, 8], 2)]))
    assert "attention_mask" not in batch
    assert batch["subtree_ends"].tolist() == [4, 4, 3, 4]


def test_a_row_without_labels_has_tokens_but_no_label():
    batch = PrefixSharingCollator()([{"input_ids": [5, 6], "labels": [NO, NO]}])
    assert batch["input_ids"].shape == (1, 2)
    for name in ("label_positions", "label_targets", "label_weights"):
        assert batch[name].shape == (0,)
        assert batch[name].dtype == torch.int64


def test_padding_sees_itself_and_is_seen_by_nothing():
    examples = examples_of([row([5, 6, 7], 1), row([5, 6, 8], 2)])
    plain, padded = PrefixSharingCollator()(examples), PrefixSharingCollator(pad_to_multiple_of=8)(examples)
    assert padded["input_ids"].shape == padded["position_ids"].shape == (1, 8)
    mask = padded["attention_mask"][0, 0]
    assert torch.equal(mask[:4, :4], plain["attention_mask"][0, 0])
    assert torch.equal(mask[4:], torch.eye(8, dtype=torch.bool)[4:])
    assert not mask[:4, 4:].any()
    for name in ("label_positions", "label_targets", "label_weights"):
        assert torch.equal(plain[name], padded[name][: len(plain[name])])
    assert not padded["label_weights"][len(plain["label_weights"]) :].any()


def random_rows(num_rows, num_ids, max_tokens, seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, max_tokens + 1, (num_rows,), generator=generator).tolist()
    return [row(torch.randint(num_ids, (length,), generator=generator).tolist()) for length in lengths]


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


# --- loss and gradients ----------------------------------------------------------------------------------------------


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


def under_the_tree(model, rows, **options):
    batch = PrefixSharingCollator(**options)(examples_of(rows))
    inputs = {name: batch[name] for name in ("input_ids", "position_ids", "attention_mask")}
    hidden = model.base_model(**inputs, use_cache=False).last_hidden_state  # [1, T, hidden_size]
    logits = model.get_output_embeddings()(hidden[0, batch["label_positions"]])  # [L, vocabulary]
    losses = functional.cross_entropy(logits, batch["label_targets"], reduction="none")
    return gradients(model, (losses * batch["label_weights"]).sum())


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
        assert expected[0] > 0 or not tree.num_label_tokens
        assert_equal_to(under_the_tree(model, rows), expected)
        seen["compared"] += tree.num_label_tokens > 0

    check()
    assert seen["compared"] >= 90, seen
    for kind in ("shares", "several roots", "branch", "weight above one"):
        assert seen[kind] >= 15, seen


def test_padding_changes_neither_loss_nor_gradients():
    model, rows = tiny_llama(), random_rows(5, 3, 8, seed=1)
    assert_equal_to(under_the_tree(model, rows, pad_to_multiple_of=64), row_by_row(model, rows))


def test_no_label_gives_a_zero_that_can_be_differentiated():
    model = tiny_llama()
    loss, grads = under_the_tree(model, [RenderedRow([1, 2], [NO, NO])])
    assert loss == 0
    assert all(not grad.any() for grad in grads.values())
