import io
from dataclasses import dataclass, replace

import pytest
from rich.console import Console

from data.schema import Example, Message
from data.stats import NO_TOPIC, Lengths, dataset_stats, legend, lengths, preview_text, segments, stats_tables


@dataclass(frozen=True)
class Row:
    """As data.render.RenderedRow: a prompt of 0s, then trained tokens."""

    input_ids: list[int]
    labels: list[int]


def row(num_prompt, num_answer):
    answer = list(range(1, num_answer + 1))
    return Row([0] * num_prompt + answer, [-100] * num_prompt + answer)


EXAMPLES = [
    Example("For Knots, Why?", "So.", "Knots"),
    Example("For Knots, Why?", "Otherwise.", "Knots"),
    Example("For Knots, why", "So.", "Knots"),
    Example("For Cooking, How?", "So."),
    Example("How?", "So."),
    Example("How?", "So."),
]
RENDERED = [row(6, 2), row(6, 4), row(6, 2), row(10, 10), row(12, 3), row(12, 3)]


def test_the_numbers_of_a_small_data_set():
    stats = dataset_stats(EXAMPLES, RENDERED, max_length_tokens=12)
    assert (stats.num_rows, stats.num_questions, stats.num_repeated_questions, stats.num_repeated_rows) == (6, 3, 2, 1)
    assert stats.row_tokens == Lengths(min=8, mean=76 / 6, p50=10, p95=20, max=20)
    assert stats.answer_tokens == Lengths(min=2, mean=4.0, p50=3, p95=10, max=10)
    assert (stats.num_truncated, stats.num_without_answer) == (3, 2)
    assert stats.label_token_share == pytest.approx((2 + 4 + 2 + 2 + 0 + 0) / (8 + 10 + 8 + 12 + 12 + 12))
    assert stats.topics == {"Knots": 3, NO_TOPIC: 2, "Cooking": 1}


def test_chats_that_differ_in_the_middle_are_not_repeats():
    chat = Example("Hi?", "Yes.", messages=(Message("user", "Hi?"), Message("assistant", "Yes.")))
    other = replace(chat, messages=(Message("system", "Be brief."), *chat.messages))
    assert dataset_stats([chat, other], [row(1, 1)] * 2, 8).num_repeated_rows == 0


def test_percentiles_of_one_hundred_rows():
    assert lengths(range(1, 101)) == Lengths(min=1, mean=50.5, p50=50, p95=95, max=100)
    assert lengths([7]) == Lengths(7, 7.0, 7, 7, 7)


def test_segments_alternate_and_hold_every_token():
    chat = Row([1, 2, 3, 4, 5, 6], [-100, 2, 3, -100, 5, 6])
    pieces = list(segments(chat, lambda ids: "".join(map(str, ids))))
    assert pieces == [(False, "1"), (True, "23"), (False, "4"), (True, "56")]


def test_preview_with_and_without_colour():
    pieces = [(False, "Why [b]? "), (True, "So.")]
    coloured = preview_text(iter(pieces), coloured=True)
    assert coloured.plain == "Why [b]? So."
    assert [coloured.plain[span.start : span.end] for span in coloured.spans if "green" in str(span.style)] == ["So."]
    assert preview_text(iter(pieces), coloured=False).plain == "Why [b]? ⟦So.⟧"
    assert legend(coloured=False).plain == "⟦trained on⟧  prompt, not trained on"


def test_tables_show_the_numbers():
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(stats_tables(dataset_stats(EXAMPLES, RENDERED, max_length_tokens=12)))
    text = console.export_text()
    for shown in ("different questions", "longer than 12 tokens (truncated)", "50.0%", "12.7", NO_TOPIC):
        assert shown in text
