"""Secrets never reach a log, a failure record or a termination message: they are blotted out. No torch here."""

import os
import re
from collections.abc import Mapping

BLOT = "***"
SHORTEST_SECRET_CHARS = 6
"""What is shorter is a word or a switch that texts hold anyway."""

_NAME_OF_SECRET = re.compile(r"token|secret|password|passwd|credential|api_?key|access_?key", re.IGNORECASE)
_NOT_SECRET = re.compile(r"parallelism|path|file|dir$|max_|num_", re.IGNORECASE)
_SHAPES = (
    re.compile(r"\bhf_[A-Za-z0-9]{16,}"),  # the hub's
    re.compile(r"\bsk-[A-Za-z0-9_-]{16,}"),
    re.compile(r"\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*"),  # service accounts
    re.compile(r"(?<=Bearer )[^\s'\",]+", re.IGNORECASE),
    re.compile(r"(?<=://)[^\s/]+(?=@)"),  # user, password or token in an address
)


def masked(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """The text without what looks like a secret, and without the values of variables that are named like one.

    >>> masked("401 for Bearer abc123 at https://me:pw@host/x", {})
    '401 for Bearer *** at https://***@host/x'
    >>> masked("no answer from https://my-token@host/x", {})
    'no answer from https://***@host/x'
    >>> masked("the token my-own-token is not known", {"HF_TOKEN": "my-own-token"})
    'the token *** is not known'
    """
    for name, value in environment.items():
        if is_secret(name) and len(value) >= SHORTEST_SECRET_CHARS:
            text = text.replace(value, BLOT)
    for shape in _SHAPES:
        text = shape.sub(BLOT, text)
    return text


def is_secret(name: str) -> bool:
    """Whether a variable or setting of that name holds a secret.

    >>> is_secret("HF_TOKEN"), is_secret("TOKENIZERS_PARALLELISM"), is_secret("max_length_tokens")
    (True, False, False)
    """
    return bool(_NAME_OF_SECRET.search(name)) and not _NOT_SECRET.search(name)
