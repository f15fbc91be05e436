"""Rows of any source -> checked, de-duplicated Parquet, with a manifest beside it: `python -m data build`.

Rows wait in a temporary file next to the output; a few hundred bytes a row stay in memory. The same input and
options give the same bytes, manifest included.
"""

import hashlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data.dataset import ROWS_PER_GROUP, dataset_fingerprint, dataset_schema, write_parquet
from data.manifest import Manifest, publish, request
from data.near_duplicates import banding_for, candidate_pairs, is_near_copy, normalise, signatures, words
from data.progress import ProgressReport, followed
from data.schema import (
    DEFAULT_COLUMNS,
    DEFAULT_LIMITS,
    MESSAGES_COLUMN,
    TOPIC_COLUMN,
    ColumnMap,
    DataError,
    Example,
    Limits,
    parse_row,
)
from data.sources import Record, Source, open_source, read_records
from data.spill import ROWS_PER_BATCH, SpilledRows, SpillWriter

EXAMPLES_PER_REASON = 3
STEPS_PER_REPORT = 1000
EXACT_DUPLICATE, NEAR_DUPLICATE = "exact_duplicate", "near_duplicate"

OnError = Literal["fail", "drop"]


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """The options are all that decides what a build gives, besides the sources."""

    columns: ColumnMap = DEFAULT_COLUMNS
    limits: Limits = DEFAULT_LIMITS
    on_error: OnError = "fail"
    max_dropped: str = "1%"  # of the rows, or a number of rows; duplicates do not count
    near_duplicate_jaccard: float | None = 0.9  # None keeps near duplicates


@dataclass
class Tally:
    """A tally counts what came in, and why rows were dropped."""

    rows_in: list[int] = field(default_factory=list)  # per source
    dropped: Counter[str] = field(default_factory=Counter)  # per reason
    examples: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # the first few

    def drop(self, reason: str, description: str) -> None:
        """Count a row under its reason; the first few of each are kept as examples."""
        self.dropped[reason] += 1
        if len(self.examples[reason]) < EXAMPLES_PER_REASON:
            self.examples[reason].append(description)


def request_of(source_names: Sequence[str], options: BuildOptions) -> tuple[list[Source], Manifest]:
    """Open the sources, and say with the options what a build of them is asked to do."""
    sources = [open_source(name) for name in source_names]
    return sources, request(sources, asdict(options))


def build(source_names: Sequence[str], output: Path, options: BuildOptions, progress: ProgressReport) -> Manifest:
    """Build `output` and its manifest, and return the manifest. Until all is done, `output` stays as it was.

    Raises:
        DataError: a source or a row cannot be used, or more rows than allowed were dropped.
    """
    sources, wanted = request_of(source_names, options)
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output.parent, prefix=".building-") as folder:
        spill, parquet = Path(folder) / "rows.arrow", Path(folder) / output.name
        tally = Tally()
        checked = _checked_rows(sources, options, tally, progress)
        question_keys = _spill(_without_repeats(checked, tally), spill)
        _check_dropped(tally, options.max_dropped)
        rows = SpilledRows(spill)
        kept, search = _drop_near_duplicates(rows, options.near_duplicate_jaccard, tally, progress)
        order = _kept_together(question_keys, kept)
        manifest = wanted | _write(rows, order, parquet, progress) | _account(tally) | search
        publish(parquet, output, manifest)
    return manifest


def allowed_drops(max_dropped: str, num_rows: int) -> int:
    """Return how many bad rows may be dropped (ValueError where that is no number).

    >>> allowed_drops("1%", 2845), allowed_drops("7", 2845)
    (28, 7)
    """
    percent = max_dropped.removesuffix("%")
    allowed = float(percent) / 100 * num_rows if max_dropped.endswith("%") else int(max_dropped)
    if not 0 <= allowed < float("inf"):
        raise ValueError(f"{max_dropped} is no number of rows, nor a percentage")
    return int(allowed)


def _checked_rows(
    sources: Sequence[Source], options: BuildOptions, tally: Tally, progress: ProgressReport
) -> Iterator[tuple[str, Example]]:
    """Every good row with its place (file:line). Bad rows are counted, or stop the build."""
    for source in sources:
        tally.rows_in.append(0)
        progress.stage(f"reading {source.name}", source.size)
        for record in read_records(source):
            tally.rows_in[-1] += 1
            if tally.rows_in[-1] % STEPS_PER_REPORT == 0:
                progress.advance(record.position)
            try:
                example = _parse(record, source, options)
            except DataError as error:
                if options.on_error == "fail":
                    raise
                tally.drop(error.reason, str(error))
            else:
                yield f"{source.name}:{record.line}", example


def _parse(record: Record, source: Source, options: BuildOptions) -> Example:
    if isinstance(record.raw, DataError):
        raise record.raw
    return parse_row(record.raw, source=source.name, line=record.line, columns=options.columns, limits=options.limits)


def _without_repeats(rows: Iterable[tuple[str, Example]], tally: Tally) -> Iterator[tuple[str, Example]]:
    """The rows whose question and answer (or messages) did not come before."""
    seen: set[int] = set()
    for place, example in rows:
        turns = (f"{turn['role']}\0{turn['content']}" for turn in example.conversation(None))
        key = _hash64("\0".join(turns))
        if key in seen:
            tally.drop(EXACT_DUPLICATE, f"{place}: repeats an earlier row: {example.question[:80]}")
        else:
            seen.add(key)
            yield place, example


