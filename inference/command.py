"""What the inference command lines have in common: options, environment, notes, and failures told in one line."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from train.failure import ConfigError, ExitCode, exit_code_of
from train.generation.settings import GenerationSettings
from train.masking import masked

DEFAULTS = GenerationSettings()

RunOption = Annotated[
    Path | None,
    typer.Option("--run", help="Run folder of the tuned model.", show_default="OUTPUT_DIR, else outputs/laptop"),
]
VerifyOption = Annotated[bool, typer.Option("--verify", help="Check sha256 above 1 GB too (below: always).")]
MaxNewTokensOption = Annotated[int, typer.Option(min=1, help="Length limit of an answer, in tokens.")]


def make_app() -> typer.Typer:
    """Make an empty command line that looks as all of them do here."""
    return typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


def sampling_settings(
    max_new_tokens: int, *, sample: bool, temperature: float | None, top_p: float | None, seed: int | None
) -> GenerationSettings:
    """Return the settings that options ask for; what was not given keeps its default.

    Raises:
        ConfigError: a sampling option without `--sample`, which would have no effect.
    """
    sampling = {"temperature": temperature, "top_p": top_p, "seed": seed}
    given = {name: value for name, value in sampling.items() if value is not None}
    if given and not sample:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"{options} counts only with --sample", "Answers are greedy without it.")
    return GenerationSettings(max_new_tokens=max_new_tokens, sample=sample, **given)  # type: ignore[arg-type]


def run_command(action: Callable[[], None]) -> None:
    """Do it and end with its exit code; why it failed is one line on stderr, a bug has a traceback too."""
    try:
        action()
    except BrokenPipeError:  # `... | head -1` has read what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(128 + signal.SIGPIPE) from None
    except (Exception, KeyboardInterrupt) as error:
        raise typer.Exit(report(error)) from None


def report(error: BaseException) -> ExitCode:
    """Tell on stderr why a command failed, in one line, and return its exit code; a bug shows its traceback too."""
    code = exit_code_of(error)
    if code == ExitCode.BUG:
        print(masked("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    message = masked(" ".join(str(error).split())) or type(error).__name__
    cause = "\nstopped" if code == ExitCode.INTERRUPTED else f"error: {message}"
    print(f"{cause} [exit {code}: {code.name.lower()}]", file=sys.stderr, flush=True)
    return code


def note(text: str) -> None:
    """Say something beside the results: on stderr, so that stdout holds results alone."""
    notes().print(text, style="dim", markup=False, highlight=False, soft_wrap=True)


def notes() -> Console:
    """Return a console for what is not a result: it writes to stderr."""
    return Console(stderr=True)
