"""What a data set is made of once a tokenizer has seen it: lengths, topics, repeats, and what is trained on.

The numbers are functions of plain values; the tables and the coloured preview are made from them.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil
from typing import Protocol

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from data.near_duplicates import normalise
from data.schema import Example, topic_of

NO_TOPIC = "(no topic)"
NOT_TRAINED = -100  # the label of a token that gives no loss
TRAINED_STYLE, PROMPT_STYLE = "bold green", "dim"
TRAINED_MARKS = ("⟦", "⟧")  # around what is trained on, where there is no colour


class Rendered(Protocol):
    """A rendered row is what data.render gives: token ids, and labels that are NOT_TRAINED or the token id again."""

    @property
    def input_ids(self) -> list[int]:
        """Return the token ids."""

    @property
    def labels(self) -> list[int]:
        """Return a label for each token."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths say how long rows are, in tokens."""

    min: int
    mean: float
    p50: int
    p95: int
    max: int


@dataclass(frozen=True, slots=True)
class DatasetStats:
    """The statistics are of one data set under one tokenizer, system prompt and maximum length."""

    num_rows: int
    num_questions: int  # that differ in more than case and punctuation
    num_repeated_questions: int  # of these, asked by more than one row
    num_repeated_rows: int  # rows whose question and answer came before
    row_tokens: Lengths
    answer_tokens: Lengths
    label_token_share: float  # of all tokens up to max_length_tokens
    max_length_tokens: int
    num_truncated: int  # rows longer than that
    num_without_answer: int  # of these, rows with nothing left to learn from
    topics: dict[str, int]


def lengths(num_tokens: Sequence[int]) -> Lengths:
    """Measure rows by percentiles that occur: p95 is the smallest length that at least 95 % of rows do not exceed.

    >>> lengths([5, 1, 2, 4])
    Lengths(min=1, mean=3.0, p50=2, p95=5, max=5)
    """
    ascending = sorted(num_tokens)
    p50, p95 = (ascending[ceil(share * len(ascending)) - 1] for share in (0.50, 0.95))
    return Lengths(ascending[0], sum(ascending) / len(ascending), p50, p95, ascending[-1])


def dataset_stats(examples: Sequence[Example], rendered: Sequence[Rendered], max_length_tokens: int) -> DatasetStats:
    """Count what is in a data set; `rendered` holds one row per example."""
    questions = Counter(normalise(example.question) for example in examples)
    kept_labels = [num_trained(row.labels[:max_length_tokens]) for row in rendered]
    kept_tokens = [min(len(row.input_ids), max_length_tokens) for row in rendered]
    return DatasetStats(
        num_rows=len(examples),
        num_questions=len(questions),
        num_repeated_questions=sum(count > 1 for count in questions.values()),
        num_repeated_rows=len(examples) - len({(e.question, e.answer, e.messages) for e in examples}),
        row_tokens=lengths([len(row.input_ids) for row in rendered]),
        answer_tokens=lengths([num_trained(row.labels) for row in rendered]),
        label_token_share=sum(kept_labels) / sum(kept_tokens),
        max_length_tokens=max_length_tokens,
        num_truncated=sum(len(row.input_ids) > max_length_tokens for row in rendered),
        num_without_answer=kept_labels.count(0),
        topics=dict(Counter(topic_of(example) or NO_TOPIC for example in examples).most_common()),
    )


def num_trained(labels: Sequence[int]) -> int:
    """Count the tokens that give loss.

    >>> num_trained([-100, -100, 7, 2])
    2
    """
    return sum(label != NOT_TRAINED for label in labels)


def segments(row: Rendered, decode: Callable[[list[int]], str]) -> Iterator[tuple[bool, str]]:
    """Cut the text of a row into pieces: whether a piece is trained on, and its text.

    For ids [1, 2, 3] and labels [-100, -100, 3]: (False, decode([1, 2])), (True, decode([3])).
    """
    pairs = zip(row.input_ids, row.labels, strict=True)
    for trained, piece in groupby(pairs, key=lambda pair: pair[1] != NOT_TRAINED):
        yield trained, decode([token for token, _ in piece])


def preview_text(pieces: Iterator[tuple[bool, str]], *, coloured: bool) -> Text:
    """Show one row to the eye: what is trained on stands in colour, or between marks.

    >>> preview_text(iter([(False, "Why? "), (True, "Because.")]), coloured=False).plain
    'Why? ⟦Because.⟧'
    """
    text = Text()
    before, after = ("", "") if coloured else TRAINED_MARKS
    for trained, piece in pieces:
        if trained:
            text.append(f"{before}{piece}{after}", TRAINED_STYLE)
        else:
            text.append(piece, PROMPT_STYLE)
    return text


def legend(*, coloured: bool) -> Text:
    """Explain the preview's colours or marks."""
    return preview_text(iter([(True, "trained on"), (False, "  prompt, not trained on")]), coloured=coloured)


def stats_tables(stats: DatasetStats) -> RenderableType:
    """Put the numbers into tables for a terminal."""
    return Group(_summary_table(stats), _length_table(stats), _topic_table(stats.topics))


def _summary_table(stats: DatasetStats) -> Table:
    limit = f"longer than {stats.max_length_tokens} tokens (truncated)"
    table = _table("Data set", "", "count", "share")
    for name, count, whole in (
        ("rows", stats.num_rows, None),
        ("different questions", stats.num_questions, None),
        ("of these asked more than once", stats.num_repeated_questions, stats.num_questions),
        ("rows that repeat an earlier row", stats.num_repeated_rows, stats.num_rows),
        (limit, stats.num_truncated, stats.num_rows),
        ("of these with no answer left", stats.num_without_answer, stats.num_rows),
    ):
        table.add_row(name, f"{count:,}", "" if whole is None else f"{count / whole:.1%}")
    table.add_row("tokens trained on", "", f"{stats.label_token_share:.1%}")
    return table


def _length_table(stats: DatasetStats) -> Table:
    table = _table("Tokens", "", "min", "mean", "p50", "p95", "max")
    for name, length in (("row", stats.row_tokens), ("answer (trained on)", stats.answer_tokens)):
        table.add_row(name, str(length.min), f"{length.mean:.1f}", str(length.p50), str(length.p95), str(length.max))
    return table


def _topic_table(topics: dict[str, int]) -> Table:
    table = _table("Topics", "topic", "rows", "share")
    for topic, count in topics.items():
        table.add_row(topic, f"{count:,}", f"{count / sum(topics.values()):.1%}")
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table
