"""Answers while training: recorded, scored, and without any trace in the training itself."""

import json

import pytest

from data.render import IGNORE_INDEX, RenderedRow
from train.generation.while_training import as_question
from train.run_folder.run_folder import RunFolder

ANSWERS = ("evaluation.answers_every_epochs=1", "evaluation.answers_rows=3", "output.demo=false")


def test_training_is_untouched_and_every_epoch_is_answered(run, smoke_run, history, tmp_path):
    """On the activation cache: the layers it stands for are put back to generate, and taken out again."""
    finished = run("train", "smoke", f"output.dir={tmp_path}", *ANSWERS)
    assert finished.returncode == 0, finished.stderr
    assert "activation cache" in finished.stdout
    for kind, names in (("step", ("loss", "grad_norm")), ("evaluation", ("loss",))):
        for name in names:
            assert [one[name] for one in history(tmp_path, kind)] == [one[name] for one in history(smoke_run, kind)]
    records = json.loads(RunFolder(tmp_path).answers.read_text())
    assert [(record["epoch"], record["step"], record["rows"]) for record in records] == [(1, 4, 3), (2, 8, 3)]
    for record in records:
        assert {"chrf", "rouge_l", "repetition"} <= record["metrics"].keys()
        for sample in record["answers"]:
            assert sample["reference"]
            assert sample["topic"]
            assert "You are a seasoned wilderness guide" not in sample["question"]
    assert "answers at step 8" in finished.stdout


@pytest.mark.slow
def test_two_ranks_share_the_questions(run, tmp_path):
    finished = run("train", "smoke", f"output.dir={tmp_path}", "--nproc", "2", "optim.accumulation_steps=1", *ANSWERS)
    assert finished.returncode == 0, finished.stderr
    (*_, last) = json.loads(RunFolder(tmp_path).answers.read_text())
    assert last["rows"] == 3
    assert len({sample["reference"] for sample in last["answers"]}) == 3


def test_no_answers_unless_asked_for(smoke_run):
    assert not RunFolder(smoke_run).answers.exists()


def test_the_last_answer_of_a_chat_is_the_question():
    row = RenderedRow([7, 8, 1, 9, 2, 3, 4], [IGNORE_INDEX, IGNORE_INDEX, 1, IGNORE_INDEX, 2, 3, IGNORE_INDEX])
    question = as_question(row, "knots")
    assert (question.prompt_ids, question.reference_ids) == ([7, 8, 1, 9], [2, 3])
