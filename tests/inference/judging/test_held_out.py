"""Which rows are taken, and that nothing is called held out that is not proved to be."""

from dataclasses import dataclass

import pytest

from data.dataset import write_dataset
from data.schema import Example
from data.tokenizer import load_chat_tokenizer
from inference.judging.held_out import HeldOut, held_out_rows


@dataclass
class Loaded:
    tokenizer: object
    system_prompt: str = "Be brief."


@pytest.fixture(scope="module")
def loaded():
    return Loaded(load_chat_tokenizer())


@pytest.fixture
def dataset(tmp_path):
    rows = [Example(f"What is knot number {n} for?", f"Use {n}.", topic="Knots" if n % 2 else None) for n in range(20)]
    write_dataset(rows, tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def test_sides_have_no_row_in_common_and_nothing_is_proved_without_a_run(loaded, dataset):
    sides = {split: held_out_rows(loaded, None, dataset, split, None) for split in ("train", "validation", "all")}
    asked = {split: {example.question for example in side.examples} for split, side in sides.items()}
    assert asked["train"].isdisjoint(asked["validation"])
    assert asked["train"] | asked["validation"] <= asked["all"]
    assert len(asked["all"]) == 20
    assert all(side.facts["proved_held_out"] is False for side in sides.values())


def test_a_limit_is_a_seeded_subset_in_order(loaded, dataset):
    some = held_out_rows(loaded, None, dataset, "all", 5)
    assert some.examples == held_out_rows(loaded, None, dataset, "all", 5).examples
    assert (some.facts["rows"], some.facts["of_rows"]) == (5, 20)
    numbers = [int(example.question.split()[4]) for example in some.examples]
    assert numbers == sorted(numbers)


def test_prompts_end_where_the_answer_begins(loaded, dataset):
    side = held_out_rows(loaded, None, dataset, "all", 2)
    assert len(side.rows) == 2
    for row, prompt in zip(side.rows, side.prompts, strict=True):
        assert row.input_ids[: len(prompt)] == prompt
        assert row.labels[len(prompt)] == row.input_ids[len(prompt)]


def test_rows_without_a_topic_have_one_to_be_counted_under():
    assert HeldOut([Example("q", "a", "Knots"), Example("q", "a")], [], [], {}).topics == ["Knots", "no topic"]
    assert HeldOut.nothing().facts == {"rows": 0}
