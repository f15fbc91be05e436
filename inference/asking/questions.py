"""Which questions are asked: those of a file, of the command line, or typed in. No torch here."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from data.dataset import read_questions
from inference.command import note
from train.config.run_config import RunConfig
from train.failure import ConfigError

STANDARD_INPUT = "-"


def questions_to_ask(file: Path | None) -> list[str]:
    """Return the questions of a file, or the project's five demo questions (ConfigError if there is none)."""
    config = RunConfig()
    path = file or config.data_file(config.data.demo_questions)
    questions = read_questions(path)
    if not questions:
        raise ConfigError(f"{path} holds no question", "Write one a line; # starts a comment.")
    return questions


def given_questions(arguments: Sequence[str]) -> list[str]:
    """Return the questions of the command line, `-` replaced by the lines of standard input that are not blank.

    Raises:
        ConfigError: a question is empty, or standard input holds none.
    """
    questions: list[str] = []
    for argument in arguments:
        lines = sys.stdin.readlines() if argument == STANDARD_INPUT else [argument]
        asked = [line.strip() for line in lines if line.strip()]
        if not asked:
            where = "standard input" if argument == STANDARD_INPUT else "an argument"
            raise ConfigError(f"{where} holds no question", "Give no argument at all to type questions.")
        questions += asked
    return questions


def typed_questions() -> Iterator[str]:
    """Yield questions as they are typed; an empty line, /quit or the end of input (Ctrl-D) ends them."""
    at_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if at_terminal:
        import readline  # noqa: F401  arrow keys and history while typing

        note("Each question stands alone, earlier ones are not remembered. Empty line, /quit or Ctrl-D ends.")
    while True:
        try:
            question = input("question> " if at_terminal else "").strip()
        except EOFError:
            return
        if question in ("", "/quit"):
            return
        yield question
