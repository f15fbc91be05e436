"""One question: streamed text is the answer's text, questions do not know of each other, records say it all."""

import json

import pytest

from inference.asking.generate import AnswerStreamer, ask_model
from inference.models.load import load_tuned
from inference.models.published import open_published
from train.failure import ConfigError
from train.generation.settings import GenerationSettings

SHORT = GenerationSettings(max_new_tokens=12)


@pytest.fixture(scope="module")
def tuned(smoke_run):
    return load_tuned(open_published(smoke_run))


def test_streamed_text_is_the_answer(tuned, capsys):
    reply = ask_model(tuned, "What is a bowline?", SHORT, stream=True)
    assert reply.answer.text
    assert capsys.readouterr().out.strip() == reply.answer.text


def test_without_streaming_nothing_is_printed(tuned, capsys):
    ask_model(tuned, "What is a bowline?", SHORT, stream=False)
    assert capsys.readouterr().out == ""


def test_stream_drops_leading_white_space_only(tuned, capsys):
    streamer = AnswerStreamer(tuned.tokenizer)
    for text, is_end in [("\n ", False), (" One", False), (" two", False), ("\n three", True)]:
        streamer.on_finalized_text(text, is_end)
    assert capsys.readouterr().out == "One two\n three\n"


def test_every_question_stands_alone(tuned):
    alone = ask_model(tuned, "What is a bowline?", SHORT, stream=False)
    ask_model(tuned, "How many cups in a gallon?", SHORT, stream=False)
    after_another = ask_model(tuned, "What is a bowline?", SHORT, stream=False)
    assert after_another.answer == alone.answer


def test_record_holds_answer_settings_and_model(tuned):
    reply = ask_model(tuned, "What is a bowline?", SHORT, stream=False)
    record = json.loads(json.dumps(reply.record(tuned.facts(), SHORT)))
    assert record["question"] == "What is a bowline?"
    assert record["answer"] == reply.answer.text
    assert record["answer_tokens"] == len(reply.answer.token_ids) <= 12
    assert record["prompt_tokens"] == len(reply.answer.prompt_ids)
    assert record["settings"] == SHORT.dump()
    assert record["model"]["weights_sha256"] == tuned.weights_sha256


def test_question_too_long_for_the_model_is_refused(tuned):
    with pytest.raises(ConfigError, match="context of 1024"):
        ask_model(tuned, "knot " * 1000, SHORT, stream=False)
