"""An Ollama Modelfile for an exported GGUF file: where the weights are, how a conversation is written, when to stop.

Ollama has a template language of its own (Go's), so the model's Jinja template cannot be copied. It is rendered once,
with marks in place of the messages; what stands between the marks is what Ollama has to write there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Render = Callable[[Sequence[dict[str, str]]], str]
"""A conversation as the text the model sees, generation prompt included."""

_MARKS = {role: f"\x02{role}\x03" for role in ("system", "first", "reply", "second")}


@dataclass(frozen=True)
class TurnTexts:
    """These texts stand before each kind of message; before the first, what ends the turn before it is included."""

    system: str
    user: str
    assistant: str
    generation: str

    def go_template(self) -> str:
        """Write the same for Ollama, in Go's template language."""
        return (
            "{{ range .Messages }}"
            f'{{{{ if eq .Role "system" }}}}{self.system}{{{{ .Content }}}}'
            f'{{{{ else if eq .Role "user" }}}}{self.user}{{{{ .Content }}}}'
            f'{{{{ else if eq .Role "assistant" }}}}{self.assistant}{{{{ .Content }}}}'
            f"{{{{ end }}}}{{{{ end }}}}{self.generation}"
        )


def turn_texts(render: Render) -> TurnTexts | None:
    """Return the texts between messages; None where the template is more than texts between messages.

    That is: the text before a user's turn depends on what came before, messages are changed or repeated, or the texts
    cannot be written into a Modelfile.
    """
    roles = {"system": "system", "first": "user", "reply": "assistant", "second": "user"}
    rendered = render([{"role": role, "content": _MARKS[mark]} for mark, role in roles.items()])
    pieces, rest = [], rendered
    for mark in _MARKS.values():
        before, found, rest = rest.partition(mark)
        if not found:
            return None
        pieces.append(before)
    system, first, reply, second = pieces
    texts = TurnTexts(system, first, reply, rest)
    whole = "".join([*pieces, rest])
    is_plain = first == second and not any(sign in whole for sign in ("\x02", "{{", "}}", '"""'))
    return texts if is_plain else None


def modelfile(file_name: str, texts: TurnTexts | None, system_prompt: str, stop: Sequence[str]) -> str:
    """Write the Modelfile that lies beside `file_name`. Answers are greedy, as they were compared."""
    template = (
        [f'TEMPLATE """{texts.go_template()}"""']
        if texts is not None
        else ["# No TEMPLATE: the chat template says more than a Modelfile can; Ollama reads it from the GGUF file."]
    )
    lines = [
        f"# ollama create NAME -f {file_name}.Modelfile",
        f"FROM ./{file_name}",
        *template,
        f'SYSTEM """{system_prompt}"""',
        "PARAMETER temperature 0",
        *(f'PARAMETER stop "{text}"' for text in stop),
    ]
    return "\n".join(lines) + "\n"
