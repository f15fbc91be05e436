import sys
from subprocess import run

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.schema import ColumnMap, DataError, Example, Limits, Message, bare_question, parse_row, topic_of

USER = {"role": "user", "content": "Why tie a knot?"}
ASSISTANT = {"role": "assistant", "content": "To hold."}
SYSTEM = {"role": "system", "content": "Be brief."}


def parse(raw, **options):
    return parse_row(raw, source="rows.jsonl", line=17, **options)


def test_schema_imports_nothing_but_the_standard_library():
    code = "import sys, data.schema; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = set(run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert not loaded & {"pyarrow", "numpy", "torch", "transformers", "rich", "typer"}


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"question": "Why?", "answer": "So."}, Example("Why?", "So.")),
        ({"topic": "Knots", "question": "Why?", "answer": "So."}, Example("For Knots, Why?", "So.", "Knots")),
        ({"topic": " ", "question": "Why?", "answer": " So.\n"}, Example("Why?", "So.")),
        ({"full-question": "For Knots, Why?", "answer": "So."}, Example("For Knots, Why?", "So.")),
        (
            {"full-question": "For Knots, Why?", "answer": "So.", "topic": "Knots", "messages": None},
            Example("For Knots, Why?", "So.", "Knots"),
        ),
        ({"prompt": "Why?", "completion": "So."}, Example("Why?", "So.")),
        (
            {"messages": [USER, ASSISTANT]},
            Example("Why tie a knot?", "To hold.", None, (Message(**USER), Message(**ASSISTANT))),
        ),
    ],
)
def test_every_form_of_row(raw, expected):
    assert parse(raw) == expected


def test_chat_takes_first_question_and_last_answer():
    chat = parse({"messages": [SYSTEM, USER, ASSISTANT, {**USER, "content": "More?"}, {**ASSISTANT, "content": "No."}]})
    assert (chat.question, chat.answer, len(chat.messages)) == ("Why tie a knot?", "No.", 5)


def test_columns_can_be_mapped():
    columns = ColumnMap(question="q", answer="a", topic="t")
    assert parse({"q": "Why?", "a": "So.", "t": "Knots"}, columns=columns).question == "For Knots, Why?"


@pytest.mark.parametrize(
    ("raw", "field", "reason"),
    [
        ({"question": "Why?"}, "answer", "missing_field"),
        ({"answer": "So."}, "question", "missing_field"),
        ({"question": "Why?", "answer": " \n"}, "answer", "empty_field"),
        ({"question": 5, "answer": "So."}, "question", "not_a_string"),
        ({"topic": 5, "question": "Why?", "answer": "So."}, "topic", "not_a_string"),
        ({"question": "W\0hy?", "answer": "So."}, "question", "nul_character"),
        ({"question": "Why?", "answer": "\ud800"}, "answer", "invalid_unicode"),
        ({"prompt": "Why?"}, "completion", "missing_field"),
        ({"messages": "hi"}, "messages", "not_a_list"),
        ({"messages": []}, "messages", "wrong_roles"),
        ({"messages": [SYSTEM]}, "messages", "wrong_roles"),
        ({"messages": [USER]}, "messages", "wrong_roles"),
        ({"messages": [ASSISTANT]}, "messages[0].role", "wrong_roles"),
        ({"messages": [USER, SYSTEM]}, "messages[1].role", "wrong_roles"),
        ({"messages": [USER, USER, ASSISTANT]}, "messages[1].role", "wrong_roles"),
        ({"messages": [USER, {**ASSISTANT, "content": ""}]}, "messages[1].content", "empty_field"),
        ({"messages": [USER, {"role": "assistant"}]}, "messages[1].content", "missing_field"),
        ({"messages": [USER, "So."]}, "messages[1]", "not_a_message"),
    ],
)
def test_bad_rows_name_place_field_and_reason(raw, field, reason):
    with pytest.raises(DataError) as caught:
        parse(raw)
    error = caught.value
    assert (error.source, error.line, error.field, error.reason) == ("rows.jsonl", 17, field, reason)
    assert str(error).startswith(f"rows.jsonl:17: field '{field}': ")
    assert error.remedy


def test_row_length_is_limited():
    raw = {"question": "1234", "answer": "567890"}
    assert parse(raw, limits=Limits(max_row_chars=10))
    with pytest.raises(DataError, match="is 10 characters long, more than 9"):
        parse(raw, limits=Limits(max_row_chars=9))


def test_a_chats_own_system_message_wins():
    own = parse({"messages": [SYSTEM, USER, ASSISTANT]})
    assert own.conversation("Be long.") == [SYSTEM, USER, ASSISTANT]
    without = parse({"messages": [USER, ASSISTANT]})
    assert without.conversation("Be long.")[0] == {"role": "system", "content": "Be long."}
    assert without.conversation(None) == [USER, ASSISTANT]


@pytest.mark.parametrize(
    ("example", "topic", "question"),
    [
        (Example("For Knots, Why?", "So.", "Knots"), "Knots", "Why?"),
        (Example("For Knots, Tarps, Why?", "So.", "Knots, Tarps"), "Knots, Tarps", "Why?"),
        (Example("For Knots, Why?", "So."), "Knots", "Why?"),
        (Example("For how long, exactly, do I boil it?", "So."), None, "For how long, exactly, do I boil it?"),
        (Example("Why?", "So."), None, "Why?"),
    ],
)
def test_topic_and_bare_question(example, topic, question):
    assert (topic_of(example), bare_question(example)) == (topic, question)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["role", "content", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = st.sampled_from(["topic", "question", "answer", "full-question", "messages", "prompt", "completion"])


@given(st.dictionaries(FIELDS, JSON_VALUES))
def test_any_row_parses_or_raises_data_error(raw):
    try:
        example = parse(raw)
    except DataError:
        return
    assert example.question.strip()
    assert example.answer.strip()
    assert example.conversation("Be brief.")[-1]["role"] == "assistant"
