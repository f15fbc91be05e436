"""Which tokenizer and which chat template: load it, freeze it.

A chat template is a program. SmolLM3's writes today's date and a reasoning mode into every system turn, so the same
conversation gives different token ids tomorrow, and different ids again in a server that sets other variables. Here
the template's text is rewritten once, with the date and the variables as literals. The frozen text is what
training uses, what `best_model/chat_template.jinja` holds and what every reader of that folder will run.
"""

import datetime
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from data.files import made_once
from data.model_files import EMBEDDED_MODEL, found_at, gguf_cache_dir, gguf_file_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_TEMPLATE_DATE = datetime.date(2025, 7, 1)
DEFAULT_TEMPLATE_VARIABLES: Mapping[str, bool | str] = {"enable_thinking": False}

_CLOCK_CALL = re.compile(r"""strftime_now\(\s*(["'])(?P<format>.*?)\1\s*\)""")


class TemplateError(ValueError):
    """The model's chat template cannot be used for training; the message says why."""


def freeze_chat_template(template: str, date: datetime.date, variables: Mapping[str, bool | str]) -> str:
    """Return the template with its clock stopped at `date` and `variables` set, whatever its caller passes.

    >>> freeze_chat_template('{{ strftime_now("%d %B %Y") }}', datetime.date(2025, 7, 1), {})
    '{{ "01 July 2025" }}'
    >>> freeze_chat_template("{{ enable_thinking }}", datetime.date(2025, 7, 1), {"enable_thinking": False})
    "{%- set enable_thinking = false %}{{ '' }}{{ enable_thinking }}"
    """
    frozen = _CLOCK_CALL.sub(lambda call: f'"{date.strftime(call["format"])}"', template)
    frozen = frozen.replace("strftime_now is defined", "true")
    if "strftime_now" in frozen:
        raise TemplateError("the chat template reads the clock in a way that cannot be frozen (strftime_now)")
    # The empty expression keeps the newline that Jinja's trim_blocks would remove after the last `set`.
    sets = "".join(
        f"{{%- set {name} = {_jinja_literal(value)} %}}"
        for name, value in sorted(variables.items())
        if re.search(rf"\b{re.escape(name)}\b", frozen)
    )
    return f"{sets}{{{{ '' }}}}{frozen}" if sets else frozen


def _jinja_literal(value: bool | str) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def load_chat_tokenizer(
    name: str = EMBEDDED_MODEL,
    date: datetime.date | None = None,
    variables: Mapping[str, bool | str] | None = None,
    revision: str | None = None,
) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a model (`embedded`, GGUF file, folder or hub id) with its chat template frozen.

    Raises:
        TemplateError: the model has no chat template, or one whose clock cannot be stopped.
        OSError: no such model, here or on the hub; its tokenizer is missing or damaged.
    """
    tokenizer = _load_tokenizer(name, revision)
    if not isinstance(tokenizer.chat_template, str):
        raise TemplateError(f"{name} has no single chat template; fine-tune a chat (instruct) model")
    tokenizer.chat_template = freeze_chat_template(
        tokenizer.chat_template,
        DEFAULT_TEMPLATE_DATE if date is None else date,
        DEFAULT_TEMPLATE_VARIABLES if variables is None else variables,
    )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _load_tokenizer(name: str, revision: str | None) -> "PreTrainedTokenizerBase":
    gguf_file = gguf_file_of(name)
    try:
        return _tokenizer_at(found_at(name, revision), revision) if gguf_file is None else _tokenizer_in(gguf_file)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # ValueError, KeyError, or what tokenizers raises: damaged files lead anywhere
        raise OSError(f"its tokenizer cannot be read ({type(error).__name__}: {error})") from error


def _tokenizer_at(place: str, revision: str | None) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(place, revision=revision)
    except (OSError, ValueError) as error:  # of a folder, transformers' words are about the hub, or a list of no files
        if Path(place).is_dir() and not Path(place, "tokenizer.json").is_file():
            reason = "the folder holds no tokenizer.json, nor another tokenizer that can be read"
            raise FileNotFoundError(reason) from error
        raise


def _tokenizer_in(gguf_file: Path) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    cached = gguf_cache_dir(gguf_file) / "tokenizer"
    if not (cached / "tokenizer_config.json").is_file():
        made_once(cached, lambda folder: _convert_gguf_tokenizer(gguf_file, folder))
    return AutoTokenizer.from_pretrained(cached)


def _convert_gguf_tokenizer(gguf_file: Path, folder: Path) -> None:
    from transformers import AutoTokenizer

    # It takes 5 s, so it is done once for a file.
    AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name).save_pretrained(folder)
