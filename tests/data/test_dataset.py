import hashlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import data.dataset
from data.dataset import dataset_fingerprint, read_dataset, read_prompt, read_questions, write_dataset
from data.schema import DataError, Example, Message

CHAT = Example("Why?", "So.", None, (Message("user", "Why?"), Message("assistant", "So.")))


@pytest.mark.parametrize(
    ("examples", "columns"),
    [
        ([Example("Why?", "So.")], ["full-question", "answer"]),
        ([Example("Why?", "So."), Example("For Knots, How?", "So.", "Knots")], ["full-question", "answer", "topic"]),
        ([Example("How?", "So."), CHAT], ["full-question", "answer", "messages"]),
    ],
)
def test_what_is_written_is_read(tmp_path, examples, columns):
    path = tmp_path / "rows.parquet"
    write_dataset(examples, path)
    assert read_dataset(path) == examples
    assert pq.read_schema(path).names == columns
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"
    assert [file.name for file in tmp_path.iterdir()] == ["rows.parquet"]


def test_more_rows_than_one_group(tmp_path):
    examples = [Example(f"Why {number}?", "So.") for number in range(data.dataset.ROWS_PER_GROUP + 1)]
    write_dataset(examples, tmp_path / "rows.parquet")
    assert read_dataset(tmp_path / "rows.parquet") == examples


def test_same_examples_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_dataset([Example("Why?", "So.", "Knots")], tmp_path / name)
    fingerprint = dataset_fingerprint(tmp_path / "a")
    assert fingerprint == dataset_fingerprint(tmp_path / "b")
    assert fingerprint == hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest()


def test_a_long_built_row_is_read(tmp_path):
    write_dataset([Example("Why?", "x" * 100_000)], tmp_path / "rows.parquet")
    assert len(read_dataset(tmp_path / "rows.parquet")[0].answer) == 100_000


def test_missing_foreign_and_empty_files_say_what_to_do(tmp_path):
    (tmp_path / "text.parquet").write_text("no")
    pq.write_table(pa.table({"question": ["Why?"]}), tmp_path / "foreign.parquet")
    pq.write_table(pa.table({"full-question": ["Why?"], "answer": [""]}), tmp_path / "bad.parquet")
    pq.write_table(pa.table({"full-question": pa.array([], pa.string()), "answer": []}), tmp_path / "empty.parquet")
    for name, problem in (
        ("absent.parquet", "there is no such data set"),
        ("text.parquet", "is not a Parquet file"),
        ("foreign.parquet", r"has no column 'answer' \(its columns: question\)"),
        ("empty.parquet", "has no rows"),
        ("bad.parquet", "bad.parquet:1: field 'answer': is empty"),
    ):
        with pytest.raises(DataError, match=problem) as caught:
            read_dataset(tmp_path / name)
        assert caught.value.remedy


def test_prompts_and_questions(tmp_path):
    path = tmp_path / "questions.txt"
    path.write_text("# asked of both models\n\nWhy?\n  How? \n")
    assert read_questions(path) == ["Why?", "How?"]
    path.write_text("\n Be thorough.\nAlways.\n\n")
    assert read_prompt(path) == "Be thorough.\nAlways."
    path.write_text(" \n")
    with pytest.raises(DataError, match="is empty"):
        read_prompt(path)
    path.write_bytes(b"\xff")
    with pytest.raises(DataError, match="is not UTF-8"):
        read_questions(path)
    with pytest.raises(DataError, match="there is no such file"):
        read_prompt(tmp_path / "absent.txt")
