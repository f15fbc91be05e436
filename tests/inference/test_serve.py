"""inference.serve through the real openai client: training's prompt, though the client sends the question alone."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest
from typer.testing import CliRunner

from data.dataset import read_prompt
from data.model_files import embedded_gguf
from data.render import render_prompt
from data.tokenizer import load_chat_tokenizer
from inference import serve
from inference.asking.generate import ask_model
from inference.models.load import load_tuned
from inference.models.published import open_published
from inference.models.template import with_default_system_prompt
from inference.serving import engines
from tests.free_ports import free_port
from train.config.run_config import RunConfig
from train.generation.generate import question_conversation
from train.generation.settings import GenerationSettings

ROOT = Path(__file__).parents[2]
QUESTION = "How do I treat a nosebleed?"
KEY = "a-key-of-some-length"
EVERYWHERE = "0.0.0.0"  # noqa: S104
SECONDS = 240


@contextmanager
def serving(tmp_path, *arguments, api_key=None):
    """A client of the real command line, once it answers; the process is ended as by Ctrl-C."""
    port = free_port()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "inference.serve", *map(str, arguments), "--port", str(port)]
    key = {"API_KEY": api_key} if api_key else {}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(scratch), **key},
            stdout=log,
            stderr=log,
        )
    try:
        wait_until_healthy(process, port, tmp_path / "log")
        yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=api_key or "unused", max_retries=0)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130, (tmp_path / "log").read_text()
        assert list(scratch.glob("fieldcraft-*")) == []
    finally:
        process.kill()
        process.wait()


def wait_until_healthy(process, port, log):
    deadline = time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).raise_for_status()
            return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise AssertionError(log.read_text())


def complete(client, model, *messages, **more):
    conversation = [{"role": role, "content": content} for role, content in messages]
    return client.chat.completions.create(
        model=model, messages=conversation, temperature=0, **{"max_tokens": 8, **more}
    )


def test_transformers_serves_the_prompt_of_training(smoke_run, tmp_path):
    loaded = load_tuned(open_published(smoke_run))
    expected = ask_model(loaded, QUESTION, GenerationSettings(max_new_tokens=8), stream=False).answer
    with serving(tmp_path, smoke_run, "--engine", "transformers") as client:
        alone = complete(client, "run", ("user", QUESTION))
        with_system = complete(client, "run", ("system", loaded.system_prompt), ("user", QUESTION))
        other = complete(client, "run", ("system", "Be brief."), ("user", QUESTION))
        streamed = "".join(
            chunk.choices[0].delta.content or "" for chunk in complete(client, "run", ("user", QUESTION), stream=True)
        )
    for completion in (alone, with_system):
        assert completion.usage.prompt_tokens == len(expected.prompt_ids)
        assert completion.choices[0].message.content.strip() == expected.text != ""
    assert streamed.strip() == expected.text
    assert other.usage.prompt_tokens == len(
        render_prompt(loaded.tokenizer, question_conversation(QUESTION, "Be brief."))
    )


def test_llama_cpp_serves_the_prompt_it_was_told(tmp_path):
    config, tokenizer = RunConfig(), load_chat_tokenizer()
    prompt_file = config.data_file(config.data.system_prompt)
    expected = len(render_prompt(tokenizer, question_conversation(QUESTION, read_prompt(prompt_file))))
    options = (embedded_gguf(), "--name", "embedded", "--system-prompt", prompt_file)
    with serving(tmp_path, *options, api_key=KEY) as client:
        alone = complete(client, "embedded", ("user", QUESTION), max_tokens=4)
        other = complete(client, "embedded", ("system", "Be brief."), ("user", QUESTION), max_tokens=4)
        with pytest.raises(openai.AuthenticationError):
            complete(client.with_options(api_key="wrong"), "embedded", ("user", QUESTION))
        assert [model.id for model in client.models.list()] == ["embedded"]
        foreign = httpx.get(
            str(client.base_url.join("/health")), headers={"Origin": "http://example.org"}, timeout=SECONDS
        )
        assert not foreign.headers.get("Access-Control-Allow-Origin")
    assert alone.usage.prompt_tokens == expected
    assert alone.choices[0].message.content
    assert other.usage.prompt_tokens == len(render_prompt(tokenizer, question_conversation(QUESTION, "Be brief.")))


def test_vllm_gets_model_template_and_a_key_no_listing_shows(smoke_run, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setenv("CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(engines, "missing_packages", lambda names, extra: None)
    monkeypatch.setattr(os, "execve", lambda *call: calls.append(call))
    result = CliRunner().invoke(serve.app, [str(smoke_run), "--engine", "vllm", "--host", EVERYWHERE, "--api-key", KEY])
    assert result.exit_code == 0, result.stderr
    (_, arguments, environment), *_ = calls
    options = dict(zip(arguments[3::2], arguments[4::2], strict=True))
    assert options["--model"] == str(smoke_run / "best_model")
    assert (options["--served-model-name"], options["--host"], options["--port"]) == ("run", EVERYWHERE, "8000")
    published = open_published(smoke_run)
    own = (published.folder / "chat_template.jinja").read_text()
    assert Path(options["--chat-template"]).read_text() == with_default_system_prompt(own, published.system_prompt)
    assert KEY not in arguments
    assert environment["VLLM_API_KEY"] == KEY


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        ([], 4, "there is no run folder"),
        (["missing.gguf"], 4, "there is no file missing.gguf"),
        (["RUN", "--host", EVERYWHERE], 2, "no --api-key protects it"),
        (["RUN", "--engine", "transformers", "--api-key", KEY], 2, "transformers serve checks no key"),
        (["RUN", "--engine", "llama.cpp"], 2, "does not serve a model folder"),
        (["BROKEN", "--engine", "vllm"], 2, "does not serve a .gguf file"),
        (["BROKEN"], 4, "llama.cpp cannot load"),
        (["BROKEN", "--system-prompt", "PROMPT"], 4, "cannot be read"),
        (["RUN", "--port", "TAKEN"], 2, "address already in use"),
        (["RUN", "--port", "0"], 2, "--port"),
    ],
)
def test_refusals_are_one_line(arguments, code, complaint, smoke_run, tmp_path, monkeypatch):
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path / "no-run"))
    monkeypatch.setattr(os, "execve", lambda *call: pytest.fail("it went on"))
    broken, prompt = tmp_path / "broken.gguf", tmp_path / "prompt.txt"
    broken.write_bytes(b"GGUF" + bytes(100))
    prompt.write_text("Be brief.")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = {"RUN": smoke_run, "BROKEN": broken, "PROMPT": prompt, "TAKEN": taken.getsockname()[1]}
        told = [str(words.get(text, text)) for text in arguments]
        result = CliRunner().invoke(serve.app, told if "--port" in told else [*told, "--port", str(free_port())])
    assert result.exit_code == code, result.output + repr(result.exception)
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr
