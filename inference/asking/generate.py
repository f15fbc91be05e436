"""One question to one loaded model: answered to the terminal as it is written, or as a record."""

import time
from dataclasses import dataclass
from typing import Any

from transformers import TextStreamer

from inference.models.load import LoadedModel
from train.generation.generate import Answer, generate_answer, question_conversation
from train.generation.settings import GenerationSettings


class AnswerStreamer(TextStreamer):  # type: ignore[misc]
    """This streamer prints an answer word by word as it is generated, without white space that it begins with."""

    has_begun = False

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Print the words that are complete, once the first one has come."""
        shown = text if self.has_begun else text.lstrip()
        self.has_begun = self.has_begun or bool(shown)
        super().on_finalized_text(shown, stream_end)


@dataclass(frozen=True)
class Reply:
    """A reply is an answer with the question it belongs to and the seconds it took."""

    question: str
    answer: Answer
    seconds: float

    def record(self, model_facts: dict[str, str], settings: GenerationSettings) -> dict[str, Any]:
        """Return what `--json` prints: one flat object, `model` and `settings` nested."""
        return {
            "question": self.question,
            "answer": self.answer.text,
            "reached_end": self.answer.reached_end,
            "prompt_tokens": len(self.answer.prompt_ids),
            "answer_tokens": len(self.answer.token_ids),
            "seconds": round(self.seconds, 3),
            "settings": settings.dump(),
            "model": model_facts,
        }


def ask_model(loaded: LoadedModel, question: str, settings: GenerationSettings, *, stream: bool) -> Reply:
    """Ask one question, alone: nothing of an earlier question or answer is in the prompt.

    With `stream` the answer is printed word by word; a ConfigError says that the question is too long.
    """
    streamer = AnswerStreamer(loaded.tokenizer, skip_prompt=True, skip_special_tokens=True) if stream else None
    start = time.monotonic()
    conversation = question_conversation(question, loaded.system_prompt)
    answer = generate_answer(loaded.model, loaded.tokenizer, conversation, settings, streamer)
    return Reply(question, answer, time.monotonic() - start)
