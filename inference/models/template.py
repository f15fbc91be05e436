"""The chat template a server or an exported file is given: the model's own, and its system prompt as the default.

Most templates say who the model is when a conversation has no system turn; SmolLM2's makes it "a helpful AI assistant
named SmolLM". A client that sends the question alone would get a prompt the tuned model never saw, and neither the
servers nor a GGUF file have another place for a default.
"""

import json

CHAT_TEMPLATE = "chat_template.jinja"

_PRELUDE = (
    "{{%- if not messages or messages[0]['role'] != 'system' %}}"
    "{{%- set messages = [{{'role': 'system', 'content': {prompt}}}] + messages %}}"
    "{{%- endif %}}{{{{ '' }}}}"  # the empty expression keeps a newline that trim_blocks would take
)


def with_default_system_prompt(template: str, system_prompt: str) -> str:
    """The template, with `system_prompt` as first turn of every conversation that brings no system turn itself.

    >>> import jinja2
    >>> template = with_default_system_prompt("{% for m in messages %}[{{ m['content'] }}]{% endfor %}", 'Be "brief".')
    >>> ask = jinja2.Template(template).render
    >>> ask(messages=[{"role": "user", "content": "Why?"}])
    '[Be "brief".][Why?]'
    >>> ask(messages=[{"role": "system", "content": "Be long."}, {"role": "user", "content": "Why?"}])
    '[Be long.][Why?]'
    """
    return _PRELUDE.format(prompt=json.dumps(system_prompt, ensure_ascii=False)) + template
