import pytest

from data.schema import Example
from data.tokenizer import load_chat_tokenizer
from train.batching.tokenise import seeded_subset, tokenise
from train.failure import BadDataError

SHORT = Example("For Knots, which knot?", "A bowline.", topic="Knots")
LONG = Example("For Knots, which knot?", "A bowline. " * 40, topic="Knots")


@pytest.fixture(scope="module")
def tokenizer():
    return load_chat_tokenizer()


def tokenised(tokenizer, examples, max_length_tokens=64, max_truncated_fraction=0.5):
    return tokenise(
        tokenizer,
        examples,
        system_prompt="Be brief.",
        max_length_tokens=max_length_tokens,
        max_truncated_fraction=max_truncated_fraction,
    )


def test_counts_what_it_cuts(tokenizer):
    rows = tokenised(tokenizer, [SHORT, LONG])
    assert (rows.num_truncated, rows.num_dropped_without_label) == (1, 0)
    assert max(len(row.input_ids) for row in rows.rows) == 64
    assert rows.num_label_tokens == sum(row.num_label_tokens for row in rows.rows) > 0


def test_refuses_to_cut_more_than_allowed(tokenizer):
    with pytest.raises(BadDataError, match=r"1 of 2 rows are longer .*the longest has \d+ tokens"):
        tokenised(tokenizer, [SHORT, LONG], max_truncated_fraction=0.1)


def test_a_row_whose_answer_is_cut_off_is_dropped_and_counted(tokenizer):
    asked_at_length = Example("why " * 80, "Because.")
    rows = tokenised(tokenizer, [SHORT, asked_at_length], max_truncated_fraction=0.9)
    assert (len(rows.rows), rows.num_dropped_without_label) == (1, 1)


def test_fingerprint_follows_content(tokenizer):
    one, other = (
        tokenised(tokenizer, [SHORT]),
        tokenised(tokenizer, [Example("For Knots, which knot?", "A reef knot.")]),
    )
    assert one.fingerprint() == tokenised(tokenizer, [SHORT]).fingerprint() != other.fingerprint()


def test_subset_is_seeded_and_keeps_order():
    subset = seeded_subset(range(100), 10, seed=1)
    assert subset == sorted(subset) == seeded_subset(range(100), 10, seed=1) != seeded_subset(range(100), 10, seed=2)
    assert seeded_subset([3, 4], None, seed=1) == [3, 4]
