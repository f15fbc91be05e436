"""An answer being written: generation in a thread, its words as events, stopped between two tokens.

Models take turns token by token: both columns of the page grow together, no core is asked for twice, and each
generation keeps its own random state, so a seed gives the answer it gives on the command line.
"""

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TextStreamer

from inference.models.load import LoadedModel
from train.generation.generate import generate_from_ids
from train.generation.settings import GenerationSettings

Event = dict[str, Any]
Emit = Callable[[Event], None]


class AnswerStoppedError(Exception):
    """Whoever asked does not want the rest of the answer."""


class Turns:
    """Of several threads one computes at a time; `pass_on` lets the next in line go first."""

    def __init__(self) -> None:
        self._line: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def taken(self) -> Iterator[Callable[[], None]]:
        """Wait for the first turn; yields the function that passes it on and waits for the next one."""
        me = object()
        with self._changed:
            self._line.append(me)
            self._changed.wait_for(lambda: self._line[0] is me)
        try:
            yield lambda: self._pass_on(me)
        finally:
            with self._changed:
                self._line.remove(me)
                self._changed.notify_all()

    def _pass_on(self, me: object) -> None:
        with self._changed:
            if len(self._line) == 1:
                return
            random_states = _random_states()
            self._line.rotate(-1)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._line[0] is me)
            _set_random_states(random_states)


class EventStreamer(TextStreamer):  # type: ignore[misc]
    """This streamer sends an event a token, with the words complete by then; `after_token` may end it by raising."""

    def __init__(self, loaded: LoadedModel, emit: Emit, after_token: Callable[[], None]) -> None:
        super().__init__(loaded.tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._emit, self._after_token = emit, after_token
        self._has_begun = False
        self._complete = ""
        self._num_tokens = 0

    def put(self, value: torch.Tensor) -> None:  # [1, prompt_tokens], then [1] per token
        """Take the prompt, then one token at a time."""
        is_prompt = self.next_tokens_are_prompt
        super().put(value)
        if not is_prompt:
            self._num_tokens += 1
            self._send()
            self._after_token()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Keep the words that are complete for the next event, once the first one has come."""
        shown = text if self._has_begun else text.lstrip()
        self._has_begun = self._has_begun or bool(shown)
        self._complete += shown
        if stream_end and self._complete:
            self._send()

    def _send(self) -> None:
        self._emit({"event": "text", "text": self._complete, "tokens": self._num_tokens})
        self._complete = ""


@dataclass(frozen=True)
class Assignment:
    """An assignment is what one model is to answer."""

    loaded: LoadedModel
    prompt_ids: list[int]
    settings: GenerationSettings


def write_answer(assignment: Assignment, turns: Turns, emit: Emit, stopped: threading.Event) -> None:
    """Write the answer, sending `start`, `text`... and `end` events.

    Raises:
        AnswerStoppedError: `stopped` was set; what was sent so far stands.
    """

    def after_token() -> None:
        if stopped.is_set():
            raise AnswerStoppedError
        pass_on()

    with turns.taken() as pass_on:
        if stopped.is_set():
            raise AnswerStoppedError
        emit(
            {
                "event": "start",
                "prompt_tokens": len(assignment.prompt_ids),
                "prompt_sha256": ids_sha256(assignment.prompt_ids),
            }
        )
        loaded = assignment.loaded
        streamer = EventStreamer(loaded, emit, after_token)
        start = time.monotonic()
        answer = generate_from_ids(loaded.model, loaded.tokenizer, assignment.prompt_ids, assignment.settings, streamer)
        emit(
            {
                "event": "end",
                "text": answer.text,
                "tokens": len(answer.token_ids),
                "seconds": round(time.monotonic() - start, 3),
                "reached_end": answer.reached_end,
            }
        )


def ids_sha256(token_ids: Sequence[int]) -> str:
    """Return a fingerprint by which two prompts are told apart.

    >>> ids_sha256([1, 23]) == ids_sha256([12, 3])
    False
    """
    return hashlib.sha256(" ".join(map(str, token_ids)).encode()).hexdigest()


def share_equal_weights(kept: torch.nn.Module, other: torch.nn.Module) -> tuple[int, int]:
    """Let `other` use the tensors of `kept` wherever their values are equal: bytes shared, and bytes of its own.

    Tuning the last layers leaves most weights as they were, so two models take little more memory than one.
    """
    theirs = dict(kept.named_parameters())
    shared_bytes = own_bytes = 0
    for name, parameter in other.named_parameters():
        twin = theirs.get(name)
        if twin is not None and twin.dtype == parameter.dtype and torch.equal(twin, parameter):
            parameter.data = twin.data
            shared_bytes += parameter.nbytes
        else:
            own_bytes += parameter.nbytes
    return shared_bytes, own_bytes


def _random_states() -> list[torch.Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]


def _set_random_states(states: list[torch.Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state_all(states[1:])
