import gzip
import json
import os
import random
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import data.build
from data.build import BuildOptions, build
from data.dataset import dataset_fingerprint, read_dataset, write_dataset
from data.manifest import is_up_to_date, manifest_path
from data.near_duplicates import normalise
from data.progress import Silent
from data.schema import ColumnMap, DataError, Example, Limits
from data.split import split_examples

REAL_SET = Path(__file__).parents[2].parent / "shared" / "data" / "practical_skills_qa.jsonl"
ROW = {"topic": "Knots", "question": "Why tie a bowline?", "answer": "Its loop does not slip."}
OTHER = {"topic": "Cooking", "question": "When do I salt pasta water?", "answer": "Once it boils."}


@pytest.fixture
def output(tmp_path):
    return tmp_path / "built" / "rows.parquet"


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def build_quietly(sources, output, **options):
    return build(sources, output, BuildOptions(**options), Silent())


def build_rows(rows, output, **options):
    source = write_jsonl(output.parent.parent / "rows.jsonl", rows)
    manifest = build_quietly([source], output, **options)
    return manifest, read_dataset(output)


def dropped_counts(manifest):
    return {reason: dropped["count"] for reason, dropped in manifest["dropped"].items()}


# What comes in


def _as_jsonl(folder):
    return write_jsonl(folder / "rows.jsonl", [ROW, OTHER])


def _as_jsonl_gz(folder):
    path = folder / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(Path(_as_jsonl(folder)).read_bytes()))
    return str(path)


def _as_csv(folder):
    rows = "\n".join(f'{row["topic"]},"{row["question"]}","{row["answer"]}"' for row in (ROW, OTHER))
    (folder / "rows.csv").write_text(f"topic,question,answer\n{rows}\n", encoding="utf-8-sig")
    return str(folder / "rows.csv")


def _as_parquet(folder):
    pq.write_table(pa.Table.from_pylist([ROW, OTHER]), folder / "rows.parquet")
    return str(folder / "rows.parquet")


def _as_hub_dataset(folder):
    (folder / "hub").mkdir()
    pq.write_table(pa.Table.from_pylist([ROW, OTHER]), folder / "hub" / "train.parquet")
    return f"hf://{folder / 'hub'}"  # `datasets` takes a folder where it takes a hub id


def _as_built_dataset(folder):
    write_dataset(
        [Example(f"For {r['topic']}, {r['question']}", r["answer"], r["topic"]) for r in (ROW, OTHER)],
        folder / "b.parquet",
    )
    return str(folder / "b.parquet")


@pytest.mark.parametrize(
    "write_source", [_as_jsonl, _as_jsonl_gz, _as_csv, _as_parquet, _as_hub_dataset, _as_built_dataset]
)
def test_every_kind_of_source_gives_the_same_rows(tmp_path, output, write_source):
    manifest = build_quietly([write_source(tmp_path)], output)
    assert read_dataset(output) == [
        Example("For Knots, Why tie a bowline?", "Its loop does not slip.", "Knots"),
        Example("For Cooking, When do I salt pasta water?", "Once it boils.", "Cooking"),
    ]
    assert (manifest["rows_in"], manifest["rows_out"]) == (2, 2)


