"""Whatever bytes a source has, reading it gives rows or a DataError: python -m pytest tests/data/test_fuzz.py

`--hypothesis-profile long` tries for minutes.
"""

import csv
import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data.build import BuildOptions, build
from data.dataset import dataset_fingerprint, read_dataset
from data.manifest import is_up_to_date, manifest_path
from data.progress import Silent
from data.schema import DataError, Example, parse_row
from data.sources import Source, open_source, read_records

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4))
FIELDS = st.sampled_from(["question", "answer", "topic", "full-question", "messages", "prompt", "completion"])
TURNS = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant", "tool"])},
                                       optional={"content": SCALARS}), max_size=4)  # fmt: skip
ROWS = st.dictionaries(FIELDS | st.text(max_size=5), SCALARS | TURNS | JSON, max_size=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def rows_of(path: Path) -> list[Example]:
    """All rows of a source that can be used; those that cannot must say so as a DataError."""
    rows = []
    try:
        for record in read_records(open_source(str(path))):
            try:
                if isinstance(record.raw, DataError):
                    raise record.raw
                rows.append(parse_row(record.raw, source=path.name, line=record.line))
            except DataError as error:
                assert str(error)
    except DataError as error:
        assert path.name in str(error)
    return rows


def damaged(good: bytes) -> st.SearchStrategy[bytes]:
    """A good file with some of it cut off, overwritten or doubled."""
    place = st.integers(0, len(good))
    overwritten = st.builds(lambda at, new: good[:at] + new + good[at + len(new) :], place, st.binary(max_size=8))
    return overwritten | place.map(lambda at: good[:at]) | st.builds(lambda a, b: good[:a] + good[b:], place, place)


@given(raw=ROWS)
def test_a_row_is_an_example_or_a_data_error(raw):
    try:
        row = parse_row(raw, source="rows.jsonl", line=7)
    except DataError as error:
        assert str(error).startswith("rows.jsonl:7: ")
    else:
        assert row.question.strip()
        assert row.answer.strip()
        row.question.encode()  # a lone surrogate would not


@given(content=st.binary(max_size=200))
@example(content=b"[" * 100_000)
@example(content=b'{"question": ' + b"9" * 5000 + b"}")
def test_json_lines_of_any_bytes(folder, content):
    (folder / "a.jsonl").write_bytes(content)
    rows_of(folder / "a.jsonl")


@given(rows=st.lists(ROWS, max_size=5))
def test_json_lines_of_any_objects(folder, rows):
    (folder / "b.jsonl").write_text("\n".join(json.dumps(row) for row in rows), "utf-8", "surrogatepass")
    rows_of(folder / "b.jsonl")


@given(content=st.binary(max_size=200) | st.text('",\r\n\x00 aé', max_size=80).map(str.encode))
def test_csv_of_any_bytes(folder, content):
    (folder / "a.csv").write_bytes(b"question,answer\n" + content)
    rows_of(folder / "a.csv")
    (folder / "a.csv").write_bytes(content)
    rows_of(folder / "a.csv")


@given(cells=st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), max_size=4))
def test_csv_that_a_program_wrote_comes_back(folder, cells):
    cells = [pair for pair in cells if all(text.strip() and text.isprintable() for text in pair)]
    text = io.StringIO()
    csv.writer(text).writerows([("question", "answer"), *cells])
    (folder / "b.csv").write_text(text.getvalue(), "utf-8", newline="")
    assert [(row.question, row.answer) for row in rows_of(folder / "b.csv")] == [
        (question.strip(), answer.strip()) for question, answer in cells
    ]


def parquet_bytes() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"full-question": ["Why?", "How?"], "answer": ["So.", "Thus."]}), buffer)
    return buffer.getvalue()


@given(content=damaged(parquet_bytes()))
def test_damaged_parquet(folder, content):
    path = folder / "a.parquet"
    path.write_bytes(content)
    rows_of(path)
    try:
        read_dataset(path)
    except DataError as error:
        assert "a.parquet" in str(error)


@given(content=damaged(gzip.compress(b'{"question": "Why?", "answer": "So."}\n' * 9, mtime=0)))
def test_damaged_gzip(folder, content):
    (folder / "a.jsonl.gz").write_bytes(content)
    rows_of(folder / "a.jsonl.gz")


@given(content=JSON.map(json.dumps).map(str.encode) | st.binary(max_size=50))
@example(content=b"[" * 100_000)
def test_any_manifest_means_build_anew(folder, content):
    output = folder / "built.parquet"
    output.write_bytes(parquet_bytes())
    manifest_path(output).write_bytes(content)
    source = Source("a.jsonl", f"sha256:{dataset_fingerprint(output)}", 1)
    assert not is_up_to_date(output, {"schema_version": 1, "sources": [source.name]})


LINES = st.lists(
    st.binary(max_size=30)
    | st.dictionaries(
        st.sampled_from(["topic", "question", "answer"]), st.text(max_size=8) | st.integers() | st.none()
    ).map(lambda row: json.dumps(row).encode()),
    max_size=12,
)


@settings(max_examples=40)
@given(lines=LINES, name=st.sampled_from(["rows.jsonl", "rows.csv"]))
def test_a_build_counts_every_row_or_raises_a_data_error(folder, lines, name):
    source, output = folder / name, folder / "built.parquet"
    source.write_bytes(b"\n".join(lines))
    try:
        manifest = build([str(source)], output, BuildOptions(on_error="drop", max_dropped="100%"), Silent())
    except DataError:
        return
    assert manifest["rows_in"] == manifest["rows_out"] + sum(drop["count"] for drop in manifest["dropped"].values())
    assert manifest["rows_out"] == len(read_dataset(output))
