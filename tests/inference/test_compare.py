"""compare through its command line: same questions, same prompts, weights proved different, or said to be equal."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from inference.compare import app
from inference.models.load import load_original, load_tuned
from inference.models.published import open_published
from train.results.publish import Publication, publish
from train.run_folder.manifest import MANIFEST
from train.run_folder.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
SHORT = ["--max-new-tokens", "2"]


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path / "no-run"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def invoke(*arguments: str | Path):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_repeats_the_answers_the_run_recorded(smoke_run, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "inference.compare", "--run", smoke_run, "--json", tmp_path / "out.json",
         "--max-new-tokens", "16", "--limit", "0"],
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
    result = invoke(
        "--run", smoke_run, "--questions", questions, "--json", tmp_path / "out.json", "--limit", "0", *SHORT
    )
    assert result.exit_code == 0, result.stderr
    asked = [response["question"] for response in json.loads((tmp_path / "out.json").read_text())["responses"]]
    assert asked == ["What is a [bowline]?", "What is tinder?"]
    assert "[bowline]" in result.stdout


def test_a_model_with_itself_makes_no_difference(smoke_run, tmp_path):
    base = smoke_run / "best_model"
    result = invoke(
        "--run", smoke_run, "--base", base, "--json", tmp_path / "out.json", "--fail-if-worse", "--limit", "4", *SHORT
    )
    assert result.exit_code == 0, result.stderr
    assert "no difference: a model compared with itself" in result.stdout
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["weights_differ"] is False
    verdicts = {name: judged["verdict"] for name, judged in found["verdicts"].items() if "verdict" in judged}
    assert {"loss", "chrf", "rouge_l"} <= verdicts.keys()
    assert set(verdicts.values()) == {"no difference"}
    assert all(response["original"] == response["tuned"] for response in found["responses"])


def test_tuned_is_better_where_it_learned_and_the_gate_lets_it_pass(smoke_run, tmp_path):
    result = invoke("--run", smoke_run, "--json", tmp_path / "out.json", "--fail-if-worse", *SHORT)
    assert result.exit_code == 0, result.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    loss = found["verdicts"]["loss"]
    assert loss["verdict"] == "better"
    assert loss["difference"]["high"] < 0
    assert found["data"]["proved_held_out"] is True
    assert loss["win"] + loss["tie"] + loss["loss"] == found["data"]["rows"] == 8


def test_gate_fails_with_exit_7(smoke_run, tmp_path, monkeypatch):
    """By a metric of one's own: it wants short answers, and the tuned model's are longer."""
    (tmp_path / "judge.py").write_text("def length(sample):\n    return len(sample.answer)\nlength.better = -1\n")
    monkeypatch.syspath_prepend(tmp_path)
    result = invoke(
        "--run", smoke_run, "--metric", "judge:length", "--fail-if-worse", "--limit", "4", "--max-new-tokens", "12"
    )
    assert result.exit_code == 7, result.output
    assert "the tuned model is worse than the original: judge:length" in result.stderr


def test_gate_without_rows_is_refused(smoke_run):
    result = invoke("--run", smoke_run, "--limit", "0", "--fail-if-worse")
    assert result.exit_code == 2
    assert "nothing to judge" in result.stderr


def publish_broken(smoke_run: Path, folder: Path, *, weights: str, template: str | None = None) -> Path:
    """A run folder with a valid manifest whose model is not what training made."""
    published = open_published(smoke_run)
    loaded = load_original(published, published.base) if weights == "original" else load_tuned(published)
    identity = json.loads((published.folder / MANIFEST).read_text())["identity"]
    loaded.tokenizer.chat_template = template or loaded.tokenizer.chat_template
    publication = Publication(loaded.system_prompt, "Is water wet?", {"identity": identity}, answer_tokens=16)
    publish(loaded.model, loaded.tokenizer, RunFolder(folder), publication, loaded.model.dtype)
    return folder


def test_trained_weights_not_applied_are_caught_by_name(smoke_run, tmp_path):
    result = invoke("--run", publish_broken(smoke_run, tmp_path, weights="original"), *SHORT)
    assert result.exit_code == 4
    assert "trained weights not applied" in result.stderr
    assert "exactly the weights of the model it was tuned from" in result.stderr


def test_wrong_template_is_caught_by_name(smoke_run, tmp_path):
    template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    result = invoke("--run", publish_broken(smoke_run, tmp_path, weights="tuned", template=template), *SHORT)
    assert result.exit_code == 4
    assert "wrong template" in result.stderr


@pytest.mark.parametrize(
    ("file", "says"),
    [("model.safetensors", "bytes where the manifest lists"), ("chat_template.jinja", "is damaged")],
)
def test_truncated_file_is_caught_by_name(smoke_run, tmp_path, file, says):
    run = Path(shutil.copytree(smoke_run, tmp_path / "run"))
    path = run / "best_model" / file
    path.write_bytes(path.read_bytes()[:-100])
    result = invoke("--run", run, *SHORT)
    assert result.exit_code == 4
    assert file in result.stderr
    assert says in result.stderr


def test_another_base_is_refused_unless_told(smoke_run, tmp_path):
    other = smoke_run.parent / "other"
    published = open_published(smoke_run)
    base = published.base.model_copy(update={"seed": 43})
    loaded = load_original(published, base)
    loaded.model.save_pretrained(other)
    loaded.tokenizer.save_pretrained(other)
    refused = invoke("--run", smoke_run, "--base", other, *SHORT)
    assert refused.exit_code == 2
    assert "is not the model" in refused.stderr
    assert "--any-base" in refused.stderr
    result = invoke(
        "--run", smoke_run, "--base", other, "--any-base", "--json", tmp_path / "out.json", "--limit", "2", *SHORT
    )
    assert result.exit_code == 0, result.stderr
    assert "WARNING: the original is not the model the run started from" in result.stdout
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
