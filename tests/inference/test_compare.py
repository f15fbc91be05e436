"""compare through its command line: same questions, same prompts, weights proved different, or said to be equal."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from inference.compare import app, questions_to_ask, warnings_about
from inference.load import load_original
from inference.published import open_published
from train.artifacts import MANIFEST, RunFolder
from train.publish import Publication, publish

ROOT = Path(__file__).parents[2]
SHORT = ["--max-new-tokens", "2"]


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path / "no-run"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")


def invoke(*arguments: str | Path):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_repeats_the_answers_the_run_recorded(smoke_run, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "inference.compare", "--run", smoke_run, "--json", tmp_path / "out.json",
         "--max-new-tokens", "16"],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    demo = json.loads(RunFolder(smoke_run).demo.read_text())
    assert len(result["responses"]) == 5
    assert result["responses"] == demo["responses"]
    assert result["settings"] == demo["settings"]
    assert result["weights_differ"] is True
    assert result["original_is_recorded_base"] is True
    original, tuned = result["models"]["original"], result["models"]["tuned"]
    assert original["weights_sha256"] != tuned["weights_sha256"]
    assert original["chat_template_sha256"] == tuned["chat_template_sha256"]
    assert original["weights_sha256"][:16] in done.stdout
    assert tuned["weights_sha256"][:16] in done.stdout
    assert "token for token the same" in done.stdout
    assert "WARNING" not in done.stdout


def test_questions_from_a_file(smoke_run, tmp_path):
    questions = tmp_path / "questions.txt"
    questions.write_text("# mine\nWhat is a [bowline]?\n\nWhat is tinder?\n")
    result = invoke("--run", smoke_run, "--questions", questions, "--json", tmp_path / "out.json", *SHORT)
    assert result.exit_code == 0, result.stderr
    asked = [response["question"] for response in json.loads((tmp_path / "out.json").read_text())["responses"]]
    assert asked == ["What is a [bowline]?", "What is tinder?"]
    assert "[bowline]" in result.stdout


def test_equal_weights_are_said_loudly(smoke_run, tmp_path):
    published = open_published(smoke_run)
    original = load_original(published, published.base)
    identity = json.loads((published.folder / MANIFEST).read_text())["identity"]
    publication = Publication(original.system_prompt, "Is water wet?", {"identity": identity})
    publish(original.model, original.tokenizer, RunFolder(tmp_path), publication, original.model.dtype)

    result = invoke("--run", tmp_path, *SHORT)
    assert result.exit_code == 0, result.stderr
    assert "WARNING: both models have the SAME weights" in result.stdout


def test_another_base_is_said_loudly(smoke_run, tmp_path):
    result = invoke("--run", smoke_run, "--base", smoke_run / "best_model", "--json", tmp_path / "out.json", *SHORT)
    assert result.exit_code == 0, result.stderr
    assert "not those the run started from" in result.stdout
    assert json.loads((tmp_path / "out.json").read_text())["original_is_recorded_base"] is False


def test_missing_model_is_exit_4():
    result = invoke()
    assert result.exit_code == 4
    assert "make train" in result.stderr


def test_questions_missing_or_empty_are_exit_2(smoke_run, tmp_path):
    assert invoke("--run", smoke_run, "--questions", tmp_path / "none.txt").exit_code == 2
    (tmp_path / "empty.txt").write_text("# nothing\n")
    result = invoke("--run", smoke_run, "--questions", tmp_path / "empty.txt")
    assert result.exit_code == 2
    assert "holds no question" in result.stderr


def test_five_demo_questions_by_default():
    assert len(questions_to_ask(None)) == 5


def test_docstring_example():
    assert warnings_about({"weights_differ": True, "original_is_recorded_base": True}) == []
    assert len(warnings_about({"weights_differ": False, "original_is_recorded_base": False})) == 2
