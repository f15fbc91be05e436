"""An offer to clients, and how each of the three servers is started with it: none of them is ours."""

import contextlib
import hashlib
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from data.files import write_text
from data.libraries import prepare_environment
from data.model_files import cache_dir
from inference.command import note
from inference.models.template import CHAT_TEMPLATE
from inference.serving.server import is_loopback
from train.distributed.machine import usable_cores
from train.failure import ModelError

LLAMA_CPP_CONTEXT_TOKENS = 4096


@dataclass(frozen=True)
class Offer:
    """An offer is what is served, and where. `template` None: the one inside the model file."""

    model: Path
    name: str
    template: str | None
    host: str
    port: int
    api_key: str | None

    @property
    def url(self) -> str:
        """Return the address that clients are given."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/v1"


@contextlib.contextmanager
def serving_folder(offer: Offer) -> Iterator[Path]:
    """Yield a folder with the model under the name clients use: links to its files, but for the template."""
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
    """Run `transformers serve` here. Clients call a model by its path, so we stand where that is its name."""
    prepare_environment(offline=True)
    from transformers.cli.serve import Serve

    with serving_folder(offer) as folder, contextlib.chdir(folder.parent):
        announce(offer, "transformers serve")
        Serve(force_model=offer.name, host=offer.host, port=offer.port)


def serve_with_vllm(offer: Offer) -> None:
    """Become vLLM's server: signals and exit code are its own."""
    assert offer.template is not None
    # Named by its content, so that the template of a server that runs already stays what it is.
    file = cache_dir() / "serving" / f"{hashlib.sha256(offer.template.encode()).hexdigest()[:16]}.jinja"
    write_text(file, offer.template)
    key = {"VLLM_API_KEY": offer.api_key} if offer.api_key else {}
    announce(offer, "vLLM")
    os.execve(sys.executable, [sys.executable, *vllm_arguments(offer, file)], {**os.environ, **key})  # noqa: S606


def vllm_arguments(offer: Offer, template: Path) -> list[str]:
    """Return what follows `python`. The key travels in the environment, where no process listing shows it."""
    options = {
        "--model": str(offer.model),
        "--served-model-name": offer.name,
        "--chat-template": str(template),
        "--host": offer.host,
        "--port": str(offer.port),
    }
    return ["-m", "vllm.entrypoints.openai.api_server", *(word for pair in options.items() for word in pair)]


def serve_with_llama_cpp(offer: Offer) -> None:
    """Run the server inside xllamacpp, until Ctrl-C."""
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
    """Print the one line on stdout that says where clients find what."""
    reach = "this machine" if is_loopback(offer.host) else "other machines, with the key"
    print(f"{engine}: model '{offer.name}' at {offer.url}, for {reach}", flush=True)
    whose = "the file's template has for them" if offer.template is None else "it was given here"
    note(f"clients that send no system prompt get the one {whose}; Ctrl-C ends it")
