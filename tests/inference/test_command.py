"""What all command lines here share: settings from options, and how a failure is told."""

import pytest
import typer

from inference.command import report, run_command, sampling_settings
from train.failure import ConfigError, ExitCode, ModelError
from train.generation.settings import GenerationSettings


def test_settings_keep_defaults_that_were_not_given():
    settings = sampling_settings(9, sample=True, temperature=None, top_p=0.5, seed=None)
    assert settings == GenerationSettings(max_new_tokens=9, sample=True, top_p=0.5)


def test_sampling_options_without_sample_are_refused_by_name():
    with pytest.raises(ConfigError, match="--top-p, --seed counts only with --sample"):
        sampling_settings(9, sample=False, temperature=None, top_p=0.5, seed=1)


def test_a_failure_is_one_line_and_its_exit_code(capsys):
    assert report(ModelError("it is\n not there", "Make one.")) == ExitCode.MODEL
    assert capsys.readouterr().err == "error: it is not there. Make one. [exit 4: model]\n"


def test_a_bug_has_its_traceback_too(capsys):
    def fails() -> None:
        raise AssertionError("odd")

    with pytest.raises(typer.Exit) as left:
        run_command(fails)
    assert left.value.exit_code == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert said.endswith("error: odd [exit 1: bug]\n")
