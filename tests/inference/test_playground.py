"""The playground's server: answers as the command line gives them, lines, bounds, access, and stopping."""

import asyncio
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from typer.testing import CliRunner

from data.render import render_prompt
from inference.generate import ask_model
from inference.load import load_original, load_tuned
from inference.playground import app as server_module
from inference.playground.__main__ import app as command
from inference.playground.__main__ import load, wished
from inference.playground.app import Access, make_app
from inference.playground.line import Line, LineFullError
from inference.playground.writing import (
    AnswerStoppedError,
    Assignment,
    Turns,
    ids_sha256,
    share_equal_weights,
    write_answer,
)
from inference.published import open_published
from train.generation import question_conversation
from train.generation_settings import GenerationSettings

ROOT = Path(__file__).parents[2]
QUESTION = "How do I treat a nosebleed?"
EVERYWHERE = "0.0.0.0"  # noqa: S104
TOKEN = "a-token-of-some-length"
SECONDS = 240


@pytest.fixture(scope="module")
def models(smoke_run):
    published = open_published(smoke_run)
    return [load_original(published, published.base), load_tuned(published)]


@contextmanager
def serving(models, token=None, **options):
    """A real server on a free port, and a client of it. TestClient could not hang up in the middle of an answer."""
    access = Access(token, frozenset({"127.0.0.1"}))
    app = make_app(models, [QUESTION], access, **options)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with httpx.Client(base_url=address, timeout=SECONDS) as client:
                wait_until(lambda: server.started)
                yield client
        finally:
            server.should_exit = True
            thread.join(SECONDS)
            assert not thread.is_alive()


def wait_until(condition, seconds=SECONDS):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def body(role="tuned", **more):
    return {"model": role, "question": QUESTION, "max_new_tokens": 8, **more}


def asked(client, role="tuned", **more):
    response = client.post("/api/answer", json=body(role, **more))
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


@contextmanager
def slow(loaded, monkeypatch, seconds=0.02):
    """The model takes its time for every token; yields how many it has computed."""
    calls, forward = [], loaded.model.forward

    def slowly(*arguments, **options):
        calls.append(None)
        time.sleep(seconds)
        return forward(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loaded.model, "forward", slowly)
        yield calls


def test_answers_are_those_of_the_command_line_and_prompts_the_same_for_both(models):
    with serving(models) as client:
        answers = {loaded.role: asked(client, loaded.role) for loaded in models}
    for loaded in models:
        expected = ask_model(loaded, QUESTION, GenerationSettings(max_new_tokens=8), stream=False).answer
        start, *words, end = answers[loaded.role]
        prompt_ids = render_prompt(loaded.tokenizer, question_conversation(QUESTION, loaded.system_prompt))
        assert (start["event"], start["prompt_tokens"]) == ("start", len(prompt_ids))
        assert start["prompt_sha256"] == ids_sha256(prompt_ids)
        assert all(event["event"] == "text" for event in words)
        assert "".join(event["text"] for event in words).strip() == end["text"] == expected.text
        assert (end["event"], end["tokens"]) == ("end", len(expected.token_ids))
        assert end["reached_end"] == expected.reached_end
    assert answers["original"][0] == answers["tuned"][0]
    assert len(answers["tuned"]) > 3, "a random model that says nothing proves nothing"


def test_system_prompt_and_sampling_settings_count(models):
    with serving(models) as client:
        plain, brief, bare = (asked(client, system_prompt=text) for text in (None, "Be brief.", ""))
        seeds = [asked(client, sample=True, temperature=5, top_p=1, seed=seed)[-1]["text"] for seed in (1, 1, 2)]
    lengths = [events[0]["prompt_tokens"] for events in (plain, brief, bare)]
    assert lengths[0] > lengths[1]
    assert len(set(lengths)) == 3
    assert seeds[0] == seeds[1] != seeds[2]


def test_models_that_take_turns_draw_what_each_draws_alone(models):
    settings = GenerationSettings(max_new_tokens=24, sample=True, temperature=5.0, top_p=1.0, seed=7)
    alone = [ask_model(loaded, QUESTION, settings, stream=False).answer.text for loaded in models]
    turns, order, answers = Turns(), [], {}

    def write(loaded):
        conversation = question_conversation(QUESTION, loaded.system_prompt)
        assignment = Assignment(loaded, conversation, settings, render_prompt(loaded.tokenizer, conversation))

        def emit(event):
            order.append(loaded.role)
            answers[loaded.role] = event

        write_answer(assignment, turns, emit, threading.Event())

    with ThreadPoolExecutor(2) as threads:
        with turns.taken():  # nobody begins before both are in line
            futures = [threads.submit(write, loaded) for loaded in models]
            wait_until(lambda: len(turns._line) == 3)
        for future in futures:
            future.result(SECONDS)
    assert [answers[loaded.role]["text"] for loaded in models] == alone
    changes = sum(one != other for one, other in itertools.pairwise(order))
    assert changes > 10, order


