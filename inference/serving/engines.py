"""Which server answers for a model, and may it? No torch here."""

import enum
import importlib.util
from pathlib import Path

from inference.serving.server import missing_packages
from train.failure import ConfigError, ModelError


class Engine(enum.StrEnum):
    """These servers exist; `auto` means the best of them for a model."""

    auto = "auto"
    transformers = "transformers"
    vllm = "vllm"
    llama_cpp = "llama.cpp"


def choose_engine(wanted: Engine, target: Path) -> Engine:
    """Choose the server for a model (ConfigError: the one that was named cannot serve it; ModelError: no such file)."""
    is_gguf = target.suffix == ".gguf"
    if is_gguf and not target.is_file():
        raise ModelError(f"there is no file {target}", "Make one with: python -m inference.export.")
    if wanted is Engine.auto:
        if is_gguf:
            return Engine.llama_cpp
        return Engine.vllm if importlib.util.find_spec("vllm") else Engine.transformers
    if is_gguf != (wanted is Engine.llama_cpp):
        kind = "a .gguf file" if is_gguf else "a model folder"
        remedy = "Leave --engine out." if is_gguf else "Export a .gguf first: python -m inference.export."
        raise ConfigError(f"{wanted} does not serve {kind} here", remedy)
    return wanted


def check_engine(engine: Engine, api_key: str | None) -> None:
    """Raise ConfigError where the server is not installed, or would let everyone in."""
    packages = {
        Engine.transformers: ("fastapi", "uvicorn", "openai"),
        Engine.vllm: ("vllm",),
        Engine.llama_cpp: ("xllamacpp",),
    }
    missing_packages(packages[engine], extra="serve")
    if engine is Engine.transformers and api_key is not None:
        raise ConfigError(
            "transformers serve checks no key", "Serve on 127.0.0.1 without one, or with --engine vllm or a .gguf file."
        )
