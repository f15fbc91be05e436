"""The chat template a server or an exported file is given: the model's own, and its system prompt as the default.

Most templates say who the model is when a conversation has no system turn; SmolLM2's makes it "a helpful AI assistant
named SmolLM". A client that sends the question alone would get a prompt the tuned model never saw, and neither the
servers nor a GGUF file have another place for a default.
"""

import json
from pathlib import Path

from train.failure import ModelError

CHAT_TEMPLATE = "chat_template.jinja"

_PRELUDE = (
    "{{%- if not messages or messages[0]['role'] != 'system' %}}"
    "{{%- set messages = [{{'role': 'system', 'content': {prompt}}}] + messages %}}"
    "{{%- endif %}}{{{{ '' }}}}"  # the empty expression keeps a newline that trim_blocks would take
)


def with_default_system_prompt(template: str, system_prompt: str) -> str:
    """Return the template with `system_prompt` as first turn of conversations that bring no system turn themselves.

    >>> import jinja2
    >>> template = with_default_system_prompt("{% for m in messages %}[{{ m['content'] }}]{% endfor %}", 'Be "brief".')
    >>> ask = jinja2.Template(template).render
    >>> ask(messages=[{"role": "user", "content": "Why?"}])
    '[Be "brief".][Why?]'
    >>> ask(messages=[{"role": "system", "content": "Be long."}, {"role": "user", "content": "Why?"}])
    '[Be long.][Why?]'
    """
    return _PRELUDE.format(prompt=json.dumps(system_prompt, ensure_ascii=False)) + template


def gguf_template(file: Path, system_prompt: str) -> str:
    """Return the template inside a GGUF file with another default system prompt (ModelError if it has none)."""
    from gguf import GGUFReader

    try:
        field = GGUFReader(file).fields.get("tokenizer.chat_template")
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise ModelError(f"{file} cannot be read: {error}", "Is it a complete GGUF file?") from error
    if field is None:
        raise ModelError(f"{file} has no chat template", "Serve an instruct model.")
    return with_default_system_prompt(str(field.contents()), system_prompt)
