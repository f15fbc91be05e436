"""The playground's server: answers as the command line gives them, waiting, bounds, access, and stopping."""

import json
import time
from contextlib import contextmanager

import httpx
import pytest

from data.render import render_prompt
from inference.asking.generate import ask_model
from inference.models.load import load_original, load_tuned
from inference.models.published import open_published
from inference.playground import app as server_module
from inference.playground.writing import ids_sha256
from tests.inference.playground.playground_server import SECONDS, TOKEN, serving
from train.generation.generate import question_conversation
from train.generation.settings import GenerationSettings

QUESTION = "How do I treat a nosebleed?"


@pytest.fixture(scope="module")
def models(smoke_run):
    published = open_published(smoke_run)
    return [load_original(published, published.base), load_tuned(published)]


@contextmanager
def asking(models, token=None, **options):
    """A client of a real server. TestClient could not hang up in the middle of an answer."""
    with (
        serving(models, [QUESTION], token, **options) as address,
        httpx.Client(base_url=address, timeout=SECONDS) as client,
    ):
        yield client


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
    with asking(models) as client:
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
    with asking(models) as client:
        plain, brief, bare = (asked(client, system_prompt=text) for text in (None, "Be brief.", ""))
        seeds = [asked(client, sample=True, temperature=5, top_p=1, seed=seed)[-1]["text"] for seed in (1, 1, 2)]
    lengths = [events[0]["prompt_tokens"] for events in (plain, brief, bare)]
    assert lengths[0] > lengths[1]
    assert len(set(lengths)) == 3
    assert seeds[0] == seeds[1] != seeds[2]


def test_hanging_up_stops_the_generation(models, monkeypatch):
    with asking(models) as client, slow(models[1], monkeypatch) as computed:
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
        asking(models, max_waiting=2) as client,
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
    with asking(models[1:]) as client:
        response = client.post("/api/answer", json={**body(), **change})
        assert response.status_code == status, response.text
        assert complaint in response.json()["error"]
        assert response.json()["error"].endswith(".")


def test_requests_of_other_pages_are_refused(models):
    with asking(models) as client:
        # A form or a script of another site may send text, but no JSON; and its name is not ours.
        plain = client.post("/api/answer", content=json.dumps(body()), headers={"Content-Type": "text/plain"})
        foreign = client.get("/api/info", headers={"Host": "rebound.example.org"})
        assert (plain.status_code, foreign.status_code) == (415, 403)
        assert client.get("/api/info").status_code == 200
        assert client.get("/nothing").status_code == 404
        assert client.get("/..%2fapp.py").status_code == 404


def test_the_token_guards_everything_but_the_empty_page(models):
    with asking(models, token=TOKEN) as client:
        assert client.get("/").status_code == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer ä".encode()}):
            assert client.get("/api/info", headers=headers).status_code == 401
            assert client.post("/api/answer", json=body(), headers=headers).status_code == 401
        assert client.get("/api/info", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_page_asks_nothing_but_its_server(models):
    with asking(models) as client:
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

    with asking(models) as client:
        with monkeypatch.context() as patch:
            patch.setattr(models[1].model, "forward", fail)
            assert asked(client)[-1] == {
                "event": "error",
                "message": "The model ran out of memory. Ask a shorter question or allow fewer tokens.",
            }
        assert asked(client)[-1]["event"] == "end"


def test_limits_fit_the_schema():
    assert (
        server_module.MAX_QUESTION_CHARACTERS + server_module.MAX_SYSTEM_PROMPT_CHARACTERS
        < server_module.MAX_BODY_BYTES
    )
    assert GenerationSettings().max_new_tokens <= server_module.MAX_ANSWER_TOKENS
