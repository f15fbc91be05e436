"""The Modelfile writes conversations as the chat template does, or leaves the template to Ollama."""

from collections.abc import Sequence

import pytest
from jinja2 import Environment

from data.tokenizer import load_chat_tokenizer
from inference.gguf.modelfile import TurnTexts, modelfile, turn_texts

CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Is water wet?"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Is ice?"},
]


def renderer(template: str):
    compiled = Environment().from_string(template)
    return lambda messages: compiled.render(messages=messages, add_generation_prompt=True)


def as_ollama_writes(texts: TurnTexts, conversation: Sequence[dict[str, str]]) -> str:
    before = {"system": texts.system, "user": texts.user, "assistant": texts.assistant}
    return "".join(before[message["role"]] + message["content"] for message in conversation) + texts.generation


def test_embedded_models_template():
    tokenizer = load_chat_tokenizer()

    def render(conversation):
        return tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)

    texts = turn_texts(render)
    assert texts is not None
    for length in (2, 4):
        assert as_ollama_writes(texts, CONVERSATION[:length]) == render(CONVERSATION[:length])
    text = modelfile("a.gguf", texts, "Be brief.", ["<|im_end|>"])
    assert '{{ if eq .Role "system" }}<|im_start|>system\n{{ .Content }}' in text
    assert text.endswith('SYSTEM """Be brief."""\nPARAMETER temperature 0\nPARAMETER stop "<|im_end|>"\n')


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0].content }}{{ messages[1].content }}",  # drops messages
        "{% for m in messages %}[{{ loop.index }}]{{ m.content }}{% endfor %}",  # counts turns
        "{% for m in messages %}|{{ m.content }}{{ m.content }}{% endfor %}",  # says things twice
        "{% for m in messages %}{{ '{{' }}{{ m.content }}{% endfor %}",  # cannot be written in Go's language
    ],
)
def test_templates_that_are_more_than_texts_between_messages(template):
    assert turn_texts(renderer(template)) is None
    assert 'TEMPLATE """' not in modelfile("a.gguf", None, "Be brief.", [])
