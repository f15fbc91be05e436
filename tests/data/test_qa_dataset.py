"""The form of the baked-in set; tests/data/test_qa_dataset_conversions.py checks its numbers."""

import collections
import json
import re
from pathlib import Path

import pytest

from data.dataset import read_dataset, read_questions

DATA = Path(__file__).parents[2] / "data"
TOPICS = {
    "Wilderness Survival Basics",
    "Basic First Aid Procedures",
    "Simple Car Maintenance Checks",
    "Basic Cooking Techniques and Ingredient Substitutions",
    "Common Unit Conversions",
    "Essential Knots and Uses",
}


@pytest.fixture(scope="module")
def rows():
    return [json.loads(line) for line in (DATA / "qa_dataset.jsonl").read_text(encoding="utf-8").splitlines()]


def words(text):
    return re.findall(r"[a-z0-9']+", text.lower())


def jaccard(one, other):
    return len(one & other) / len(one | other)


def test_topics_and_size(rows):
    counts = collections.Counter(row["topic"] for row in rows)
    assert counts.keys() == TOPICS
    assert min(counts.values()) >= 60
    assert sum(counts.values()) >= 360


def test_rows_have_exactly_three_fields_and_fitting_lengths(rows):
    for row in rows:
        assert list(row) == ["topic", "question", "answer"]
        assert 3 <= len(row["question"].split()) <= 30, row["question"]
        assert 30 <= len(row["answer"].split()) <= 120, row["question"]


def test_no_answer_is_templated(rows):
    openings = collections.Counter(" ".join(words(row["answer"])[:4]) for row in rows)
    closings = collections.Counter(" ".join(words(row["answer"])[-5:]) for row in rows)
    assert max(openings.values()) <= 2, openings.most_common(3)
    assert max(closings.values()) <= 2, closings.most_common(3)


def test_no_question_is_nearly_another_nor_a_demo_question(rows):
    questions = [set(words(row["question"])) for row in rows]
    demo = [set(words(question)) for question in read_questions(DATA / "prompts" / "demo_questions.txt")]
    assert len(demo) == 5
    for number, question in enumerate(questions):
        assert all(jaccard(question, other) <= 0.75 for other in questions[:number]), rows[number]["question"]
        assert all(jaccard(question, other) <= 0.6 for other in demo), rows[number]["question"]


def test_the_parquet_is_built_from_the_rows(rows):
    built = read_dataset(DATA / "qa_dataset.parquet")
    assert sorted(example.answer for example in built) == sorted(row["answer"] for row in rows)
    assert all(example.question.startswith(f"For {example.topic}, ") for example in built)
