"""What one row of a data set is, and every check it must pass.

Standard library only: code without pyarrow or torch (deploy/) imports this file.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SCHEMA_VERSION = 1
QUESTION_COLUMN = "full-question"
ANSWER_COLUMN = "answer"
TOPIC_COLUMN = "topic"
MESSAGES_COLUMN = "messages"

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_TOPIC_PREFIX = re.compile(r"For ([A-Z][^,]*), (.+)", re.DOTALL)


class DataError(ValueError):
    """Data that cannot be used raises this: it says where, what is wrong and what to do. Programs exit with code 3.

    >>> str(DataError("is empty", source="rows.jsonl", line=17, field="answer", remedy="Fill it in."))
    "rows.jsonl:17: field 'answer': is empty. Fill it in."
    """

    def __init__(
        self,
        problem: str,
        *,
        source: str | None = None,
        line: int | None = None,
        field: str | None = None,
        remedy: str | None = None,
        reason: str = "unusable",
    ) -> None:
        """`reason` is the short name under which dropped rows are counted, such as `empty_field`."""
        super().__init__(problem)
        self.problem, self.remedy, self.reason = problem, remedy, reason
        self.source, self.line, self.field = source, line, field

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.source, self.line) if part is not None)
        field = f"field '{self.field}'" if self.field else ""
        said = ": ".join(part for part in (place, field, self.problem) if part)
        return f"{said}. {self.remedy}" if self.remedy else said


@dataclass(frozen=True, slots=True)
class Message:
    """A message is one turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """An example is one row of a data set. `messages` is filled for chat rows only.

    `question` is the whole question: "For [topic], [question]" where topic and question came in two fields.
    For a chat, `question` is its first user turn and `answer` its last assistant turn.
    """

    question: str
    answer: str
    topic: str | None = None
    messages: tuple[Message, ...] = ()

    def conversation(self, system_prompt: str | None) -> list[dict[str, str]]:
        """Return the chat messages of this row. A chat's own system message wins over `system_prompt`.

        >>> Example("Why?", "Because.").conversation("Be brief.")  # doctest: +NORMALIZE_WHITESPACE
        [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'Why?'},
         {'role': 'assistant', 'content': 'Because.'}]
        """
        turns = self.messages or (Message("user", self.question), Message("assistant", self.answer))
        if system_prompt is not None and turns[0].role != "system":
            turns = (Message("system", system_prompt), *turns)
        return [{"role": turn.role, "content": turn.content} for turn in turns]


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """A column map says under which names a source keeps its fields."""

    question: str = "question"
    answer: str = ANSWER_COLUMN
    topic: str = TOPIC_COLUMN
    full_question: str = QUESTION_COLUMN
    messages: str = MESSAGES_COLUMN
    prompt: str = "prompt"
    completion: str = "completion"


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits say how large one row may be: characters of question and answer, or of all messages. None: no limit."""

    max_row_chars: int | None = 20_000


DEFAULT_COLUMNS = ColumnMap()
DEFAULT_LIMITS = Limits()


def parse_row(
    raw: Mapping[str, object],
    *,
    source: str,
    line: int,
    columns: ColumnMap = DEFAULT_COLUMNS,
    limits: Limits = DEFAULT_LIMITS,
) -> Example:
    """Turn one raw row into an Example; raises DataError naming source, line and field.

    The fields of a row decide its form, in this order: `messages`; `full-question` and `answer`; `question`
    and `answer`; `prompt` and `completion`; each with an optional `topic`. Outer white space is removed.

    >>> parse_row({"topic": "Knots", "question": "Why?", "answer": "Grip."}, source="rows.jsonl", line=1)
    Example(question='For Knots, Why?', answer='Grip.', topic='Knots', messages=())
    """
    try:
        example = _read_example(raw, columns)
        _check_length(example, limits)
    except DataError as error:
        error.source, error.line = source, line
        raise
    return example


def topic_of(example: Example) -> str | None:
    """Return the topic of a row; for a row without one, the X of "For X, ...".

    >>> topic_of(Example("For Knots, Why?", "Grip."))
    'Knots'
    """
    return example.topic or _split_prefix(example.question)[0]


def bare_question(example: Example) -> str:
    """Return the question without "For [topic], ".

    >>> bare_question(Example("For Knots, Why?", "Grip."))
    'Why?'
    """
    if example.topic is not None:
        return example.question.removeprefix(f"For {example.topic}, ")
    return _split_prefix(example.question)[1]


def _split_prefix(question: str) -> tuple[str | None, str]:
    match = _TOPIC_PREFIX.fullmatch(question)
    return (match[1], match[2]) if match else (None, question)


def _read_example(raw: Mapping[str, object], columns: ColumnMap) -> Example:
    def has(name: str) -> bool:
        return raw.get(name) is not None

    topic = _read_topic(raw, columns.topic)
    if has(columns.messages):
        return _read_chat(raw[columns.messages], columns.messages, topic)
    if has(columns.full_question):
        return Example(_text(raw, columns.full_question), _text(raw, columns.answer), topic)
    if has(columns.prompt) and not has(columns.question):
        return Example(_text(raw, columns.prompt), _text(raw, columns.completion), topic)
    question = _text(raw, columns.question)
    full_question = f"For {topic}, {question}" if topic else question
    return Example(full_question, _text(raw, columns.answer), topic)


def _text(raw: Mapping[str, object], field: str) -> str:
    if raw.get(field) is None:
        found = ", ".join(sorted(str(name) for name in raw)) or "none"
        raise DataError(
            f"is missing (this row's fields: {found})",
            field=field,
            remedy="Name your columns with --columns question=...,answer=... or add the field.",
            reason="missing_field",
        )
    return _checked_text(raw[field], field).strip()


def _checked_text(value: object, field: str) -> str:
    """`value` as it is, if it is text that a tokenizer and Parquet can take; DataError otherwise."""
    if not isinstance(value, str):
        raise DataError(
            f"is {type(value).__name__}, not a string",
            field=field,
            remedy="Write it as text.",
            reason="not_a_string",
        )
    if not value.strip():
        remedy = f"Give every row its {field}, or pass --on-error drop."
        raise DataError("is empty", field=field, remedy=remedy, reason="empty_field")
    if "\0" in value:
        raise DataError("contains a NUL character", field=field, remedy="Remove it.", reason="nul_character")
    if _LONE_SURROGATE.search(value):
        remedy = "Save the file as UTF-8; in JSON, write \\u surrogates in pairs."
        raise DataError("is not valid Unicode", field=field, remedy=remedy, reason="invalid_unicode")
    return value


def _read_topic(raw: Mapping[str, object], field: str) -> str | None:
    topic = raw.get(field)
    if topic is None or (isinstance(topic, str) and not topic.strip()):
        return None
    return _checked_text(topic, field).strip()


def _read_chat(raw_messages: object, field: str, topic: str | None) -> Example:
    if not isinstance(raw_messages, Sequence) or isinstance(raw_messages, str):
        kind = type(raw_messages).__name__
        remedy = 'Write [{"role": ..., "content": ...}, ...].'
        raise DataError(f"is {kind}, not a list of messages", field=field, remedy=remedy, reason="not_a_list")
    messages = tuple(_read_message(raw, f"{field}[{index}]") for index, raw in enumerate(raw_messages))
    _check_roles(messages, field)
    first_user = next(message.content for message in messages if message.role == "user")
    return Example(first_user.strip(), messages[-1].content.strip(), topic, messages)


def _read_message(raw: object, field: str) -> Message:
    if not isinstance(raw, Mapping):
        raise DataError(
            f"is {type(raw).__name__}, not a message",
            field=field,
            remedy='Write {"role": ..., "content": ...}.',
            reason="not_a_message",
        )
    for name in ("role", "content"):
        if raw.get(name) is None:
            raise DataError("is missing", field=f"{field}.{name}", remedy="Add it.", reason="missing_field")
    role = _checked_text(raw["role"], f"{field}.role")
    return Message(role, _checked_text(raw["content"], f"{field}.content"))


def _check_roles(messages: Sequence[Message], field: str) -> None:
    """An optional system message, then user and assistant in turn, the last one by the assistant.

    >>> _check_roles([Message("user", "Why?")], "messages")
    Traceback (most recent call last):
    data.schema.DataError: field 'messages': ends with 'user'. End it with the assistant's answer.
    """
    roles = [message.role for message in messages]
    start = 1 if roles[:1] == ["system"] else 0
    for index, role in enumerate(roles[start:], start):
        expected = ("user", "assistant")[(index - start) % 2]
        if role != expected:
            raise DataError(
                f"has role '{role}' where '{expected}' is due",
                field=f"{field}[{index}].role",
                remedy="Order the turns: system (optional), then user and assistant in turn.",
                reason="wrong_roles",
            )
    if roles[-1:] != ["assistant"]:
        ending = f"ends with '{roles[-1]}'" if roles else "has no messages"
        remedy = "End it with the assistant's answer."
        raise DataError(ending, field=field, remedy=remedy, reason="wrong_roles")


def _check_length(example: Example, limits: Limits) -> None:
    parts = [message.content for message in example.messages] or [example.question, example.answer]
    num_chars = sum(map(len, parts))
    if limits.max_row_chars is not None and num_chars > limits.max_row_chars:
        raise DataError(
            f"is {num_chars} characters long, more than {limits.max_row_chars}",
            field=None,
            remedy="Shorten the row, raise --max-chars, or pass --on-error drop.",
            reason="too_long",
        )
