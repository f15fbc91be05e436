"""Answers being written: models take turns, stop between two tokens, wait in line, and share equal weights."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from data.render import render_prompt
from inference.asking.generate import ask_model
from inference.models.load import load_original, load_tuned
from inference.models.published import open_published
from inference.playground.writing import AnswerStoppedError, Assignment, Turns, share_equal_weights, write_answer
from tests.inference.playground.playground_server import SECONDS, wait_until
from train.generation.generate import question_conversation
from train.generation.settings import GenerationSettings

QUESTION = "How do I treat a nosebleed?"


@pytest.fixture(scope="module")
def models(smoke_run):
    published = open_published(smoke_run)
    return [load_original(published, published.base), load_tuned(published)]


def assigned(loaded, settings):
    conversation = question_conversation(QUESTION, loaded.system_prompt)
    return Assignment(loaded, render_prompt(loaded.tokenizer, conversation), settings)


def test_models_that_take_turns_draw_what_each_draws_alone(models):
    settings = GenerationSettings(max_new_tokens=24, sample=True, temperature=5.0, top_p=1.0, seed=7)
    alone = [ask_model(loaded, QUESTION, settings, stream=False).answer.text for loaded in models]
    turns, order, answers = Turns(), [], {}

    def write(loaded):
        def emit(event):
            order.append(loaded.role)
            answers[loaded.role] = event

        write_answer(assigned(loaded, settings), turns, emit, threading.Event())

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
    stopped, turns, events = threading.Event(), Turns(), []
    assignment = assigned(models[1], GenerationSettings(max_new_tokens=50))

    def emit(event):
        events.append(event)
        if event.get("tokens") == 3:
            stopped.set()

    with pytest.raises(AnswerStoppedError):
        write_answer(assignment, turns, emit, stopped)
    assert [event["event"] for event in events] == ["start", "text", "text", "text"]
    with turns.taken():
        pass


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