def test_mixed_forms_and_several_sources(tmp_path, output):
    chat = {"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]}
    first = write_jsonl(tmp_path / "a.jsonl", [ROW, chat])
    second = write_jsonl(tmp_path / "b.jsonl", [{"prompt": "Why fry?", "completion": "Crisp."}])
    manifest = build_quietly([first, second], output)
    assert [example.question for example in read_dataset(output)] == [
        "For Knots, Why tie a bowline?",
        "Hi?",
        "Why fry?",
    ]
    assert manifest["rows_in_per_source"] == [2, 1]
    assert manifest["columns"] == ["full-question", "answer", "topic", "messages"]


def test_mapped_columns(tmp_path, output):
    (tmp_path / "rows.csv").write_text("Q,A\nWhy?,So\n")
    columns = ColumnMap(question="Q", answer="A")
    build_quietly([str(tmp_path / "rows.csv")], output, columns=columns)
    assert read_dataset(output) == [Example("Why?", "So")]


# What is wrong with it


BAD_LINES = [
    (b"not json", "bad_json", "is not JSON"),
    (b"[1]", "bad_json", "is a JSON list, not an object"),
    (b"[" * 100_000, "bad_json", "is not JSON"),
    (b'{"question": "Why \xe9?", "answer": "So."}', "invalid_unicode", "is not UTF-8"),
    (b'{"question": "Why?", "answer": "\\ud800"}', "invalid_unicode", "field 'answer': is not valid Unicode"),
    (b'{"question": "Why?", "answer": "a\\u0000b"}', "nul_character", "field 'answer'"),
    (b'{"question": "Why?"}', "missing_field", "field 'answer': is missing"),
    (b'{"question": "", "answer": "So."}', "empty_field", "field 'question': is empty"),
    (b'{"question": ["Why?"], "answer": "So."}', "not_a_string", "field 'question': is list, not a string"),
    (b'{"messages": [{"role": "tool", "content": "x"}]}', "wrong_roles", "field 'messages[0].role'"),
    (b'{"question": "' + b"x" * 20_001 + b'", "answer": "So."}', "too_long", "characters long, more than 20000"),
]


@pytest.mark.parametrize(("bad_line", "reason", "problem"), BAD_LINES)
def test_a_bad_line_stops_the_build_or_is_dropped_and_counted(tmp_path, output, bad_line, reason, problem):
    source = tmp_path / "rows.jsonl"
    source.write_bytes(json.dumps(ROW).encode() + b"\n\n" + bad_line + b"\n")
    with pytest.raises(DataError) as caught:
        build_quietly([str(source)], output)
    assert str(caught.value).startswith(f"{source}:3: ")
    assert problem in str(caught.value)
    assert list(output.parent.iterdir()) == []

    manifest = build_quietly([str(source)], output, on_error="drop", max_dropped="50%")
    assert dropped_counts(manifest) == {reason: 1}
    assert manifest["dropped"][reason]["examples"] == [str(caught.value)]
    assert (manifest["rows_in"], manifest["rows_out"]) == (2, 1)


def test_bad_csv_rows_name_the_line_they_begin_at(tmp_path, output):
    source = tmp_path / "rows.csv"
    source.write_bytes(b'question,answer\n"Why\ntwo lines?",So\nshort\nWhy \xff?,So\n')
    manifest = build_quietly([str(source)], output, on_error="drop", max_dropped="2")
    assert dropped_counts(manifest) == {"wrong_cells": 1, "invalid_unicode": 1}
    assert manifest["dropped"]["wrong_cells"]["examples"][0].startswith(f"{source}:4: has 1 cells, the header 2")
    assert manifest["dropped"]["invalid_unicode"]["examples"][0].startswith(f"{source}:5: field 'question'")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("absent.jsonl", None, "there is no such file"),
        ("rows.txt", b"x", "is of no known kind"),
        ("empty.jsonl", b"\n", "no rows are left"),
        ("empty.csv", b"", "is empty"),
        ("twice.csv", b"a,a\n", "columns that are not different"),
        ("open.csv", b'question,answer\n"Why,So\n', "is not CSV"),
        ("no.parquet", b"PAR1", "is not a Parquet file"),
        ("no.jsonl.gz", b"no", "is a damaged .gz file"),
        ("cut.jsonl.gz", gzip.compress(json.dumps(ROW).encode() * 99)[:-20], "is a damaged .gz file"),
    ],
)
def test_unusable_files_name_themselves(tmp_path, output, name, content, problem):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=problem) as caught:
        build_quietly([str(tmp_path / name)], output)
    assert caught.value.remedy
    assert not output.exists()


