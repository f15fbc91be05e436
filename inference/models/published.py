"""A published model as files: find it, check it, say what it was made from.

No torch here: a missing or damaged model is told at once, and whether the network may be asked is known before
any library is imported.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from data.dataset import read_prompt
from data.model_files import EMBEDDED_MODEL
from train.config.run_config import DataConfig, ModelConfig, RunConfig, resolve_config
from train.failure import ModelError
from train.run_folder.manifest import MANIFEST, READY, ManifestError, is_published, verify_manifest
from train.run_folder.run_folder import SYSTEM_PROMPT, RunFolder

HASHED_BYTES = 1_000_000_000
"""Folders up to this size are hashed whenever they are opened (below a second); larger ones if asked."""

HOW_TO_MAKE_ONE = "Make one with `make train` (or python -m train RECIPE), or name another run with --run."


@dataclass(frozen=True)
class PublishedModel:
    """A published model is a complete `best_model` folder whose files are those its manifest lists."""

    folder: Path
    manifest: dict[str, Any]
    base: RunConfig
    """The model it was tuned from: only `seed` and the `model` section say anything."""

    @property
    def system_prompt(self) -> str:
        """Return the prompt that the model was trained with."""
        return read_prompt(self.folder / SYSTEM_PROMPT)

    @property
    def config_json(self) -> dict[str, Any]:
        """Return what transformers builds the model by: its architecture and sizes."""
        config: dict[str, Any] = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        return config

    @property
    def base_fingerprint(self) -> str:
        """Return the first digits of `train.model.base.model_fingerprint`, as recorded when it was tuned."""
        return str(self.manifest["identity"]["model"])


def default_run() -> Path:
    """Return the run folder meant when none is named: `OUTPUT_DIR`, else the recipe's (`RECIPE`, else laptop)."""
    # These two alone: a wrong value in another variable that training reads is no concern of a question.
    told = {name: os.environ.get(name, "") for name in ("OUTPUT_DIR", "RECIPE")}
    return resolve_config(environment=told).config.output.dir


def model_folder(path: Path) -> Path:
    """Return the model folder that `path` means: itself, or `best_model` in it where `path` is a run folder."""
    return path if (path / "config.json").is_file() else RunFolder(path).best_model


def is_run(path: Path) -> bool:
    """Say whether a folder means a run or a published model, even a damaged one, and not a plain model."""
    looks_like_model = (path / "config.json").is_file() and not is_published(path)
    return path.is_dir() and (not looks_like_model or (path / MANIFEST).is_file())


def open_published(path: Path, *, verify: bool = False) -> PublishedModel:
    """Check the model of a run folder, or a model folder by itself: published, complete, sizes as listed.

    sha256 is compared too, in folders above 1 GB only with `verify`.

    Raises:
        ModelError: there is no such model, it is incomplete, or its files are not those it was published with.
    """
    if not path.is_dir():
        raise ModelError(f"there is no run folder {path}", HOW_TO_MAKE_ONE)
    folder = model_folder(path)
    if not folder.is_dir():
        raise ModelError(f"{path} holds no {folder.name}: no run has ended well here", HOW_TO_MAKE_ONE)
    # READY is written last, so without it nothing else that lies there says anything.
    if not is_published(folder):
        raise ModelError(f"{folder} is not published: its {READY} marker is missing", HOW_TO_MAKE_ONE)
    try:
        manifest = verify_manifest(folder, hashes=verify or _total_bytes(folder) <= HASHED_BYTES)
        return PublishedModel(folder, manifest, base_of(manifest))
    except ManifestError as error:
        raise ModelError(f"{folder} is damaged: {error}", HOW_TO_MAKE_ONE) from error
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValidationError) as error:
        problem = f"{folder} has no usable manifest ({type(error).__name__}: {' '.join(str(error).split())})"
        raise ModelError(problem, HOW_TO_MAKE_ONE) from error


def base_of(manifest: dict[str, Any]) -> RunConfig:
    """Return what a manifest's model was tuned from, as a configuration that loads it (KeyError if not recorded).

    >>> base_of({"identity": {"seed": 7, "model.name": "embedded", "model.revision": None,
    ...                       "model.random_init": None, "model.offline": True}}).model.name
    'embedded'
    """
    identity = manifest["identity"]
    fields = {name: identity[f"model.{name}"] for name in ("name", "revision", "random_init", "offline")}
    return RunConfig(seed=identity["seed"], model=ModelConfig.model_validate(fields))


def run_data_config(published: PublishedModel | None) -> RunConfig:
    """Return seed and data section of the run that made a model, as its manifest has them; defaults for any other."""
    if published is None:
        return RunConfig()
    identity = published.manifest["identity"]
    recorded = {name: identity[f"data.{name}"] for name in DataConfig.model_fields if f"data.{name}" in identity}
    return RunConfig(seed=identity["seed"], data=DataConfig.model_validate(recorded))


def named_base(name: str) -> RunConfig:
    """Return the configuration of a model by its name alone: `embedded`, a hub id, a folder or a .gguf file."""
    return RunConfig(model=ModelConfig(name=name))


def needs_no_network(base: RunConfig) -> bool:
    """Say whether a base model must be on this machine, so that the hub need not be asked.

    >>> needs_no_network(named_base("embedded"))
    True
    >>> needs_no_network(named_base("HuggingFaceTB/SmolLM3-3B"))
    False
    """
    name = base.model.name
    return base.model.offline or name == EMBEDDED_MODEL or name.endswith(".gguf") or Path(name).is_dir()


def _total_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
