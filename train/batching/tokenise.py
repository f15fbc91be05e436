"""Validated examples -> tokenised rows, with every truncation counted. Pure but for the tokenizer it is handed."""

import dataclasses
import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data.dataset import dataset_fingerprint, read_dataset, read_prompt, read_questions
from data.render import RenderedRow, render_training_row
from data.schema import Example
from data.split import Split, split_examples
from train.batching.topics import rows_by_topic
from train.config.run_config import RunConfig
from train.failure import BadDataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TokenisedRows:
    """Rows ready for training: ids and labels of equal length, at most `max_length_tokens`, each with a label."""

    rows: list[RenderedRow]
    num_truncated: int
    num_dropped_without_label: int
    topics: Sequence[str | None] = ()
    """Of each row; empty where nobody asked."""

    @property
    def num_tokens(self) -> int:
        return sum(len(row.input_ids) for row in self.rows)

    @property
    def num_label_tokens(self) -> int:
        return sum(row.num_label_tokens for row in self.rows)

    def fingerprint(self) -> str:
        """Return the sha256 of all ids and labels, in order."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(json.dumps([row.input_ids, row.labels]).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class TrainingData:
    """What a run trains on and is measured by."""

    train: TokenisedRows
    validation: TokenisedRows
    system_prompt: str
    demo_questions: list[str]
    facts: dict[str, Any]
    """Counts for the summary: rows in the file, on each side, held out, cut."""

    def fingerprint(self) -> str:
        return hashlib.sha256((self.train.fingerprint() + self.validation.fingerprint()).encode()).hexdigest()


def load_training_data(config: RunConfig, tokenizer: "PreTrainedTokenizerBase") -> TrainingData:
    """Read, split, subset and tokenise the configured data set (raises DataError or BadDataError)."""
    dataset, data = config.data_file(config.data.dataset), config.data
    examples = read_dataset(dataset)
    system_prompt = read_prompt(config.data_file(data.system_prompt))
    demo_questions = read_questions(config.data_file(data.demo_questions))
    split = split_configured(config, examples, demo_questions)

    def tokenised(indices: Sequence[int]) -> TokenisedRows:
        return tokenise(
            tokenizer,
            [examples[index] for index in indices],
            system_prompt=system_prompt,
            max_length_tokens=data.max_length_tokens,
            max_truncated_fraction=data.max_truncated_fraction,
        )

    train, validation = tokenised(split.train), tokenised(split.validation)
    facts = {
        "dataset": str(dataset),
        "dataset_sha256": dataset_fingerprint(dataset),
        "rows": len(examples),
        "train_rows": len(train.rows),
        "validation_rows": len(validation.rows),
        "held_out_rows": len(split.held_out),
        "straddling_rows": len(split.straddling),
        "truncated_rows": train.num_truncated + validation.num_truncated,
        "rows_without_label": train.num_dropped_without_label + validation.num_dropped_without_label,
        "train_tokens": train.num_tokens,
        "train_label_tokens": train.num_label_tokens,
        "topics": rows_by_topic(train.topics, validation.topics),
    }
    return TrainingData(train, validation, system_prompt, demo_questions, facts)


def split_configured(config: RunConfig, examples: Sequence[Example], demo_questions: Sequence[str]) -> Split:
    """Return the leak-free split, each side then cut to its configured seeded subset."""
    split = split_examples(
        examples,
        validation_fraction=config.data.validation_fraction,
        seed=config.seed,
        held_out_questions=demo_questions,
    )
    return dataclasses.replace(
        split,
        train=seeded_subset(split.train, config.data.max_train_rows, config.seed),
        validation=seeded_subset(split.validation, config.data.max_validation_rows, config.seed),
    )


def seeded_subset(indices: Sequence[int], size: int | None, seed: int) -> list[int]:
    """Return `size` of the indices, the same ones for the same seed, in their original order; all of them for None.

    >>> seeded_subset([10, 11, 12, 13], 2, seed=42)
    [10, 11]
    """
    if size is None or size >= len(indices):
        return list(indices)
    # A stream of its own: the order within an epoch is drawn from the same seed.
    return sorted(random.Random(f"subset:{seed}").sample(list(indices), size))


def tokenise(
    tokenizer: "PreTrainedTokenizerBase",
    examples: Sequence[Example],
    *,
    system_prompt: str,
    max_length_tokens: int,
    max_truncated_fraction: float,
) -> TokenisedRows:
    """Render and cut the examples.

    Raises:
        BadDataError: more than `max_truncated_fraction` of the rows are cut.
    """
    whole = [render_training_row(tokenizer, example.conversation(system_prompt)) for example in examples]
    cut = [row.truncated(max_length_tokens) for row in whole]
    kept = [(row, example.topic) for row, example in zip(cut, examples, strict=True) if row.num_label_tokens]
    tokenised = TokenisedRows(
        rows=[row for row, _ in kept],
        num_truncated=sum(len(row.input_ids) > max_length_tokens for row in whole),
        num_dropped_without_label=len(cut) - len(kept),
        topics=[topic for _, topic in kept],
    )
    _refuse_truncation(tokenised, whole, max_length_tokens, max_truncated_fraction)
    return tokenised


def _refuse_truncation(
    tokenised: TokenisedRows, whole: Sequence[RenderedRow], max_length_tokens: int, max_truncated_fraction: float
) -> None:
    num_rows = len(whole)
    longest_tokens = max((len(row.input_ids) for row in whole), default=0)
    if tokenised.num_truncated > max_truncated_fraction * num_rows:
        raise BadDataError(
            f"{tokenised.num_truncated} of {num_rows} rows are longer than data.max_length_tokens={max_length_tokens} "
            f"(the longest has {longest_tokens} tokens), more than max_truncated_fraction={max_truncated_fraction}",
            "Raise data.max_length_tokens, shorten the rows, or allow the loss with data.max_truncated_fraction.",
        )
