"""Serve a model to OpenAI clients by a server that exists: transformers serve, vLLM, or llama.cpp for a .gguf file.

python -m inference.serve outputs/laptop
python -m inference.serve laptop-q8_0.gguf --port 8001
curl localhost:8000/v1/chat/completions -H 'Content-Type: application/json' \
    -d '{"model": "laptop", "messages": [{"role": "user", "content": "How do I treat a nosebleed?"}], "temperature": 0}'

A client that sends the question alone gets the prompt of training: its system prompt is put into the chat template
that the server is given. Answers are greedy with temperature 0 only; what else a client leaves out, the server decides.
"""

import contextlib
import enum
import hashlib
import importlib.util
import os
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from data.dataset import read_prompt
from data.files import write_text
from data.model_files import cache_dir
from inference.command import VerifyOption, make_app, note, prepare_environment, run_command
from inference.models.published import default_run, open_published
from inference.models.template import CHAT_TEMPLATE, with_default_system_prompt
from inference.serving.server import bind, check_exposure, is_loopback, missing_packages
from train.distributed.machine import usable_cores
from train.failure import ConfigError, ModelError

LLAMA_CPP_CONTEXT_TOKENS = 4096

app = make_app()


class Engine(enum.StrEnum):
    auto = "auto"
    transformers = "transformers"
    vllm = "vllm"
    llama_cpp = "llama.cpp"


@dataclass(frozen=True)
class Offer:
    """What is served, and where. `template` None: the one inside the model file."""

    model: Path
    name: str
    template: str | None
    host: str
    port: int
    api_key: str | None

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/v1"


@app.command(help=__doc__)
def main(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="Run folder, published model or .gguf file.", show_default="OUTPUT_DIR, else outputs/laptop"
        ),
    ] = None,
    engine: Annotated[
        Engine, typer.Option(help="auto: llama.cpp for a .gguf, else vLLM where it is installed, else transformers.")
    ] = Engine.auto,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Others than this machine need --api-key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    name: Annotated[
        str | None, typer.Option(help="What clients call the model.", show_default="the run's or file's name")
    ] = None,
    system_prompt: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="File with the default system prompt, not the model's own."),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="API_KEY", help="What clients must send (vLLM and llama.cpp).")
    ] = None,
    verify: VerifyOption = False,
) -> None:
    def serve_as_told() -> None:
        target = model or default_run()
        chosen = choose_engine(engine, target)
        check_exposure(host, api_key, option="--api-key")
        check_engine(chosen, api_key)
        bind(host, port).close()  # a port in use is told before a model is loaded
        prompt = read_prompt(system_prompt) if system_prompt else None
        if chosen is Engine.llama_cpp:
            template = gguf_template(target, prompt) if prompt else None
            serve_with_llama_cpp(Offer(target, name or name_of(target), template, host, port, api_key))
            return
        published = open_published(target, verify=verify)
        template = (published.folder / CHAT_TEMPLATE).read_text(encoding="utf-8")
        template = with_default_system_prompt(template, prompt or published.system_prompt)
        offer = Offer(published.folder, name or name_of(target), template, host, port, api_key)
        (serve_with_vllm if chosen is Engine.vllm else serve_with_transformers)(offer)

    run_command(serve_as_told)


def choose_engine(wanted: Engine, target: Path) -> Engine:
    """The server for a model (ConfigError: the one that was named cannot serve it; ModelError: no such file)."""
    is_gguf = target.suffix == ".gguf"
    if is_gguf and not target.is_file():
        raise ModelError(f"there is no file {target}", "Make one with: python -m inference.export.")
    if wanted is Engine.auto:
        if is_gguf:
            return Engine.llama_cpp
        return Engine.vllm if importlib.util.find_spec("vllm") else Engine.transformers
    if is_gguf != (wanted is Engine.llama_cpp):
        kind = "a .gguf file" if is_gguf else "a model folder"
        remedy = "Leave --engine out." if is_gguf else "Export a .gguf first: python -m inference.export."
        raise ConfigError(f"{wanted} does not serve {kind} here", remedy)
    return wanted


def check_engine(engine: Engine, api_key: str | None) -> None:
    """Raises ConfigError where the server is not installed, or would let everyone in."""
    packages = {
        Engine.transformers: ("fastapi", "uvicorn", "openai"),
        Engine.vllm: ("vllm",),
        Engine.llama_cpp: ("xllamacpp",),
    }
    missing_packages(packages[engine], extra="serve")
    if engine is Engine.transformers and api_key is not None:
        raise ConfigError(
            "transformers serve checks no key", "Serve on 127.0.0.1 without one, or with --engine vllm or a .gguf file."
        )


