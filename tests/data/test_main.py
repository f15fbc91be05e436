import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.data_build import measure
from data.__main__ import app
from data.dataset import read_dataset, write_dataset
from data.schema import Example

REPOSITORY = Path(__file__).parents[2]
ROW = {"topic": "Knots", "question": "Why tie a bowline?", "answer": "Its loop does not slip."}


def run(*arguments, **options):
    """The command line in a process of its own, as a user starts it."""
    command = [sys.executable, "-m", "data", *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, **options)


def run_here(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW) + "\n")
    return path


@pytest.fixture
def dataset(tmp_path):
    path = tmp_path / "rows.parquet"
    topics = ("Knots", "Cooking")
    write_dataset(
        [Example(f"For {topics[n % 2]}, q{n}a q{n}b q{n}c?", f"Answer {n}.", topics[n % 2]) for n in range(60)], path
    )
    return path


@pytest.fixture
def fake_tokenizer(monkeypatch):
    """One token per word; the real tokenizer and template have tests of their own."""

    class Rendered:
        def __init__(self, conversation):
            texts = [(turn["role"], word) for turn in conversation for word in turn["content"].split()]
            self.input_ids = list(range(len(texts)))
            self.labels = [number if role == "assistant" else -100 for number, (role, _) in enumerate(texts)]
            Tokenizer.words = [word for _, word in texts]

    class Tokenizer:
        def decode(self, ids):
            return " ".join(self.words[number] for number in ids) + " "

    monkeypatch.setattr("data.tokenizer.load_chat_tokenizer", lambda name, date: Tokenizer())
    monkeypatch.setattr("data.render.render_training_row", lambda tokenizer, conversation: Rendered(conversation))


def test_build_from_the_command_line(source, tmp_path):
    output = tmp_path / "built.parquet"
    done = run("build", source, "--output", output)
    assert done.returncode == 0, done.stderr
    assert f"1 rows in, 1 out: {output}" in done.stdout
    assert "\r" not in done.stderr
    assert len(read_dataset(output)) == 1
    modified = output.stat().st_mtime_ns
    again = run("build", source, "--output", output, "--if-stale")
    assert (again.returncode, again.stdout) == (0, f"{output} is up to date.\n")
    assert output.stat().st_mtime_ns == modified


def test_bad_data_is_one_line_and_exit_code_3(source, tmp_path):
    source.write_text(source.read_text() + '{"question": "Why?", "answer": ""}\n')
    done = run("build", source, "--output", tmp_path / "built.parquet")
    assert done.returncode == 3
    last_line = done.stderr.splitlines()[-1]
    assert last_line.startswith(f"error: {source}:2: field 'answer': is empty. Give every row its answer")
    assert last_line.endswith("[exit 3: data]")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "built.parquet").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["build", "rows.jsonl"],
        ["build", "rows.jsonl", "--output", "x", "--columns", "nonsense=a"],
        ["build", "rows.jsonl", "--output", "x", "--columns", "question"],
        ["build", "rows.jsonl", "--output", "x", "--max-dropped", "many"],
        ["build", "rows.jsonl", "--output", "x", "--max-dropped", "-1%"],
        ["build", "rows.jsonl", "--output", "x", "--on-error", "ignore"],
        ["build", "rows.jsonl", "--output", "x", "--near-duplicate-jaccard", "0.2"],
        ["preview", "--rows", "0"],
        ["nonsense"],
    ],
)
def test_a_bad_command_line_is_exit_code_2(arguments):
    assert run_here(*arguments).exit_code == 2


def test_options_reach_the_build(tmp_path):
    (tmp_path / "rows.csv").write_text("Q,A\nWhy?,So\nHow?,\nIs it so?,xxxxxxxxxxxxxxxxxxxx\n")
    output = tmp_path / "built.parquet"
    options = "--columns question=Q,answer=A --on-error drop --max-dropped 2 --max-chars 20 --keep-near-duplicates"
    done = run_here("build", tmp_path / "rows.csv", "--output", output, *options.split(" "))
    assert done.exit_code == 0, done.output
    assert read_dataset(output) == [Example("Why?", "So")]
    assert "dropped 1 as empty_field" in done.output
    assert "dropped 1 as too_long" in done.output


@pytest.mark.parametrize(("stop_signal", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopping_leaves_nothing_half_written(tmp_path, stop_signal, code):
    source, folder = tmp_path / "rows.jsonl", tmp_path / "built"
    rows = "".join(json.dumps({"question": f"q{number}?", "answer": "So."}) + "\n" for number in range(500_000))
    source.write_text(rows)
    command = [sys.executable, "-m", "data", "build", str(source), "--output", str(folder / "rows.parquet")]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline_seconds = time.monotonic() + 60
    while not list(folder.glob(".building-*/*")):
        assert time.monotonic() < deadline_seconds
        time.sleep(0.02)
    process.send_signal(stop_signal)
    assert process.wait(timeout=60) == code
    assert os.listdir(folder) == []


def test_split_prints_topics_and_writes_both_sides(dataset, tmp_path):
    done = run_here("split", dataset, "--validation-fraction", "0.2", "--output-dir", tmp_path / "sides")
    assert done.exit_code == 0, done.output
    assert "leakage check: 0 near pairs" in done.output
    assert "Cooking" in done.output
    train, validation = (read_dataset(tmp_path / "sides" / f"{side}.parquet") for side in ("train", "validation"))
    assert len(train) + len(validation) == 60
    assert 10 <= len(validation) <= 14


def test_a_bad_fraction_is_bad_data(dataset):
    done = run("split", dataset, "--validation-fraction", "0.9")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count("\n") == 1


def test_stats_as_table_and_json(dataset, fake_tokenizer):
    table = run_here("stats", dataset)
    assert table.exit_code == 0, table.output
    assert "different questions" in table.output
    stats = json.loads(run_here("stats", dataset, "--json", "--max-length", "5").stdout)
    assert (stats["num_rows"], stats["num_truncated"], stats["num_without_answer"]) == (60, 60, 60)
    assert stats["answer_tokens"] == {"min": 2, "mean": 2.0, "p50": 2, "p95": 2, "max": 2}
    assert stats["topics"] == {"Knots": 30, "Cooking": 30}


def test_preview_marks_what_is_trained_on(dataset, fake_tokenizer):
    first, again, other = (run_here("preview", dataset, "--rows", "2", "--seed", seed).output for seed in (1, 1, 2))
    assert first.count("⟦Answer") == 2
    assert first == again != other
    assert "2 trained on" in first


def test_an_unknown_model_is_exit_code_4(dataset, monkeypatch):
    def missing(name, date):
        raise OSError(f"no model {name}\nanywhere")

    monkeypatch.setattr("data.tokenizer.load_chat_tokenizer", missing)
    done = run_here("stats", dataset, "--model", "absent")
    assert (done.exit_code, done.stdout) == (4, "")
    assert done.stderr == "error: the tokenizer of absent cannot be loaded: no model absent anywhere [exit 4: model]\n"


def test_a_folder_without_a_tokenizer_is_exit_code_4(dataset, tmp_path):
    done = run_here("stats", dataset, "--model", tmp_path)
    assert (done.exit_code, done.stdout) == (4, "")
    assert "the folder holds no tokenizer.json, nor another tokenizer" in done.stderr


def test_the_benchmark_measures_a_build():
    result = measure(2000)
    assert result.num_rows_in == 2000
    assert 1700 < result.num_rows_out < 1900
    assert 50 < result.peak_memory_mib < 1500
    assert result.rows_per_second > 0