def test_a_stopped_answer_raises_and_frees_its_turn(models):
    conversation = question_conversation(QUESTION, None)
    tuned, stopped, turns = models[1], threading.Event(), Turns()
    assignment = Assignment(
        tuned, conversation, GenerationSettings(max_new_tokens=50), render_prompt(tuned.tokenizer, conversation)
    )
    events = []

    def emit(event):
        events.append(event)
        if event.get("tokens") == 3:
            stopped.set()

    with pytest.raises(AnswerStoppedError):
        write_answer(assignment, turns, emit, stopped)
    assert [event["event"] for event in events] == ["start", "text", "text", "text"]
    with turns.taken():
        pass


def test_hanging_up_stops_the_generation(models, monkeypatch):
    with serving(models) as client, slow(models[1], monkeypatch) as computed:
        with client.stream("POST", "/api/answer", json=body(max_new_tokens=500)) as response:
            lines = response.iter_lines()
            assert json.loads(next(lines))["event"] == "start"
            assert json.loads(next(lines))["event"] == "text"
        begun = time.monotonic()
        events = asked(client)  # waits for the model
        assert time.monotonic() - begun < 5
        assert events[-1]["event"] == "end"
        assert len(computed) < 200


def test_questions_wait_in_line_are_told_so_and_may_leave_it(models, monkeypatch):
    with (
        serving(models, max_waiting=2) as client,
        slow(models[1], monkeypatch),
        client.stream("POST", "/api/answer", json=body(max_new_tokens=500)) as first,
        client.stream("POST", "/api/answer", json=body()) as second,
        client.stream("POST", "/api/answer", json=body()) as third,
    ):
        # An iterator that is dropped hangs up, so all three are kept.
        lines = [response.iter_lines() for response in (first, second, third)]
        told = [json.loads(next(one)) for one in lines]
        assert told[0]["event"] == "start"
        assert told[1:] == [{"event": "waiting", "before": 1}, {"event": "waiting", "before": 2}]
        full = client.post("/api/answer", json=body())
        assert full.status_code == 429
        assert full.json() == {"error": "2 questions are waiting already. Try again in a moment."}
        assert asked(client, "original")[-1]["event"] == "end"  # its line is another one
        second.close()
        assert json.loads(next(lines[2])) == {"event": "waiting", "before": 1}
        first.close()
        assert json.loads(next(lines[2]))["event"] == "start"
        assert json.loads(list(lines[2])[-1])["event"] == "end"


def test_line_serves_in_order_and_is_bounded():
    async def scenario():
        line = Line(max_waiting=1)
        first, second = line.join(), line.join()
        with pytest.raises(LineFullError):
            line.join()
        assert [before async for before in line.places(first)] == []
        places = line.places(second)
        assert await anext(places) == 1
        line.leave(first)  # between two looks
        with pytest.raises(StopAsyncIteration):
            await anext(places)
        line.leave(second)
        assert len(line) == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("change", "status", "complaint"),
    [
        ({"question": "knot " * 1000}, 413, "The question has 5,000 characters; at most 4,000 are allowed."),
        ({"system_prompt": "x" * 12_001}, 413, "The system prompt has 12,001 characters"),
        ({"question": "x" * 200_000}, 413, "larger than 128 KiB"),
        ({"max_new_tokens": 900}, 413, "more than the 1024 this model can see"),
        ({"max_new_tokens": 100_000}, 422, "max_new_tokens"),
        ({"question": "  "}, 422, "There is no question."),
        ({"temperature": 0}, 422, "temperature"),
        ({"seed": -1}, 422, "seed"),
        ({"model": "other"}, 422, "model"),
        ({"model": "original"}, 404, "There is no original model here."),
        ({"beams": 4}, 422, "beams"),
    ],
)
def test_what_is_not_answered_is_told_in_a_sentence(models, change, status, complaint):
    with serving(models[1:]) as client:
        response = client.post("/api/answer", json={**body(), **change})
        assert response.status_code == status, response.text
        assert complaint in response.json()["error"]
        assert response.json()["error"].endswith(".")


def test_requests_of_other_pages_are_refused(models):
    with serving(models) as client:
        # A form or a script of another site may send text, but no JSON; and its name is not ours.
        plain = client.post("/api/answer", content=json.dumps(body()), headers={"Content-Type": "text/plain"})
        foreign = client.get("/api/info", headers={"Host": "rebound.example.org"})
        assert (plain.status_code, foreign.status_code) == (415, 403)
        assert client.get("/api/info").status_code == 200
        assert client.get("/nothing").status_code == 404
        assert client.get("/..%2fapp.py").status_code == 404


