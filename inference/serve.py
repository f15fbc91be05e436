"""Serve a model to OpenAI clients by a server that exists: transformers serve, vLLM, or llama.cpp for a .gguf file.

python -m inference.serve outputs/laptop
python -m inference.serve laptop-q8_0.gguf --port 8001
curl localhost:8000/v1/chat/completions -H 'Content-Type: application/json' \
    -d '{"model": "laptop", "messages": [{"role": "user", "content": "How do I treat a nosebleed?"}], "temperature": 0}'

A client that sends the question alone gets the prompt of training: its system prompt is put into the chat template
that the server is given. Answers are greedy with temperature 0 only; what else a client leaves out, the server decides.
"""

import re
from pathlib import Path
from typing import Annotated

import typer

from data.dataset import read_prompt
from inference.command import VerifyOption, make_app, run_command
from inference.models.published import default_run, open_published
from inference.models.template import CHAT_TEMPLATE, gguf_template, with_default_system_prompt
from inference.serving.engines import Engine, check_engine, choose_engine
from inference.serving.server import bind, check_exposure
from inference.serving.start import Offer, serve_with_llama_cpp, serve_with_transformers, serve_with_vllm

app = make_app()


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


def name_of(target: Path) -> str:
    """Return what clients call a model, from where it lies.

    >>> name_of(Path("outputs/laptop/best_model")), name_of(Path("laptop q8@1.gguf"))
    ('laptop', 'laptop-q8-1')
    """
    path = target.resolve()
    name = path.stem if path.suffix == ".gguf" else path.parent.name if path.name == "best_model" else path.name
    return re.sub(r"[^\w.-]+", "-", name)


if __name__ == "__main__":
    app()
