"""Questions of a file, of the command line, and typed in."""

import io
import sys

import pytest

from inference.asking.questions import given_questions, questions_to_ask, typed_questions
from train.failure import ConfigError


def test_five_demo_questions_by_default():
    assert len(questions_to_ask(None)) == 5


def test_a_file_of_comments_holds_no_question(tmp_path):
    (tmp_path / "questions.txt").write_text("# What?\n\n")
    with pytest.raises(ConfigError, match="holds no question"):
        questions_to_ask(tmp_path / "questions.txt")


def test_standard_input_stands_where_its_mark_does(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Two?\n\n Three? \n"))
    assert given_questions([" One? ", "-", "Four?"]) == ["One?", "Two?", "Three?", "Four?"]


@pytest.mark.parametrize("end", ["\n", "/quit\n", ""])
def test_typed_questions_end_as_told(monkeypatch, end):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"One?\n Two? \n{end}Never asked\n" if end else "One?\nTwo?"))
    assert list(typed_questions()) == ["One?", "Two?"]
