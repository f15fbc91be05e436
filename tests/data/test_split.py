import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.dataset import read_dataset, read_questions
from data.schema import DataError, Example, topic_of
from data.split import count_leaks, split_examples

REPOSITORY = Path(__file__).parents[2]
REAL_SET = REPOSITORY.parent / "shared" / "data" / "practical_skills_qa.parquet"
DEMO_QUESTIONS = REPOSITORY / "data" / "prompts" / "demo_questions.txt"

needs_real_set = pytest.mark.skipif(not REAL_SET.is_file(), reason="the real data set is not at ../shared/data")


def numbered(num_rows, topic="Knots"):
    """Rows whose questions have nothing in common."""
    return [Example(f"For {topic}, q{number}a q{number}b q{number}c?", "So.", topic) for number in range(num_rows)]


def side_of_rows(split):
    sides = {row: side for side in ("train", "validation", "held_out", "straddling") for row in getattr(split, side)}
    return [sides[row] for row in sorted(sides)]


def test_every_row_is_on_one_side_and_topics_keep_their_share():
    examples = numbered(1000, "Knots") + numbered(300, "Cooking")
    split = split_examples(examples, validation_fraction=0.1, seed=42)
    assert sorted(split.train + split.validation) == list(range(1300))
    counts = Counter(examples[row].topic for row in split.validation)
    assert 99 <= counts["Knots"] <= 101
    assert 29 <= counts["Cooking"] <= 31


def test_seeds_differ_and_repeat():
    first, again, other = (
        split_examples(numbered(200), validation_fraction=0.1, seed=seed).validation for seed in (1, 1, 2)
    )
    assert first == again != other


def test_validation_rows_stand_at_drawn_distances():
    validation = split_examples(numbered(1000), validation_fraction=0.1, seed=42).validation
    distances = {later - earlier for earlier, later in pairwise(validation)}
    assert len(distances) > 5
    assert max(distances) < 20


def test_many_topics_of_one_row_keep_the_share():
    examples = [Example(f"Is p{n} q{n} r{n} so?", "So.", f"T{n}") for n in range(2000)]
    split = split_examples(examples, validation_fraction=0.1, seed=1)
    assert 150 <= len(split.validation) <= 250


def test_the_same_question_under_two_topics_stays_on_one_side():
    examples = [row for pair in zip(numbered(100), numbered(100, "Ropes"), strict=True) for row in pair]
    sides = side_of_rows(split_examples(examples, validation_fraction=0.2, seed=1))
    assert sides[::2] == sides[1::2]


def test_a_row_near_to_both_sides_is_left_out_and_moves_no_other():
    left, right, between = (Example(f"tie a b c d e f g h {end}", "So.") for end in ("i", "x y z", "i x"))
    rows = [left, right, *numbered(50), between, between, left]
    splits = [split_examples(rows, validation_fraction=0.5, seed=seed) for seed in range(20)]
    torn = [split for split in splits if (0 in split.train) != (1 in split.train)]
    assert len(torn) > 5
    assert all(split.straddling == [52, 53] for split in torn)
    assert all((0 in split.train) == (54 in split.train) for split in torn)


@pytest.mark.parametrize("fraction", [0, -0.1, 0.51, 1, float("nan")])
def test_fractions_out_of_range_are_refused(fraction):
    with pytest.raises(DataError, match="validation fraction"):
        split_examples(numbered(10), validation_fraction=fraction, seed=1)


def test_an_empty_side_is_refused_with_numbers():
    with pytest.raises(DataError, match=r"leaves \d training and \d validation rows \(1 held out"):
        split_examples(
            [Example("Why fry?", "So."), *numbered(1)],
            validation_fraction=0.1,
            seed=1,
            held_out_questions=["why fry"],
        )


QUESTIONS = st.lists(
    st.lists(st.sampled_from(["tie", "loop", "rope", "knot", "the", "a", "how", "water"]), min_size=1, max_size=6).map(
        " ".join
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(QUESTIONS, QUESTIONS, st.integers(0, 5))
def test_appending_moves_no_row(questions, appended, seed):
    base = numbered(60)  # so that neither side is empty
    few = base + [Example(question, "So.", "Knots") for question in questions]
    many = few + [Example(question, "So.", "Ropes") for question in appended]
    before = side_of_rows(split_examples(few, validation_fraction=0.3, seed=seed))
    after = split_examples(many, validation_fraction=0.3, seed=seed)
    assert side_of_rows(after)[: len(few)] == before
    assert count_leaks((many[row] for row in after.train), (many[row] for row in after.validation)) == 0


@pytest.fixture(scope="module")
def real_examples():
    return read_dataset(REAL_SET)


@pytest.fixture(scope="module")
def real_split(real_examples):
    return split_examples(
        real_examples, validation_fraction=0.1, seed=42, held_out_questions=read_questions(DEMO_QUESTIONS)
    )


def _tokens(question):
    """Written for this test alone: lower-case runs of letters and digits after the topic."""
    return tuple(re.findall(r"\w+", re.sub(r"^For [^,]+, ", "", question).lower()))


@needs_real_set
def test_real_set_shares_no_question_by_an_independent_check(real_examples, real_split):
    train = {_tokens(real_examples[row].question) for row in real_split.train}
    validation = {_tokens(real_examples[row].question) for row in real_split.validation}
    assert len(train) > 1000
    assert len(validation) > 100
    assert not train & validation
    for left in map(set, validation):
        for right in map(set, train):
            assert len(left & right) / len(left | right) < 0.8, (left, right)


@needs_real_set
def test_real_set_keeps_demo_questions_out(real_examples, real_split):
    demo = [set(_tokens(question)) for question in read_questions(DEMO_QUESTIONS)]
    assert len(demo) == 5
    kept = {_tokens(real_examples[row].question) for row in real_split.train + real_split.validation}
    assert not any(set(tokens) == question for tokens in kept for question in demo)
    assert any("nosebleed" in real_examples[row].question for row in real_split.held_out)


@needs_real_set
def test_real_set_keeps_topics_and_loses_few_rows(real_examples, real_split):
    assert sum(map(len, (real_split.train, real_split.validation, real_split.held_out, real_split.straddling))) == 2845
    assert len(real_split.straddling) < 0.03 * 2845
    train, validation = (
        Counter(topic for topic, _ in {(topic_of(example), _tokens(example.question)) for example in side})
        for side in ([real_examples[row] for row in rows] for rows in (real_split.train, real_split.validation))
    )
    assert len(train) == 6
    for topic, num_questions in train.items():
        assert 0.09 <= validation[topic] / (num_questions + validation[topic]) <= 0.11, topic


@needs_real_set
def test_real_set_stays_put_when_rows_are_appended(real_examples, real_split):
    held_out = read_questions(DEMO_QUESTIONS)
    part = split_examples(real_examples[:2000], validation_fraction=0.1, seed=42, held_out_questions=held_out)
    assert side_of_rows(real_split)[:2000] == side_of_rows(part)
