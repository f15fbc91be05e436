"""The prefix tree of every shape of batch, in integers."""

import itertools
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.render import RenderedRow
from tests.random_rows import FORESTS, NO, row
from train.fast.prefix_tree import PrefixTree, plan_rows, plan_tree, saving

ROOT = Path(__file__).parents[3]


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
    assert sum(tree.label_weights) == sum(labels_by_row(rows).values())


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
    roots = [0, 0, 1, 2, 2]
    for query, key in itertools.product(range(5), range(5)):
        may_attend = key <= query < tree.ends[key]
        assert not may_attend or roots[query] == roots[key], "one root sees another"


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
    assert plan_tree([row([1, 2])]).label_weights == (1,)
    assert plan_tree([row([1])]).label_weights == ()


def test_ids_sort_as_numbers_not_as_bytes():
    rows = [row([256, 1]), row([1, 256]), row([255, 2]), row([2, 255]), row([2**31, 1])]
    assert plan_tree(rows).ids == (1, 256, 2, 255, 255, 2, 256, 1, 2**31, 1)


def test_rows_that_are_wrong():
    with pytest.raises(ValueError, match="3 ids but 2 labels"):
        plan_tree([RenderedRow([1, 2, 3], [NO, 2])])
    with pytest.raises(ValueError, match="label -1 is neither"):
        plan_tree([RenderedRow([1, 2, 3], [NO, -1, 3])])


@settings(max_examples=300, deadline=None)
@given(rows=FORESTS, random=st.randoms(use_true_random=False))
def test_any_forest_is_the_tree_of_its_rows_in_any_order(rows, random):
    tree = plan_tree(rows)
    assert_is_the_tree_of(tree, rows)
    assert plan_tree(random.sample(rows, len(rows))) == tree
    assert saving(rows) == (sum(len(r.input_ids) for r in rows), tree.num_tokens)
    plan = plan_rows(rows)
    assert plan.tree == tree
    for path, owner in zip(paths_of(tree), plan.owners, strict=True):
        assert tuple(rows[owner].input_ids[: len(path)]) == path
    for one, labels in zip(rows, plan.row_labels, strict=True):
        places = [t for t in range(1, len(one.labels)) if one.labels[t] != NO]
        assert [tree.label_targets[label] for label in labels] == [one.labels[t] for t in places]
        assert [paths_of(tree)[tree.label_positions[label]] for label in labels] == [
            tuple(one.input_ids[:t]) for t in places
        ]


@pytest.mark.alone
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
