"""Ask the original and the tuned model the same questions; prove that only the weights differ.

python -m inference.compare --run outputs/laptop --json comparison.json
"""

import gc
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from data.dataset import read_questions
from inference.ask import note, notes
from inference.command import (
    DEFAULTS,
    MaxNewTokensOption,
    RunOption,
    VerifyOption,
    make_app,
    prepare_environment,
    run_command,
)
from inference.published import PublishedModel, default_run, named_base, needs_no_network, open_published
from train.artifacts import write_json
from train.config import RunConfig
from train.failure import ConfigError
from train.generation_settings import GenerationSettings

if TYPE_CHECKING:
    from inference.load import LoadedModel
    from train.generation import Answer

app = make_app()


@app.command()
def main(
    run: RunOption = None,
    base: Annotated[
        str | None, typer.Option(help="The original, if not where the run found it: hub id, folder, .gguf.")
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="One question a line.", show_default="the five demo questions"),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the comparison to this file.")] = None,
    max_new_tokens: MaxNewTokensOption = DEFAULTS.max_new_tokens,
    verify: VerifyOption = False,
) -> None:
    """Ask the original and the tuned model the same questions, greedily, and show both answers."""

    def compare_as_told() -> None:
        asked = questions_to_ask(questions)
        published = open_published(run or default_run(), verify=verify)
        original = named_base(base) if base else published.base
        prepare_environment(offline=needs_no_network(original))
        result = compare(published, original, asked, GenerationSettings(max_new_tokens=max_new_tokens))
        show(result)
        if json_file:
            write_json(json_file, result)
            note(f"written to {json_file}")

    run_command(compare_as_told)


@dataclass(frozen=True)
class Answered:
    """One model's answers and what it was; the model itself is gone, two need not fit in memory."""

    answers: "list[Answer]"
    facts: dict[str, str]


def compare(
    published: PublishedModel, base: RunConfig, questions: list[str], settings: GenerationSettings
) -> dict[str, Any]:
    """What `--json` writes: `train.generation.comparison`, which refuses unequal prompts, and more.

    `weights_differ` compares the two models' values, `original_is_recorded_base` the original's files with those
    the run started from.
    """
    from inference.load import is_recorded_base, load_original, load_tuned
    from train.generation import comparison

    original = answered(load_original(published, base), questions, settings)
    tuned = answered(load_tuned(published), questions, settings)
    models = {"original": original.facts, "tuned": tuned.facts}
    return {
        **comparison(questions, original.answers, tuned.answers, settings, models),
        "prompt_tokens": [len(answer.prompt_ids) for answer in tuned.answers],
        "weights_differ": original.facts["weights_sha256"] != tuned.facts["weights_sha256"],
        "original_is_recorded_base": is_recorded_base(published, base),
    }


def answered(loaded: "LoadedModel", questions: list[str], settings: GenerationSettings) -> Answered:
    from train.generation import answer_all

    start = time.monotonic()
    with notes().status(f"asking the {loaded.role} model"):
        answers = answer_all(loaded.model, loaded.tokenizer, questions, loaded.system_prompt, settings)
    note(f"{loaded.role} model: {len(answers)} answers in {time.monotonic() - start:.1f} s")
    result = Answered(answers, loaded.facts())
    del loaded
    gc.collect()
    return result


def questions_to_ask(file: Path | None) -> list[str]:
    """The questions of a file, or the project's five demo questions (ConfigError if there is none)."""
    config = RunConfig()
    path = file or config.data_file(config.data.demo_questions)
    questions = read_questions(path)
    if not questions:
        raise ConfigError(f"{path} holds no question", "Write one a line; # starts a comment.")
    return questions


def show(result: dict[str, Any]) -> None:
    """The table, and below it what was proved about the two models."""
    from train.summary import comparison_table

    console = Console(highlight=False)
    console.print(comparison_table(result))
    models, tokens = result["models"], result["prompt_tokens"]
    lines = [f"{role:<9} {facts['name']}, weights {facts['weights_sha256'][:16]}" for role, facts in models.items()]
    lines += [
        f"prompts   {len(tokens)}, each token for token the same for both ({min(tokens)}-{max(tokens)} tokens)",
        f"settings  greedy, at most {result['settings']['max_new_tokens']} new tokens",
    ]
    console.print("\n".join(lines), markup=False, soft_wrap=True)
    for warning in warnings_about(result):
        console.print(f"WARNING: {warning}", style="bold red", markup=False, soft_wrap=True)


def warnings_about(result: dict[str, Any]) -> list[str]:
    """What makes a comparison mean less than it seems to.

    >>> warnings_about({"weights_differ": True, "original_is_recorded_base": True})
    []
    """
    equal = "both models have the SAME weights: training changed nothing, or the same model was asked twice"
    foreign = "the original's weight files are not those the run started from; it may be another version"
    return [equal] * (not result["weights_differ"]) + [foreign] * (not result["original_is_recorded_base"])


if __name__ == "__main__":
    app()
