"""A tokenizer is found and its template frozen: neither the clock nor the caller changes what it renders."""

import datetime

import pytest

from data.tokenizer import TemplateError, freeze_chat_template, load_chat_tokenizer
from tests.data.templates import CONVERSATION, SMOLLM3_STYLE


def test_the_clock_and_the_caller_cannot_change_a_frozen_template():
    tokenizer = load_chat_tokenizer()
    tokenizer.chat_template = freeze_chat_template(SMOLLM3_STYLE, datetime.date(2025, 7, 1), {"enable_thinking": False})
    text = tokenizer.apply_chat_template(CONVERSATION[:2], tokenize=False, enable_thinking=True)
    assert "Today Date: 01 July 2025\nReasoning Mode: /no_think" in text


def test_a_clock_that_cannot_be_frozen_is_refused():
    with pytest.raises(TemplateError, match="cannot be frozen"):
        freeze_chat_template("{% set f = '%Y' %}{{ strftime_now(f) }}", datetime.date(2025, 7, 1), {})


def test_a_tokenizer_pads_with_something():
    tokenizer = load_chat_tokenizer()
    assert tokenizer.pad_token_id is not None
    assert tokenizer.chat_template == freeze_chat_template(tokenizer.chat_template, datetime.date(2025, 7, 1), {})


def test_a_model_without_a_template_is_refused(tmp_path):
    tokenizer = load_chat_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(TemplateError, match="no single chat template"):
        load_chat_tokenizer(str(tmp_path))


def test_a_folder_without_a_tokenizer_is_told_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the folder holds no tokenizer\.json"):
        load_chat_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(OSError, match="its tokenizer cannot be read"):
        load_chat_tokenizer(str(tmp_path))