def test_an_absent_hub_dataset_says_what_to_do(output, monkeypatch):
    def unreachable(repository):
        raise ConnectionError(f"no route to {repository}")

    monkeypatch.setattr("data.sources._hub_builder", unreachable)
    with pytest.raises(DataError, match=r"hf://owner/name: cannot be loaded \(no route to owner/name\). Check name"):
        build_quietly(["hf://owner/name"], output)


def test_max_dropped_bounds_what_is_dropped(tmp_path, output):
    rows = [{"question": f"q{number}?", "answer": "So."} for number in range(99)] + [{}]
    manifest, examples = build_rows(rows, output, on_error="drop")
    assert (dropped_counts(manifest), len(examples)) == ({"missing_field": 1}, 99)
    with pytest.raises(DataError, match=r"2 of 101 rows are bad \(2 missing_field\), more than 1%.*rows.jsonl:100: "):
        build_rows([*rows, {}], output, on_error="drop")


def test_max_chars(output):
    manifest, _ = build_rows([ROW, OTHER], output, limits=Limits(53), on_error="drop", max_dropped="1")
    assert dropped_counts(manifest) == {"too_long": 1}


# Duplicates


def test_duplicates_go_and_other_answers_stay(output):
    near = {**ROW, "answer": "its loop does not slip"}
    other_answer = {**ROW, "answer": "Because a rescuer can tie it with one hand."}
    manifest, examples = build_rows([ROW, ROW, near, OTHER, other_answer], output)
    assert dropped_counts(manifest) == {"exact_duplicate": 1, "near_duplicate": 1}
    assert "rows.jsonl:2: repeats an earlier row" in manifest["dropped"]["exact_duplicate"]["examples"][0]
    assert manifest["dropped"]["near_duplicate"]["examples"][0].endswith("rows.jsonl:1")
    assert [example.answer for example in examples] == [ROW["answer"], other_answer["answer"], OTHER["answer"]]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Boil it for 1 minute.", "Boil it for 3 minutes."),
        ("You should move the injured person.", "You should not move the injured person."),
        ("Yes.", "No."),
    ],
)
def test_answers_that_differ_in_meaning_stay(output, left, right):
    question = "What should I do with the water that I found in the woods next to the old mill?"
    _, examples = build_rows([{"question": question, "answer": answer} for answer in (left, right)], output)
    assert len(examples) == 2


def test_near_duplicates_can_be_kept(output):
    rows = [ROW, {**ROW, "answer": "its loop does not slip"}]
    assert len(build_rows(rows, output, near_duplicate_jaccard=None)[1]) == 2


def test_chats_that_differ_in_an_earlier_turn_are_no_duplicates(output):
    def chat(first):
        turns = (("user", first), ("assistant", "Sure."), ("user", "Go on."), ("assistant", "So it is."))
        return {"messages": [{"role": role, "content": content} for role, content in turns]}

    rows = [chat("Tell me of knots."), chat("Explain campfires, please."), chat("Tell me of knots.")]
    manifest, examples = build_rows(rows, output)
    assert len(examples) == 2
    assert dropped_counts(manifest) == {"exact_duplicate": 1}


def test_more_rows_than_a_batch_keep_answers_together(output, monkeypatch):
    for module in ("data.build", "data.spill"):
        monkeypatch.setattr(f"{module}.ROWS_PER_BATCH", 7)
    monkeypatch.setattr("data.build.ROWS_PER_GROUP", 5)
    chance = random.Random(1)
    rows = [
        {"question": f"q{number % 20}?", "answer": " ".join(f"w{chance.randrange(999)}" for _ in range(9))}
        for number in range(100)
    ]
    _, examples = build_rows(rows, output)
    questions = [example.question for example in examples]
    assert questions == [f"q{number}?" for number in range(20) for _ in range(5)]
    assert {(e.question, e.answer) for e in examples} == {(row["question"], row["answer"]) for row in rows}


# What comes out