def _hash64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def _spill(rows: Iterable[tuple[str, Example]], path: Path) -> NDArray[np.uint64]:
    """Park the rows in a file. Returns a key per row, the same for questions that normalise() makes equal."""
    writer = SpillWriter(path)
    keys = array("Q")
    remaining = iter(rows)
    while batch := list(islice(remaining, ROWS_PER_BATCH)):
        places, examples = zip(*batch, strict=True)
        writer.add(places, examples)
        keys.extend(_hash64(normalise(example.question)) for example in examples)
    writer.close()
    return np.array(keys, np.uint64)


def _asked(example: Example) -> str:
    """All that comes before the answer.

    >>> _asked(Example("Why?", "Because."))
    'Why?'
    """
    return "\n".join(turn["content"] for turn in example.conversation(None)[:-1])


def _check_dropped(tally: Tally, max_dropped: str) -> None:
    """DataError if more rows were bad than allowed, or none is left."""
    bad = sorted((reason, count) for reason, count in tally.dropped.items() if reason != EXACT_DUPLICATE)
    num_bad, num_rows = sum(count for _, count in bad), sum(tally.rows_in)
    if num_bad > allowed_drops(max_dropped, num_rows):
        reasons = ", ".join(f"{count} {reason}" for reason, count in bad)
        problem = f"{num_bad} of {num_rows} rows are bad ({reasons}), more than {max_dropped}"
        first = tally.examples[bad[0][0]][0]
        raise DataError(problem, remedy=f"Repair them or raise --max-dropped. For example, {first}")
    if num_rows == tally.dropped.total():
        raise DataError("no rows are left to build from", remedy="Check that the sources hold rows.")


def _drop_near_duplicates(
    rows: SpilledRows, min_jaccard: float | None, tally: Tally, progress: ProgressReport
) -> tuple[NDArray[np.bool_], Manifest]:
    """Which rows stay when near copies of earlier kept rows are dropped, and how they were looked for."""
    kept = np.ones(len(rows), np.bool_)
    if min_jaccard is None:
        return kept, {"near_duplicates": "kept"}
    candidates = candidate_pairs(signatures(_row_words(rows, progress)), min_jaccard)
    for later, earlier in followed(candidates, "comparing", progress):
        if kept[later] and kept[earlier] and _says_the_same(rows, later, earlier, min_jaccard):
            kept[later] = False
            tally.drop(NEAR_DUPLICATE, f"{rows.place(later)}: says the same as {rows.place(earlier)}")
    banding = banding_for(min_jaccard)
    search = {
        "hashes_per_band": list(banding.hashes_per_band),
        "min_equal_bytes": banding.min_equal_bytes,
        "comparisons": len(candidates),
        "comparisons_skipped": candidates.num_skipped,
    }
    return kept, {"near_duplicates": search}


def _row_words(rows: SpilledRows, progress: ProgressReport) -> Iterator[frozenset[str]]:
    for example in followed(rows, "looking for near duplicates", progress):
        yield words(_asked(example)) | words(example.answer)


def _says_the_same(rows: SpilledRows, later: int, earlier: int, min_jaccard: float) -> bool:
    """Whether question and answer, each for itself, are near copies. Another answer is another row."""
    left, right = rows.example(later), rows.example(earlier)
    return is_near_copy(_asked(left), _asked(right), min_jaccard) and is_near_copy(
        left.answer, right.answer, min_jaccard
    )


def _kept_together(question_keys: NDArray[np.uint64], kept: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The order of the kept rows: by first appearance of their question, so its answers follow one another.

    >>> _kept_together(np.array([7, 3, 7, 3], np.uint64), np.array([True, True, True, False])).tolist()
    [0, 2, 1]
    """
    _, first, inverse = np.unique(question_keys, return_index=True, return_inverse=True)
    order = np.argsort(first[inverse], kind="stable")
    return order[kept[order]]


def _write(rows: SpilledRows, order: NDArray[np.int64], parquet: Path, progress: ProgressReport) -> Manifest:
    """Write the data set; returns what the manifest says about it."""
    progress.stage("writing", len(order))
    topics: Counter[str] = Counter()

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, len(order), ROWS_PER_GROUP):
            batch = rows.take(order[start : start + ROWS_PER_GROUP])
            topics.update(batch.column(TOPIC_COLUMN).drop_null().to_pylist())
            progress.advance(start + len(batch))
            yield batch

    schema = dataset_schema(has_topics=rows.has_any(TOPIC_COLUMN), has_chats=rows.has_any(MESSAGES_COLUMN))
    write_parquet(batches(), schema, parquet)
    return {
        "rows_out": len(order),
        "columns": schema.names,
        "topics": dict(sorted(topics.items())),
        "sha256": dataset_fingerprint(parquet),
    }


def _account(tally: Tally) -> Manifest:
    dropped = {
        reason: {"count": count, "examples": tally.examples[reason]} for reason, count in sorted(tally.dropped.items())
    }
    return {"rows_in": sum(tally.rows_in), "rows_in_per_source": tally.rows_in, "dropped": dropped}
