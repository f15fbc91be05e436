"""evaluate through its command line: the run's own held-out rows, its own loss, metrics, topics, safety, refusals."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from inference.evaluate import app
from train.run_folder.run_folder import RunFolder

SHORT = ["--max-new-tokens", "3"]


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path / "no-run"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def invoke(*arguments: str | Path):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def evaluated(smoke_run, tmp_path_factory):
    """One evaluation with everything, and what it printed."""
    folder = tmp_path_factory.mktemp("evaluated")
    (folder / "rules.yaml").write_text(
        "- {id: says-zebra, question: 'What is tinder?', must_say: [zebra], why: to fail}\n"
        "- {id: no-zebra, question: 'What is tinder?', must_not_say: [zebra], why: to be kept}\n"
    )
    (folder / "failing_metric.py").write_text("def fails(sample):\n    raise OSError('no judge')\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        result = invoke(
            smoke_run, "--json", folder / "out.json", "--rules", folder / "rules.yaml",
            "--metric", "failing_metric:fails", *SHORT,
        )  # fmt: skip
    assert result.exit_code == 0, result.output
    return json.loads((folder / "out.json").read_text()), result.output


def test_rows_are_proved_to_be_the_ones_the_run_held_out(evaluated):
    record, output = evaluated
    assert record["data"]["rows"] == 8
    assert record["data"]["proved_held_out"] is True
    assert "proved: the rows the run held out" in output


def test_loss_is_the_one_training_reported(evaluated, smoke_run):
    record, _ = evaluated
    best = json.loads(RunFolder(smoke_run).summary.read_text())["evaluation_loss"]["best"]
    assert record["loss"]["estimate"] == pytest.approx(best, rel=1e-5)
    assert record["loss"]["low"] <= best <= record["loss"]["high"]


def test_every_answer_has_every_number(evaluated):
    record, _ = evaluated
    assert len(record["answers"]) == 8
    for row in record["answers"]:
        assert {"question", "reference", "answer", "topic", "loss", "chrf", "rouge_l", "repetition"} <= row.keys()
        assert row["num_tokens"] <= 3
    topics = record["loss"]["by_topic"]
    assert sum(topic["rows"] for topic in topics.values()) == 8
    assert record["metrics"]["answer_length"]["mean"] == pytest.approx(
        sum(row["num_tokens"] for row in record["answers"]) / 8
    )


def test_a_failing_metric_is_recorded_not_fatal(evaluated):
    record, output = evaluated
    assert record["metrics"]["failing_metric:fails"] == {"error": "OSError: no judge"}
    assert "no judge" in output
    assert record["metrics"]["chrf"]["rows"] == 8


def test_a_verdict_per_safety_rule(evaluated):
    record, output = evaluated
    assert {one["rule"]: one["passed"] for one in record["safety"]} == {"says-zebra": False, "no-zebra": True}
    assert "1 of 2 rules kept" in output


def test_unsafe_is_exit_7_when_asked_for(smoke_run, tmp_path):
    rules = tmp_path / "rules.yaml"
    rules.write_text("- {id: says-zebra, question: 'What is tinder?', must_say: [zebra], why: to fail}\n")
    result = invoke(smoke_run, "--limit", "1", "--rules", rules, "--fail-if-unsafe", *SHORT)
    assert result.exit_code == 7
    assert "1 of 1 safety rules are broken: says-zebra [exit 7: gate]" in result.stderr


def test_other_rows_are_not_proved_held_out(smoke_run):
    result = invoke(smoke_run, "--split", "train", "--limit", "2", *SHORT)
    assert result.exit_code == 0, result.stderr
    assert "2 of 32 train rows" in result.output
    assert "TRAINED ON" in result.output


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--dataset", "none.parquet"], 3, "there is no such data set"),
        (["--metric", "nonsense"], 2, "package.module:function"),
        (["--split", "test"], 2, "'test' is not one of"),
        (["--rules", "README.md"], 3, "README.md"),
        (["--max-new-tokens", "900"], 2, "context of 1024"),
    ],
)
def test_refusals(smoke_run, arguments, code, says):
    result = invoke(smoke_run, "--limit", "2", *arguments)
    assert result.exit_code == code
    assert says in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


def test_missing_model_is_exit_4(tmp_path):
    assert invoke().exit_code == 4
    (tmp_path / "empty").mkdir()
    result = invoke(tmp_path / "empty")
    assert result.exit_code == 4
    assert "no run has ended well here" in result.stderr
