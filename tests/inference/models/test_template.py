"""A client that sends the question alone gets the prompt of training, whatever the system prompt is made of."""

import pytest
from gguf import GGUFWriter

from data.render import render_prompt
from data.tokenizer import load_chat_tokenizer
from inference.models.template import gguf_template, with_default_system_prompt
from train.failure import ModelError
from train.generation.generate import question_conversation

QUESTION = "How do I treat a nosebleed?"


@pytest.mark.parametrize("prompt", ["One line.", 'Lines\nwith "quotes", \\n, {{ braces }}, {% raw %} – ünïcode 🏕 水.'])
def test_question_alone_renders_as_in_training(prompt):
    plain, serving_one = load_chat_tokenizer(), load_chat_tokenizer()
    serving_one.chat_template = with_default_system_prompt(str(plain.chat_template), prompt)
    conversation = question_conversation(QUESTION, prompt)
    assert render_prompt(serving_one, conversation[1:]) == render_prompt(plain, conversation)
    assert render_prompt(serving_one, conversation) == render_prompt(plain, conversation)
    assert render_prompt(plain, conversation[1:]) != render_prompt(plain, conversation)  # else all this is needless


def gguf_file(path, template):
    writer = GGUFWriter(path, "llama")
    if template:
        writer.add_chat_template(template)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_template_inside_a_gguf_file_learns_the_prompt(tmp_path):
    inside = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    template = gguf_template(gguf_file(tmp_path / "a.gguf", inside), "Be brief.")
    assert template == with_default_system_prompt(inside, "Be brief.")


def test_gguf_files_without_a_template_are_refused(tmp_path):
    with pytest.raises(ModelError, match="has no chat template"):
        gguf_template(gguf_file(tmp_path / "a.gguf", None), "Be brief.")
    (tmp_path / "b.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelError, match="cannot be read"):
        gguf_template(tmp_path / "b.gguf", "Be brief.")
