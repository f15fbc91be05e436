"""Raw rows, one at a time, from JSON Lines, CSV, Parquet or a data set of the Hugging Face hub.

A row that cannot be read is handed on as the DataError it is: whoever reads a million rows decides whether
one bad row is the end. A file that cannot be read at all raises the DataError.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import pyarrow.parquet as pq

from data.dataset import damage_named, dataset_fingerprint
from data.schema import DataError

if TYPE_CHECKING:
    from datasets import DatasetBuilder

HUB_PREFIX = "hf://"
ROWS_PER_BATCH = 10_000
MAX_CSV_FIELD_CHARS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Source:
    """A source is where rows come from, and what exactly was there: a file's sha256, a hub data set's fingerprint."""

    name: str  # as the user wrote it
    identity: str
    size: int | None  # in the unit of Record.position: bytes, or rows for Parquet; None if not known


@dataclass(frozen=True, slots=True)
class Record:
    """A record is one raw row, or why it could not be read."""

    line: int  # line of the file, or row number, counted from 1
    raw: Mapping[str, object] | DataError
    position: int  # how much of the source has been read, for showing progress


def open_source(name: str) -> Source:
    """Find a source and take its identity.

    Raises:
        DataError: it is not there, not reachable, or of no known kind.
    """
    if name.startswith(HUB_PREFIX):
        return _open_hub_dataset(name)
    path = Path(name)
    if not path.is_file():
        raise DataError("there is no such file", source=name, remedy="Check the path.")
    if _kind(name) not in _FILE_READERS:
        remedy = "Give .jsonl, .ndjson, .csv (each also as .gz), .parquet, or hf://owner/name."
        raise DataError("is of no known kind", source=name, remedy=remedy)
    return Source(name, f"sha256:{dataset_fingerprint(path)}", _size(path))


def read_records(source: Source) -> Iterator[Record]:
    """Read the rows of a source in its order. Blank lines are not rows."""
    reader = _read_hub_dataset if source.name.startswith(HUB_PREFIX) else _FILE_READERS[_kind(source.name)]
    return reader(source)


def _kind(name: str) -> str:
    """The file name's ending, without packing.

    >>> _kind("rows.jsonl.gz")
    '.jsonl'
    """
    return Path(name.removesuffix(".gz")).suffix.lower()


def _size(path: Path) -> int:
    if _kind(path.name) != ".parquet":
        return path.stat().st_size
    with _damage_named(str(path)), pq.ParquetFile(path) as file:
        return int(file.metadata.num_rows)


def _open_bytes(name: str) -> tuple[IO[bytes], IO[bytes]]:
    """The content of a file, unpacked, and the file itself, whose position tells the progress."""
    file = Path(name).open("rb")  # noqa: SIM115  # the reader closes it
    return (cast(IO[bytes], gzip.open(file)), file) if name.endswith(".gz") else (file, file)


@contextmanager
def _damage_named(name: str) -> Iterator[None]:
    with damage_named(name, "Write it again."):
        try:
            yield
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"is a damaged .gz file ({error})", source=name, remedy="Pack it again.") from error
        except csv.Error as error:
            remedy = 'Check the quotes: a quote inside a field is written "".'
            raise DataError(f"is not CSV ({error})", source=name, remedy=remedy) from error


def _read_jsonl(source: Source) -> Iterator[Record]:
    content, file = _open_bytes(source.name)
    with file, content, _damage_named(source.name):
        for line, text in enumerate(content, start=1):
            if text.strip():
                yield Record(line, _parse_json(text, source.name, line), file.tell())


def _parse_json(text: bytes, name: str, line: int) -> Mapping[str, object] | DataError:
    """One JSON object; if it is none, the error that says so.

    >>> print(_parse_json(b"[1]", "rows.jsonl", 7))
    rows.jsonl:7: is a JSON list, not an object. Write {"question": ..., "answer": ...}.
    """
    try:
        row = json.loads(text.decode("utf-8-sig" if line == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        problem, reason = f"is not UTF-8 ({error.reason} at byte {error.start})", "invalid_unicode"
        return DataError(problem, source=name, line=line, remedy="Save it as UTF-8.", reason=reason)
    except (ValueError, RecursionError) as error:
        remedy = "Write one JSON object a line."
        return DataError(f"is not JSON ({error})", source=name, line=line, remedy=remedy, reason="bad_json")
    if isinstance(row, dict):
        return row
    problem, remedy = f"is a JSON {type(row).__name__}, not an object", 'Write {"question": ..., "answer": ...}.'
    return DataError(problem, source=name, line=line, remedy=remedy, reason="bad_json")


def _read_csv(source: Source) -> Iterator[Record]:
    # The module's own limit of 128 KiB would stop at a long answer; parse_row has one that the user chooses.
    csv.field_size_limit(MAX_CSV_FIELD_CHARS)
    content, file = _open_bytes(source.name)
    # Bytes that are not UTF-8 become lone surrogates, which parse_row refuses, naming line and field.
    text = io.TextIOWrapper(content, "utf-8-sig", errors="surrogateescape", newline="")
    with file, text, _damage_named(source.name):
        reader = csv.reader(text, strict=True)
        header = _checked_header(next(reader, []), source.name)
        line = reader.line_num + 1
        for cells in reader:
            if cells:
                yield Record(line, _name_cells(header, cells, source.name, line), file.tell())
            line = reader.line_num + 1


def _checked_header(header: list[str], name: str) -> list[str]:
    if len(set(header)) < len(header) or not header:
        problem = f"has columns that are not different: {', '.join(header)}" if header else "is empty"
        raise DataError(problem, source=name, remedy="Give the column names in the first line.")
    return header


def _name_cells(header: list[str], cells: list[str], name: str, line: int) -> Mapping[str, object] | DataError:
    """One CSV row by column name.

    >>> print(_name_cells(["question", "answer"], ["Why?"], "rows.csv", 2))
    rows.csv:2: has 1 cells, the header 2. Quote cells that contain a comma.
    """
    if len(cells) == len(header):
        return dict(zip(header, cells, strict=True))
    problem, remedy = f"has {len(cells)} cells, the header {len(header)}", "Quote cells that contain a comma."
    return DataError(problem, source=name, line=line, remedy=remedy, reason="wrong_cells")


def _read_parquet(source: Source) -> Iterator[Record]:
    with _damage_named(source.name), pq.ParquetFile(source.name) as file:
        rows = chain.from_iterable(batch.to_pylist() for batch in file.iter_batches(ROWS_PER_BATCH))
        for row, raw in enumerate(rows, start=1):
            yield Record(row, raw, row)


@contextmanager
def _hub_trouble_named(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        remedy = "Check name, split and network (HF_HUB_OFFLINE, HF_TOKEN), or download it and give the file."
        raise DataError(f"cannot be loaded ({error})", source=name, remedy=remedy) from error


@lru_cache(maxsize=1)
def _hub_builder(repository: str) -> "DatasetBuilder":
    from datasets import load_dataset_builder

    return load_dataset_builder(repository)


def _open_hub_dataset(name: str) -> Source:
    with _hub_trouble_named(name):
        builder = _hub_builder(_hub_address(name)[0])
    return Source(name, f"fingerprint:{builder.hash}", size=None)


def _read_hub_dataset(source: Source) -> Iterator[Record]:
    repository, split = _hub_address(source.name)
    with _hub_trouble_named(source.name):
        rows = _hub_builder(repository).as_streaming_dataset(split=split)
        for row, raw in enumerate(rows, start=1):
            yield Record(row, raw, row)


def _hub_address(name: str) -> tuple[str, str]:
    """Repository and split; the split is `train` if the address names none.

    >>> _hub_address("hf://owner/name"), _hub_address("hf://owner/name:test")
    (('owner/name', 'train'), ('owner/name', 'test'))
    """
    repository, _, split = name.removeprefix(HUB_PREFIX).partition(":")
    return repository, split or "train"


_FILE_READERS: dict[str, Callable[[Source], Iterator[Record]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
