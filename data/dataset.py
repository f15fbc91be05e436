"""The built data set as a file: write it, read it, know it again. Also the prompt and question files."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data.files import flush, sha256_of, written_aside
from data.schema import (
    ANSWER_COLUMN,
    MESSAGES_COLUMN,
    QUESTION_COLUMN,
    TOPIC_COLUMN,
    DataError,
    Example,
    Limits,
    parse_row,
)

ROWS_PER_GROUP = 10_000
DATASET_SCHEMA = pa.schema(
    {
        QUESTION_COLUMN: pa.string(),
        ANSWER_COLUMN: pa.string(),
        TOPIC_COLUMN: pa.string(),
        MESSAGES_COLUMN: pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
    }
)
# The build has limited its rows; a set that is built is not judged by another build's limits.
_NO_LIMITS = Limits(max_row_chars=None)
_HOW_TO_BUILD = "Build one with: python -m data build SOURCE --output PATH."


def read_dataset(path: str | os.PathLike[str]) -> list[Example]:
    """Read a built data set, or any Parquet file with `full-question` and `answer`.

    DataError, with what to do, if it is missing, foreign, empty or has a bad row.
    """
    with damage_named(str(path), _HOW_TO_BUILD), _open_parquet(Path(path)) as file:
        present = [name for name in DATASET_SCHEMA.names if name in file.schema_arrow.names]
        examples: list[Example] = []
        for batch in file.iter_batches(ROWS_PER_GROUP, columns=present):
            rows = enumerate(batch.to_pylist(), start=len(examples) + 1)
            examples += [parse_row(row, source=str(path), line=line, limits=_NO_LIMITS) for line, row in rows]
    if not examples:
        raise DataError("has no rows", source=str(path), remedy=_HOW_TO_BUILD)
    return examples


def write_dataset(examples: Sequence[Example], path: str | os.PathLike[str]) -> None:
    """Write a data set: `path` stays as it was or becomes complete. The same examples give the same bytes."""
    path = Path(path)
    groups = (examples[start : start + ROWS_PER_GROUP] for start in range(0, len(examples), ROWS_PER_GROUP))
    schema = dataset_schema(
        has_topics=any(example.topic for example in examples),
        has_chats=any(example.messages for example in examples),
    )
    with written_aside(path) as half_written:
        write_parquet(map(to_batch, groups), schema, half_written)


def dataset_schema(*, has_topics: bool, has_chats: bool) -> pa.Schema:
    """Return the columns of a data set: `topic` and `messages` only where some row has them.

    >>> dataset_schema(has_topics=True, has_chats=False).names
    ['full-question', 'answer', 'topic']
    """
    optional = {TOPIC_COLUMN: has_topics, MESSAGES_COLUMN: has_chats}
    return pa.schema([column for column in DATASET_SCHEMA if optional.get(column.name, True)])


def to_batch(examples: Sequence[Example]) -> pa.RecordBatch:
    """Put examples into one Arrow batch with all the columns of DATASET_SCHEMA."""
    messages = [[{"role": m.role, "content": m.content} for m in e.messages] or None for e in examples]
    columns = {
        QUESTION_COLUMN: [example.question for example in examples],
        ANSWER_COLUMN: [example.answer for example in examples],
        TOPIC_COLUMN: [example.topic for example in examples],
        MESSAGES_COLUMN: messages,
    }
    return pa.RecordBatch.from_pydict(columns, schema=DATASET_SCHEMA)


def write_parquet(batches: Iterable[pa.RecordBatch], schema: pa.Schema, path: Path) -> None:
    """Write the columns that `schema` names, zstd-compressed, and flush the file to the disk."""
    with path.open("wb") as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch.select(schema.names))
    flush([path])


def dataset_fingerprint(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of the file's bytes, in hexadecimal."""
    return sha256_of(Path(path))


def read_prompt(path: str | os.PathLike[str]) -> str:
    """Read a prompt file, without the white space around its text (DataError where nothing is left)."""
    prompt = _read_text(Path(path)).strip()
    if not prompt:
        raise DataError("is empty", source=str(path), remedy="Write the system prompt into it.")
    return prompt


def read_questions(path: str | os.PathLike[str]) -> list[str]:
    """Read the questions of a file, one a line; blank lines and lines that start with # are comments."""
    lines = [line.strip() for line in _read_text(Path(path)).splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise DataError("there is no such file", source=str(path), remedy="Check the path.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 ({error})", source=str(path), remedy="Save it as UTF-8.") from error


@contextmanager
def damage_named(name: str, remedy: str) -> Iterator[None]:
    """Turn what pyarrow says of a Parquet file that is damaged, or none, into a DataError."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # the disk's trouble, not the file's
            raise
        raise DataError(f"is not a Parquet file ({_one_line(error)})", source=name, remedy=remedy) from error
    except UnicodeDecodeError as error:
        raise DataError(f"holds text that is not UTF-8 ({error})", source=name, remedy=remedy) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _open_parquet(path: Path) -> pq.ParquetFile:
    if not path.is_file():
        raise DataError("there is no such data set", source=str(path), remedy=_HOW_TO_BUILD)
    file = pq.ParquetFile(path)
    missing = {QUESTION_COLUMN, ANSWER_COLUMN} - set(file.schema_arrow.names)
    if missing:
        problem = f"has no column '{min(missing)}' (its columns: {', '.join(file.schema_arrow.names)})"
        raise DataError(problem, source=str(path), remedy=_HOW_TO_BUILD)
    return file
