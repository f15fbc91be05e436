"""The page's server: what it may ask, how much, and the answers as lines of JSON while they are written.

A request that goes away stops its generation. One request a model is answered at a time, in the order they came.
"""

import asyncio
import hmac
import json
import logging
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.types import Receive, Scope, Send

from data.render import render_prompt
from inference.models.load import LoadedModel, Role
from inference.playground.line import Line, LineFullError, Ticket
from inference.playground.writing import AnswerStoppedError, Assignment, Event, Turns, write_answer
from train.generation.generate import context_tokens, question_conversation
from train.generation.settings import GenerationSettings

MAX_QUESTION_CHARACTERS = 4_000
MAX_SYSTEM_PROMPT_CHARACTERS = 12_000
MAX_ANSWER_TOKENS = 1_024
MAX_BODY_BYTES = 128 * 1024
MAX_WAITING = 8

PAGE = Path(__file__).parent / "page"
MEDIA_TYPES = {"index.html": "text/html", "style.css": "text/css", "script.js": "text/javascript"}
PAGE_HEADERS = {
    # Nothing but this server: no network, no inline script, no frame around the page.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "X-Content-Type-Options": "nosniff"}

log = logging.getLogger("uvicorn.error")


class RefusedError(Exception):
    """A request is not answered, with an HTTP status and a sentence for whoever asked."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


class Question(BaseModel):
    """A question is what the page sends. `system_prompt` None: the one the model was trained with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Role
    question: str
    system_prompt: str | None = None
    sample: bool = False
    temperature: float = Field(0.7, ge=0.01, le=5.0)
    top_p: float = Field(0.9, ge=0.01, le=1.0)
    seed: int = Field(42, ge=0, lt=2**32)
    max_new_tokens: int = Field(256, ge=1, le=MAX_ANSWER_TOKENS)

    @property
    def settings(self) -> GenerationSettings:
        """Return how the answer is to be generated."""
        return GenerationSettings(self.max_new_tokens, self.sample, self.temperature, self.top_p, self.seed)


@dataclass(frozen=True)
class Access:
    """Access is for whoever has the token; without one for this machine alone, by one of its own names."""

    token: str | None
    hosts: frozenset[str]

    def check(self, request: Request) -> None:
        """Raise RefusedError unless it may ask. The name guards against a foreign page that leads here by its own."""
        if self.token is None:
            if (request.url.hostname or "") not in self.hosts:
                raise RefusedError(403, f"This server answers as {', '.join(sorted(self.hosts))} only.")
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            raise RefusedError(401, "The access token is missing or wrong.")


class Counter:
    """The counter has the models, a line in front of each, and the threads in which they write."""

    def __init__(self, models: Sequence[LoadedModel], max_waiting: int) -> None:
        self.models = {loaded.role: loaded for loaded in models}
        self.lines = {loaded.role: Line(max_waiting) for loaded in models}
        self._turns = Turns()
        self._threads = ThreadPoolExecutor(len(models), thread_name_prefix="writing")

    def assignment(self, question: Question) -> Assignment:
        """Turn a question into work for a model (RefusedError: no such model here, or too long for it)."""
        loaded = self.models.get(question.model)
        if loaded is None:
            raise RefusedError(404, f"There is no {question.model} model here.")
        system_prompt = loaded.system_prompt if question.system_prompt is None else question.system_prompt.strip()
        conversation = question_conversation(question.question.strip(), system_prompt)
        prompt_ids = render_prompt(loaded.tokenizer, conversation)
        most_tokens = context_tokens(loaded.model)
        if len(prompt_ids) + question.max_new_tokens > most_tokens:
            raise RefusedError(
                413,
                f"The prompt has {len(prompt_ids)} tokens and the answer may have {question.max_new_tokens}: together "
                f"more than the {most_tokens} this model can see. Ask a shorter question or allow fewer tokens.",
            )
        return Assignment(loaded, prompt_ids, question.settings)

    def answering(self, assignment: Assignment) -> "Answering":
        """Take a place in the model's line (RefusedError if it is full), and return what comes of it."""
        line = self.lines[assignment.loaded.role]
        try:
            return Answering(assignment, line, line.join(), self._turns, self._threads)
        except LineFullError:
            sentence = f"{line.max_waiting} questions are waiting already. Try again in a moment."
            raise RefusedError(429, sentence) from None

    def close(self) -> None:
        """Wait for the threads; whoever asked has been told to go by now, so none has more than a token to write."""
        self._threads.shutdown()


class Answering:
    """This is one answer from its place in the line to its last word. Whoever has one must `close` it."""

    def __init__(
        self, assignment: Assignment, line: Line, ticket: Ticket, turns: Turns, threads: ThreadPoolExecutor
    ) -> None:
        self._assignment, self._line, self._ticket = assignment, line, ticket
        self._turns, self._threads = turns, threads
        self._stopped = threading.Event()
        self._writing: Future[None] | None = None

    async def events(self) -> AsyncIterator[Event]:
        """Yield the place in the line as long as there is one, then the answer."""
        async for before in self._line.places(self._ticket):
            yield {"event": "waiting", "before": before}
        loop, sent = asyncio.get_running_loop(), asyncio.Queue[Event | None]()

        def emit(event: Event | None) -> None:
            loop.call_soon_threadsafe(sent.put_nowait, event)

        self._writing = self._threads.submit(write_answer, self._assignment, self._turns, emit, self._stopped)
        # The model is free when its thread is, which may be a token later than whoever asked has gone.
        self._writing.add_done_callback(lambda _: loop.call_soon_threadsafe(self._line.leave, self._ticket))
        self._writing.add_done_callback(lambda _: emit(None))
        while (event := await sent.get()) is not None:
            yield event
        if (error := self._writing.exception()) is not None:
            yield {"event": "error", "message": failure_sentence(error)}

    def close(self) -> None:
        """Stop after the token that is being written, or leave the line."""
        self._stopped.set()
        if self._writing is None:
            self._line.leave(self._ticket)


class AnswerResponse(StreamingResponse):
    """This response is events as lines of JSON. Sent in full or not, or read by nobody, the answer is closed."""

    def __init__(self, answering: Answering) -> None:
        super().__init__(json_lines(answering.events()), media_type="application/x-ndjson", headers=STREAM_HEADERS)
        self._answering = answering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answering.close()


async def json_lines(events: AsyncIterator[Event]) -> AsyncIterator[str]:
    """Write each event as one line."""
    async for event in events:
        yield json.dumps(event, ensure_ascii=False) + "\n"


def failure_sentence(error: BaseException) -> str:
    """Say for the page why an answer broke off; the server's log has the rest."""
    if isinstance(error, AnswerStoppedError):
        return "Stopped."
    log.error("an answer failed", exc_info=error)
    if "out of memory" in str(error).lower():
        return "The model ran out of memory. Ask a shorter question or allow fewer tokens."
    return f"The answer failed ({type(error).__name__}); the server's log says more."


async def read_question(request: Request) -> Question:
    """Read what was sent (RefusedError: it is too long, or is no question)."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise RefusedError(415, "Questions come as application/json.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise RefusedError(413, f"The request is larger than {MAX_BODY_BYTES // 1024} KiB.")
    try:
        question = Question.model_validate_json(bytes(body))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise RefusedError(422, f"{field or 'The request'}: {first['msg']}.") from None
    if not question.question.strip():
        raise RefusedError(422, "There is no question.")
    bounds = {
        "question": (question.question, MAX_QUESTION_CHARACTERS),
        "system prompt": (question.system_prompt or "", MAX_SYSTEM_PROMPT_CHARACTERS),
    }
    for name, (text, max_characters) in bounds.items():
        if len(text) > max_characters:
            raise RefusedError(413, f"The {name} has {len(text):,} characters; at most {max_characters:,} are allowed.")
    return question


def info(models: Sequence[LoadedModel], questions: Sequence[str], notices: Sequence[str]) -> dict[str, Any]:
    """Return what the page shows before anything was asked."""
    return {
        "models": [
            {
                "role": loaded.role,
                "name": loaded.name,
                "base_model": loaded.base_model,
                "device": loaded.model.device.type,
                "dtype": loaded.dtype,
                "parameters": loaded.model.num_parameters(),
            }
            for loaded in models
        ],
        "system_prompt": models[0].system_prompt,
        "questions": list(questions),
        "notices": list(notices),
        "defaults": GenerationSettings().dump(),
        "limits": {
            "question_characters": MAX_QUESTION_CHARACTERS,
            "system_prompt_characters": MAX_SYSTEM_PROMPT_CHARACTERS,
            "answer_tokens": min(MAX_ANSWER_TOKENS, *(context_tokens(loaded.model) // 2 for loaded in models)),
        },
    }


def make_app(
    models: Sequence[LoadedModel],
    questions: Sequence[str],
    access: Access,
    *,
    notices: Sequence[str] = (),
    max_waiting: int = MAX_WAITING,
) -> FastAPI:
    """Make the server of one or two loaded models, of different roles."""
    counter = Counter(models, max_waiting)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        counter.close()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    allowed = Depends(access.check)

    @app.exception_handler(RefusedError)
    async def refuse(request: Request, error: RefusedError) -> JSONResponse:
        return JSONResponse({"error": error.sentence}, error.status)

    @app.get("/")
    async def page() -> Response:
        return page_file("index.html")

    @app.get("/{name}")
    async def asset(name: str) -> Response:
        if name not in MEDIA_TYPES:
            raise RefusedError(404, "There is no such page.")
        return page_file(name)

    @app.get("/api/info", dependencies=[allowed])
    async def about() -> dict[str, Any]:
        return info(models, questions, notices)

    @app.post("/api/answer", dependencies=[allowed])
    async def answer(question: Annotated[Question, Depends(read_question)]) -> AnswerResponse:
        return AnswerResponse(counter.answering(counter.assignment(question)))

    return app


def page_file(name: str) -> FileResponse:
    """Return a file of the page, with headers that let it load nothing from elsewhere."""
    return FileResponse(PAGE / name, media_type=MEDIA_TYPES[name], headers=PAGE_HEADERS)
