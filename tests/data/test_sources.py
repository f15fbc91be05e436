"""Sources by themselves: what they are, what their rows are, and where each row stood."""

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.schema import DataError
from data.sources import open_source, read_records


def test_a_source_is_known_by_its_bytes_and_its_size(tmp_path):
    path = tmp_path / "rows.JSONL"
    path.write_bytes(b"abc")
    source = open_source(str(path))
    assert source.identity == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert source.size == 3
    pq.write_table(pa.table({"question": ["a", "b"]}), tmp_path / "rows.parquet")
    assert open_source(str(tmp_path / "rows.parquet")).size == 2  # rows


@pytest.mark.parametrize("pack", [lambda content: content, gzip.compress])
def test_json_lines_are_read_with_the_line_each_stood_on(tmp_path, pack):
    path = tmp_path / ("rows.jsonl" if pack(b"") == b"" else "rows.jsonl.gz")
    path.write_bytes(pack(b'\xef\xbb\xbf{"question": "a"}\n\nno\n{"question": "b"}\n'))
    records = list(read_records(open_source(str(path))))
    assert [record.line for record in records] == [1, 3, 4]
    assert [record.raw for record in records if not isinstance(record.raw, DataError)] == [
        {"question": "a"},
        {"question": "b"},
    ]
    assert records[1].raw.reason == "bad_json"
    positions = [record.position for record in records]
    assert positions == sorted(positions)
    assert 0 < positions[-1] <= path.stat().st_size


def test_a_csv_row_of_two_lines_stands_where_it_begins(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('question,answer\n"Why\ntwo?",So\nHow?,Thus\nshort\n')
    records = list(read_records(open_source(str(path))))
    assert [record.line for record in records] == [2, 4, 5]
    assert records[0].raw == {"question": "Why\ntwo?", "answer": "So"}
    assert records[2].raw.reason == "wrong_cells"


def test_a_source_of_no_known_kind_names_those_that_are(tmp_path):
    (tmp_path / "rows.txt").write_text("x")
    with pytest.raises(DataError, match=r"is of no known kind\. Give \.jsonl"):
        open_source(str(tmp_path / "rows.txt"))
