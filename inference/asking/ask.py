"""The story of asking one model: which model, which questions, answers. Both ask scripts are this story."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from data.dataset import read_prompt
from data.libraries import prepare_environment
from data.model_files import EMBEDDED_MODEL
from inference.asking.questions import given_questions, typed_questions
from inference.command import (
    DEFAULTS,
    MaxNewTokensOption,
    RunOption,
    VerifyOption,
    make_app,
    note,
    notes,
    run_command,
    sampling_settings,
)
from inference.models.published import (
    default_run,
    model_folder,
    named_base,
    open_published,
)
from inference.models.source import Source
from train.failure import ConfigError
from train.generation.settings import GenerationSettings
from train.run_folder.manifest import is_published

if TYPE_CHECKING:
    from inference.asking.generate import Reply
    from inference.models.load import LoadedModel

MODEL_HELP = {
    "tuned": "A published model folder, instead of --run.",
    "original": "`embedded`, a hub id, a folder or a .gguf file. Alone: with its own chat template and the "
    "default system prompt; with --run: as that run's base, with the run's template and prompt.",
}


@dataclass(frozen=True)
class Request:
    """A request is what a command line asks for."""

    role: Literal["tuned", "original"]
    questions: Sequence[str]
    settings: GenerationSettings
    run: Path | None
    model: str | None
    system_prompt: Path | None
    verify: bool
    as_json: bool
    stream: bool


def ask_app(role: Literal["tuned", "original"], description: str) -> typer.Typer:
    """Make the command line of an ask script."""
    app = make_app()

    @app.command(help=description)
    def main(
        questions: Annotated[
            list[str] | None,
            typer.Argument(metavar="[QUESTION]...", help="Each is asked alone; `-` reads one a line."),
        ] = None,
        run: RunOption = None,
        model: Annotated[str | None, typer.Option(help=MODEL_HELP[role])] = None,
        sample: Annotated[bool, typer.Option("--sample", help="Draw answers at random, not greedily.")] = False,
        temperature: Annotated[
            float | None,
            typer.Option(min=0.01, help="With --sample.", show_default=str(DEFAULTS.temperature)),
        ] = None,
        top_p: Annotated[
            float | None,
            typer.Option(min=0.01, max=1.0, help="With --sample.", show_default=str(DEFAULTS.top_p)),
        ] = None,
        seed: Annotated[
            int | None,
            typer.Option(min=0, max=2**32 - 1, help="With --sample.", show_default=str(DEFAULTS.seed)),
        ] = None,
        max_new_tokens: MaxNewTokensOption = DEFAULTS.max_new_tokens,
        as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line and answer.")] = False,
        no_stream: Annotated[bool, typer.Option("--no-stream", help="Print an answer once it is complete.")] = False,
        system_prompt: Annotated[
            Path | None,
            typer.Option(exists=True, dir_okay=False, help="File to use, not the model's own prompt."),
        ] = None,
        verify: VerifyOption = False,
    ) -> None:
        def ask_as_told() -> None:
            settings = sampling_settings(max_new_tokens, sample=sample, temperature=temperature, top_p=top_p, seed=seed)
            stream = not (as_json or no_stream)
            ask(Request(role, questions or [], settings, run, model, system_prompt, verify, as_json, stream))

        run_command(ask_as_told)

    return app


def ask(request: Request) -> None:
    """Find and load the model, then answer every question of the command line, or those typed in."""
    given = given_questions(request.questions)
    source = tuned_source(request) if request.role == "tuned" else original_source(request)
    system_prompt = read_prompt(request.system_prompt) if request.system_prompt else None
    prepare_environment(offline=source.is_offline)
    with notes().status("loading the model"):
        loaded = source.load()
        loaded = replace(loaded, system_prompt=system_prompt) if system_prompt else loaded
    if not request.as_json:
        note(f"{loaded.description}, {request.settings.way}")
    if given:
        answer_questions(loaded, request, given)
    else:
        answer_typed_questions(loaded, request)


def tuned_source(request: Request) -> Source:
    """Return the published model that `--run` or `--model` names, else the default run's (ConfigError for both)."""
    if request.run and request.model:
        raise ConfigError("--run and --model both name a tuned model", "Give one of them.")
    path = Path(request.model) if request.model else request.run or default_run()
    return Source(open_published(path, verify=request.verify), None)


def original_source(request: Request) -> Source:
    """Choose the base of the run that is named or there by default, a model named by itself, or else `embedded`."""
    base = named_base(request.model) if request.model else None
    run = request.run or default_run()
    if request.run is None and (base or not is_published(model_folder(run))):
        if base is None:
            note(f"no published model in {run}: asking '{EMBEDDED_MODEL}' with the default system prompt")
        return Source(None, base or named_base(EMBEDDED_MODEL))
    # A run that is there but damaged is an error: another model's answers are not passed off as its original's.
    published = open_published(run, verify=request.verify)
    return Source(published, base or published.base)


def answer_questions(loaded: "LoadedModel", request: Request, questions: Sequence[str]) -> None:
    """Answer questions one after the other, each under its text where there are several."""
    for question in questions:
        if len(questions) > 1 and not request.as_json:
            print(f"> {question}", flush=True)
        answer_one(loaded, request, question)


def answer_typed_questions(loaded: "LoadedModel", request: Request) -> None:
    """Answer one question after the other, each alone; one that cannot be asked does not end the loop."""
    for question in typed_questions():
        try:
            answer_one(loaded, request, question)
        except ConfigError as error:
            note(f"error: {error}")


def answer_one(loaded: "LoadedModel", request: Request, question: str) -> None:
    """Answer one question as the request says: streamed, whole, or as a line of JSON."""
    from inference.asking.generate import ask_model

    reply = ask_model(loaded, question, request.settings, stream=request.stream)
    if request.as_json:
        print(json.dumps(reply.record(loaded.facts(), request.settings), ensure_ascii=False), flush=True)
        return
    if not request.stream:
        print(reply.answer.text, flush=True)
    tell_if_cut_off(reply)


def tell_if_cut_off(reply: "Reply") -> None:
    """Note beside the answer that it ended at the length limit, not by itself."""
    if not reply.answer.reached_end:
        note(f"(cut off after {len(reply.answer.token_ids)} tokens; --max-new-tokens allows more)")