def test_the_token_guards_everything_but_the_empty_page(models):
    with serving(models, token=TOKEN) as client:
        assert client.get("/").status_code == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer ä".encode()}):
            assert client.get("/api/info", headers=headers).status_code == 401
            assert client.post("/api/answer", json=body(), headers=headers).status_code == 401
        assert client.get("/api/info", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_page_asks_nothing_but_its_server(models):
    with serving(models) as client:
        responses = [client.get(path) for path in ("/", "/style.css", "/script.js")]
    for response in responses:
        assert response.status_code == 200
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        addresses = response.text.replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in addresses
        assert "https:" not in addresses


def test_a_failing_model_is_told_and_the_next_question_answered(models, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: out of memory")

    with serving(models) as client:
        with monkeypatch.context() as patch:
            patch.setattr(models[1].model, "forward", fail)
            assert asked(client)[-1] == {
                "event": "error",
                "message": "The model ran out of memory. Ask a shorter question or allow fewer tokens.",
            }
        assert asked(client)[-1]["event"] == "end"


def test_equal_weights_are_kept_once_and_answers_stay(smoke_run, models):
    published = open_published(smoke_run)
    original, tuned = load_original(published, published.base), load_tuned(published)
    before = [loaded.weights_sha256 for loaded in models]
    shared_bytes, own_bytes = share_equal_weights(original.model, tuned.model)
    assert shared_bytes > 0
    assert own_bytes > 0  # what was trained
    assert [original.weights_sha256, tuned.weights_sha256] == before
    storages = {
        parameter.data_ptr(): parameter.nbytes
        for loaded in (original, tuned)
        for parameter in loaded.model.parameters()
    }
    alone = sum(parameter.nbytes for parameter in tuned.model.parameters())
    assert sum(storages.values()) == sum(p.nbytes for p in original.model.parameters()) + alone - shared_bytes


def test_the_same_model_twice_is_said(smoke_run):
    folder = smoke_run / "best_model"
    models, notices = load(wished(str(smoke_run), str(folder), verify=False))
    assert [loaded.role for loaded in models] == ["original", "tuned"]
    assert "same weights" in notices[0]


def test_one_model_alone(smoke_run, tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (plain / name).symlink_to(smoke_run / "best_model" / name)
    models, notices = load(wished(str(plain), None, verify=False))
    assert ([loaded.role for loaded in models], notices) == (["original"], [])


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["--host", EVERYWHERE], 2, "no --token protects it"),
        (["--host", "playground.example.org"], 2, "no --token protects it"),
        (["--token", "short"], 2, "has 5 characters; at least 12 are needed"),
        (["--port", "99999"], 2, "--port"),
        (["--questions", "missing.txt"], 2, "missing.txt"),
        ([], 4, "there is no run folder"),
        (["no such model"], 4, "cannot be loaded"),
        (["DAMAGED"], 4, "READY"),
    ],
)
def test_refusals_are_one_line(arguments, code, complaint, tmp_path, monkeypatch):
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path / "no-run"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "damaged" / "best_model").mkdir(parents=True)
    arguments = [text.replace("DAMAGED", str(tmp_path / "damaged")) for text in arguments]
    result = CliRunner().invoke(command, [*arguments, *([] if "--port" in arguments else ["--port", "0"])])
    assert result.exit_code == code, result.stderr
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr


def test_a_port_in_use_is_told_before_anything_is_loaded(smoke_run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(command, [str(smoke_run), "--port", str(port)])
    assert result.exit_code == 2
    assert f"cannot listen on 127.0.0.1:{port}: address already in use" in result.stderr
    assert "weights" not in result.stderr


def test_the_command_serves_until_ctrl_c(smoke_run):
    command = [sys.executable, "-m", "inference.playground", str(smoke_run), "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes)
    try:
        address = process.stdout.readline().split()[4]
        assert httpx.get(address, timeout=SECONDS).status_code == 200
        about = httpx.get(f"{address}api/info", timeout=SECONDS).json()
        assert [model["role"] for model in about["models"]] == ["original", "tuned"]
        assert len(about["questions"]) == 5
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=SECONDS)
        assert process.returncode == 130
        assert "Traceback" not in error
    finally:
        process.kill()
        process.wait()


def test_command_lines_load_no_torch():
    code = (
        "import sys, inference.playground.__main__, inference.serve; "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=SECONDS).returncode == 0


def test_a_server_without_its_packages_says_what_to_install(monkeypatch):
    monkeypatch.setattr("inference.server.importlib.util.find_spec", lambda name: None)
    result = CliRunner().invoke(command, [])
    assert result.exit_code == 2
    assert "pip install -e '.[playground]'" in result.stderr


def test_limits_fit_the_schema():
    assert (
        server_module.MAX_QUESTION_CHARACTERS + server_module.MAX_SYSTEM_PROMPT_CHARACTERS
        < server_module.MAX_BODY_BYTES
    )
    assert GenerationSettings().max_new_tokens <= server_module.MAX_ANSWER_TOKENS
