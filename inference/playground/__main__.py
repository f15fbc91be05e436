"""Let the original and the tuned model answer side by side, on a page in the browser.

python -m inference.playground outputs/laptop
python -m inference.playground embedded              (one model alone)
"""

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data.libraries import prepare_environment
from inference.asking.questions import questions_to_ask
from inference.command import VerifyOption, make_app, note, notes, run_command
from inference.models.published import (
    PublishedModel,
    default_run,
    is_run,
    named_base,
    needs_no_network,
    open_published,
)
from inference.serving.server import bind, check_exposure, is_loopback, missing_packages
from train.config.run_config import RunConfig

if TYPE_CHECKING:
    from inference.models.load import LoadedModel

app = make_app()


@dataclass(frozen=True)
class Wish:
    """A wish says which models the page is to show: a run's pair, or one model by itself."""

    published: PublishedModel | None
    base: RunConfig


@app.command()
def main(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN_OR_MODEL]",
            help="Run folder or published model: both models. `embedded`, a hub id, a folder or a .gguf: that one.",
            show_default="OUTPUT_DIR, else outputs/laptop",
        ),
    ] = None,
    original: Annotated[
        str | None, typer.Option(help="The original, if not where the run found it: hub id, folder, .gguf.")
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Sample questions, one a line.", show_default="the demo's"),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Others than this machine need --token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 7860,
    token: Annotated[
        str | None, typer.Option(envvar="PLAYGROUND_TOKEN", help="What a browser must show to be answered.")
    ] = None,
    verify: VerifyOption = False,
) -> None:
    """Open a page on which the original and the tuned model answer side by side."""

    def play() -> None:
        missing_packages(("fastapi", "uvicorn"), extra="playground")
        check_exposure(host, token)
        asked = questions_to_ask(questions)
        wish = wished(target, original, verify=verify)
        with bind(host, port) as listener:
            serve(wish, asked, listener, host, token)

    run_command(play)


def wished(target: str | None, original: str | None, *, verify: bool) -> Wish:
    """Decide what to load (ModelError if a run was named, or is the default, and holds no intact model)."""
    folder = default_run() if target is None else Path(target)
    if target is not None and not is_run(folder):
        return Wish(None, named_base(target))
    published = open_published(folder, verify=verify)
    return Wish(published, named_base(original) if original else published.base)


def serve(wish: Wish, questions: list[str], listener: socket.socket, host: str, token: str | None) -> None:
    """Load what is wished for and answer until told to stop."""
    prepare_environment(offline=needs_no_network(wish.base))
    with notes().status("loading the models"):
        models, notices = load(wish)

    import uvicorn

    from inference.playground.app import Access
    from inference.playground.app import make_app as make_server

    for loaded in models:
        note(loaded.description)
    hosts = frozenset({"localhost", "127.0.0.1", "::1", host})
    server = make_server(models, questions, Access(token, hosts), notices=notices)
    config = uvicorn.Config(server, log_level="warning", timeout_graceful_shutdown=3, server_header=False)
    print(f"the playground is at {address(listener, host, token)}   (Ctrl-C ends it)", flush=True)
    uvicorn.Server(config).run(sockets=[listener])


def load(wish: Wish) -> "tuple[list[LoadedModel], list[str]]":
    """Load the models, and say what must be known about them. Weights the two have in common are kept once."""
    from inference.models.load import load_by_name, load_original, load_tuned
    from inference.playground.writing import share_equal_weights

    if wish.published is None:
        return [load_by_name(wish.base)], []
    original, tuned = load_original(wish.published, wish.base), load_tuned(wish.published)
    shared_bytes, own_bytes = share_equal_weights(original.model, tuned.model)
    note(f"weights: {(shared_bytes + own_bytes) / 1e9:.2f} GB a model, {shared_bytes / 1e9:.2f} GB of it in common")
    same = "Both models have the same weights: training changed nothing, or this is one model twice."
    return [original, tuned], [same] * (own_bytes == 0)


def address(listener: socket.socket, host: str, token: str | None) -> str:
    """Say where to point a browser. The token stands behind the #: browsers do not send that part to anyone."""
    port = listener.getsockname()[1]
    shown = host if is_loopback(host) else socket.gethostname()
    shown = f"[{shown}]" if ":" in shown else shown
    return f"http://{shown}:{port}/" + (f"#token={token}" if token else "")


if __name__ == "__main__":
    app()
