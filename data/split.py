"""A training and a validation side that share no question: seeded, grouped, stratified, append-stable.

Different questions are taken in the order of their first rows. One that asks nearly the same as earlier ones joins
their side. A new one goes to validation when its topic has fallen behind the wanted share of questions by more
than an amount drawn from the seed. What is decided for a question depends on it and those before it alone, so
appended rows move no earlier row; nor does `build`, which puts the rows of a question together. For the same
reason a question that is near to both sides cannot unite them: its rows are left out, and counted as straddling.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice

from data.near_duplicates import content_words, normalise, similar_pairs, word_pieces, words
from data.schema import DataError, Example, bare_question, topic_of

NEAR_QUESTION_JACCARD = 0.8
# However one counts words, a pair as near as that is found: whole, in pieces, or those with a meaning.
READINGS = (words, word_pieces, content_words)


@dataclass(frozen=True)
class Split:
    """A split is of row numbers, counted from 0, ascending. Every row is in exactly one list."""

    train: list[int]
    validation: list[int]
    held_out: list[int]  # asks nearly what a held-out question asks
    straddling: list[int]  # asks nearly what is asked on both sides


class Side(Enum):
    """A question goes with all its rows to one of these sides."""

    TRAIN = "train"
    VALIDATION = "validation"
    HELD_OUT = "held_out"
    STRADDLING = "straddling"


def split_examples(
    examples: Sequence[Example],
    *,
    validation_fraction: float,
    seed: int,
    held_out_questions: Sequence[str] = (),
) -> Split:
    """Split rows so that no question, nor a near copy of one, stands on both sides; held-out ones on neither.

    DataError if the fraction is not in (0, 0.5] or a side would be empty.

    >>> rows = [Example(question, "...") for question in ("Why knead?", "Why whip?", "WHY KNEAD", "Why fry?")]
    >>> split_examples(rows, validation_fraction=0.5, seed=1, held_out_questions=["Why fry?"])
    Split(train=[0, 2], validation=[1], held_out=[3], straddling=[])
    """
    if not 0 < validation_fraction <= 0.5:
        problem = f"the validation fraction is {validation_fraction}, not above 0 and at most 0.5"
        raise DataError(problem, remedy="Pass something like 0.1.")
    sides = _side_per_row(examples, validation_fraction, seed, held_out_questions)
    split = Split(**{side.value: [row for row, own in enumerate(sides) if own is side] for side in Side})
    _check_not_empty(split, validation_fraction)
    return split


def count_leaks(train: Iterable[Example], validation: Iterable[Example]) -> int:
    """Count the pairs of different questions that ask nearly the same and stand on different sides.

    >>> count_leaks([Example("Why whip?", "..."), Example("Why knead?", "...")], [Example("why whip", "...")])
    1
    """
    train_texts = list(dict.fromkeys(map(_asked_text, train)))
    validation_texts = list(dict.fromkeys(map(_asked_text, validation)))
    near = near_questions(train_texts + validation_texts)
    boundary = len(train_texts)
    return sum(later >= boundary > earlier for later in near for earlier in near[later])


def near_questions(questions: Sequence[str]) -> dict[int, set[int]]:
    """Find for each question the earlier ones that ask nearly the same: Jaccard >= 0.8 in one of READINGS.

    >>> near_questions(["How do I treat a nosebleed?", "Why whip cream?", "How do you treat the nosebleed?"])
    {2: {0}}
    """
    near: defaultdict[int, set[int]] = defaultdict(set)
    for words_of in READINGS:
        for later, earlier in similar_pairs(questions, words_of, NEAR_QUESTION_JACCARD):
            near[later].add(earlier)
    return dict(near)


def _asked_text(example: Example) -> str:
    return normalise(bare_question(example))


@dataclass
class _TopicBalance:
    """The different questions of one topic assigned so far."""

    num_questions: int = 0
    num_validation_questions: int = 0
    num_validation_groups: int = 0


def _side_per_row(
    examples: Sequence[Example], fraction: float, seed: int, held_out_questions: Sequence[str]
) -> list[Side]:
    """The side of each row. Equal questions are assigned once, where they are first asked."""
    asked_texts = [_asked_text(example) for example in examples]
    topics = dict.fromkeys((_asked_text(Example(question, "")) for question in held_out_questions), "")
    num_held_out = len(topics)
    for text, example in zip(asked_texts, examples, strict=True):
        topics.setdefault(text, topic_of(example) or "")
    sides = dict(zip(topics, _side_per_question(topics, num_held_out, fraction, seed), strict=True))
    return [sides[text] for text in asked_texts]


def _side_per_question(topics: Mapping[str, str], num_held_out: int, fraction: float, seed: int) -> list[Side]:
    """Sides of different questions, given with their topics in the order of asking, the held-out ones first."""
    near = near_questions(list(topics))
    balances: defaultdict[str, _TopicBalance] = defaultdict(_TopicBalance)
    sides = [Side.HELD_OUT] * num_held_out
    for index, topic in islice(enumerate(topics.values()), num_held_out, None):
        inherited = _inherited_side(near.get(index, set()), sides, num_held_out)
        side = inherited or _new_group_side(balances[topic], topic, fraction, seed)
        _count_question(balances[topic], side)
        sides.append(side)
    return sides


def _inherited_side(near: Iterable[int], sides: Sequence[Side], num_held_out: int) -> Side | None:
    """The side that near questions impose; None if they impose none. Excluded rows impose nothing.

    >>> _inherited_side([1, 2], [Side.HELD_OUT, Side.TRAIN, Side.VALIDATION], num_held_out=1)
    <Side.STRADDLING: 'straddling'>
    """
    if any(index < num_held_out for index in near):
        return Side.HELD_OUT
    imposed = {sides[index] for index in near} & {Side.TRAIN, Side.VALIDATION}
    return Side.STRADDLING if len(imposed) == 2 else next(iter(imposed), None)


def _new_group_side(balance: _TopicBalance, topic: str, fraction: float, seed: int) -> Side:
    """Validation, if the topic lacks more validation questions than a number drawn from [0, 1) for its next group.

    >>> [_new_group_side(_TopicBalance(num, 0, 0), "Knots", 0.1, seed=1).value for num in (0, 9)]
    ['train', 'validation']
    """
    num_lacking = fraction * (balance.num_questions + 1) - balance.num_validation_questions
    drawn = hashlib.blake2b(f"{seed}\0{topic}\0{balance.num_validation_groups}".encode(), digest_size=8).digest()
    if num_lacking <= int.from_bytes(drawn) / 2**64:
        return Side.TRAIN
    balance.num_validation_groups += 1
    return Side.VALIDATION


def _count_question(balance: _TopicBalance, side: Side) -> None:
    balance.num_questions += side in (Side.TRAIN, Side.VALIDATION)
    balance.num_validation_questions += side is Side.VALIDATION


def _check_not_empty(split: Split, validation_fraction: float) -> None:
    num_train, num_validation = len(split.train), len(split.validation)
    if not num_train or not num_validation:
        problem = (
            f"the split leaves {num_train} training and {num_validation} validation rows"
            f" ({len(split.held_out)} held out, {len(split.straddling)} near to both sides)"
        )
        remedy = f"Give more rows with different questions, or change the fraction of {validation_fraction}."
        raise DataError(problem, remedy=remedy)