def name_of(target: Path) -> str:
    """What clients call a model, from where it lies.

    >>> name_of(Path("outputs/laptop/best_model")), name_of(Path("laptop q8@1.gguf"))
    ('laptop', 'laptop-q8-1')
    """
    path = target.resolve()
    name = path.stem if path.suffix == ".gguf" else path.parent.name if path.name == "best_model" else path.name
    return re.sub(r"[^\w.-]+", "-", name)


def gguf_template(file: Path, system_prompt: str) -> str:
    """The template inside a GGUF file with another default system prompt (ModelError if it has none)."""
    from gguf import GGUFReader

    try:
        field = GGUFReader(file).fields.get("tokenizer.chat_template")
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise ModelError(f"{file} cannot be read: {error}", "Is it a complete GGUF file?") from error
    if field is None:
        raise ModelError(f"{file} has no chat template", "Serve an instruct model.")
    return with_default_system_prompt(str(field.contents()), system_prompt)


@contextlib.contextmanager
def serving_folder(offer: Offer) -> Iterator[Path]:
    """A folder with the model under the name clients use: links to its files, but for the template."""
    assert offer.template is not None
    with TemporaryDirectory(prefix="fieldcraft-serve-") as scratch:
        folder = Path(scratch, offer.name)
        folder.mkdir()
        for file in offer.model.iterdir():
            if file.name != CHAT_TEMPLATE:
                (folder / file.name).symlink_to(file.resolve())
        (folder / CHAT_TEMPLATE).write_text(offer.template, encoding="utf-8")
        yield folder


def serve_with_transformers(offer: Offer) -> None:
    """`transformers serve`, in this process. Clients call a model by its path, so we stand where that is its name."""
    prepare_environment(offline=True)
    from transformers.cli.serve import Serve

    with serving_folder(offer) as folder, contextlib.chdir(folder.parent):
        announce(offer, "transformers serve")
        Serve(force_model=offer.name, host=offer.host, port=offer.port)


def serve_with_vllm(offer: Offer) -> None:
    """Become vLLM's server: signals and exit code are its own."""
    assert offer.template is not None
    file = cache_dir() / "serving" / f"{hashlib.sha256(offer.template.encode()).hexdigest()[:16]}.jinja"
    write_text(file, offer.template)
    key = {"VLLM_API_KEY": offer.api_key} if offer.api_key else {}
    announce(offer, "vLLM")
    os.execve(sys.executable, [sys.executable, *vllm_arguments(offer, file)], {**os.environ, **key})  # noqa: S606


def vllm_arguments(offer: Offer, template: Path) -> list[str]:
    """What follows `python`. The key travels in the environment, where no process listing shows it."""
    options = {
        "--model": str(offer.model),
        "--served-model-name": offer.name,
        "--chat-template": str(template),
        "--host": offer.host,
        "--port": str(offer.port),
    }
    return ["-m", "vllm.entrypoints.openai.api_server", *(word for pair in options.items() for word in pair)]


def serve_with_llama_cpp(offer: Offer) -> None:
    """The server inside xllamacpp, until Ctrl-C."""
    import xllamacpp

    wanted = xllamacpp.CommonParams()
    wanted.model.path, wanted.model_alias = str(offer.model), {offer.name}
    wanted.hostnames, wanted.port = [offer.host], offer.port
    wanted.api_keys = [offer.api_key] if offer.api_key else []
    wanted.chat_template = offer.template or ""
    wanted.n_ctx, wanted.n_parallel = LLAMA_CPP_CONTEXT_TOKENS, 1
    wanted.cpuparams.n_threads = usable_cores()
    wanted.ui, wanted.verbosity = False, -1
    wanted.cors_origins = ""  # the default lets a script of any web page ask, and read the answer
    try:
        server = xllamacpp.Server(wanted)
    except RuntimeError as error:
        raise ModelError(f"llama.cpp cannot load {offer.model}: {error}", "Is it a complete GGUF file?") from error
    announce(offer, "llama.cpp")
    try:
        threading.Event().wait()
    finally:
        del server


def announce(offer: Offer, engine: str) -> None:
    """The one line on stdout: where clients find what."""
    reach = "this machine" if is_loopback(offer.host) else "other machines, with the key"
    print(f"{engine}: model '{offer.name}' at {offer.url}, for {reach}", flush=True)
    whose = "the file's template has for them" if offer.template is None else "it was given here"
    note(f"clients that send no system prompt get the one {whose}; Ctrl-C ends it")


if __name__ == "__main__":
    app()