def test_same_input_same_bytes_and_what_the_manifest_says(tmp_path, output):
    source = write_jsonl(tmp_path / "rows.jsonl", [ROW, OTHER, ROW])
    contents = []
    for _ in range(2):
        manifest = build_quietly([source], output)
        contents.append((output.read_bytes(), manifest_path(output).read_bytes()))
    assert contents[0] == contents[1]
    assert json.loads(contents[0][1]) == manifest
    assert manifest["schema_version"] == 1
    assert manifest["sources"] == [{"name": source, "identity": f"sha256:{dataset_fingerprint(source)}"}]
    assert manifest["sha256"] == dataset_fingerprint(output)
    assert manifest["topics"] == {"Cooking": 1, "Knots": 1}
    assert manifest["columns"] == ["full-question", "answer", "topic"]
    assert manifest["rows_in"] == manifest["rows_out"] + sum(dropped_counts(manifest).values()) == 3
    assert sorted(path.name for path in output.parent.iterdir()) == ["rows.manifest.json", "rows.parquet"]


def test_up_to_date_means_same_sources_options_and_result(tmp_path, output):
    source = write_jsonl(tmp_path / "rows.jsonl", [ROW])

    def up_to_date(**options):
        return is_up_to_date(output, data.build.request_of([source], BuildOptions(**options))[1])

    assert not up_to_date()
    build_quietly([source], output)
    assert up_to_date()
    assert not up_to_date(max_dropped="2%")
    manifest_path(output).write_text("{")
    assert not up_to_date()
    build_quietly([source], output)
    output.write_bytes(output.read_bytes() + b" ")
    assert not up_to_date()
    build_quietly([source], output)
    write_jsonl(tmp_path / "rows.jsonl", [ROW, OTHER])
    assert not up_to_date()


@pytest.mark.parametrize("fails_at", [0, 1])
def test_a_crash_while_publishing_leaves_no_manifest_that_does_not_match(tmp_path, output, monkeypatch, fails_at):
    build_rows([ROW], output)
    calls = []

    def replace(source, target):
        calls.append(target)
        if len(calls) > fails_at:
            raise KeyboardInterrupt
        os.rename(source, target)

    monkeypatch.setattr("data.manifest.os.replace", replace)
    with pytest.raises(KeyboardInterrupt):
        build_rows([ROW, OTHER], output)
    assert len(read_dataset(output)) == 1 + fails_at
    assert [path.name for path in output.parent.iterdir()] == ["rows.parquet"]


@pytest.mark.parametrize("stage", ["_spill", "_kept_together", "_write"])
def test_an_interrupt_leaves_the_old_data_set_as_it_was(output, monkeypatch, stage):
    build_rows([ROW], output)
    before = {path.name: path.read_bytes() for path in output.parent.iterdir()}

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(data.build, stage, interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_rows([ROW, OTHER], output)
    assert {path.name: path.read_bytes() for path in output.parent.iterdir()} == before


# The real set

needs_real_set = pytest.mark.skipif(not REAL_SET.is_file(), reason="the real data set is not at ../shared/data")


@needs_real_set
def test_real_set_loses_only_near_duplicates(output):
    manifest = build_quietly([str(REAL_SET)], output)
    assert (manifest["rows_in"], manifest["rows_out"]) == (2845, 2830)
    assert dropped_counts(manifest) == {"near_duplicate": 15}
    assert len(manifest["topics"]) == 6
    questions = [normalise(example.question) for example in read_dataset(output)]
    changes = sum(left != right for left, right in pairwise(questions))
    assert changes + 1 == len(set(questions))  # the answers to a question stand together


@needs_real_set
def test_rows_appended_to_the_source_change_no_ones_side(tmp_path, output):
    rows = [json.loads(line) for line in REAL_SET.read_text().splitlines()]
    _, few = build_rows(rows[:1500], output)
    _, many = build_rows(rows, output)
    sides = []
    for examples in (few, many):
        split = split_examples(examples, validation_fraction=0.1, seed=42)
        sides.append(
            {examples[row]: side for side in ("train", "validation", "straddling") for row in getattr(split, side)}
        )
    assert len(sides[0]) > 1400
    assert sides[0].items() <= sides[1].items()
