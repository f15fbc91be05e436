"""Base weights and tokenizer: where they come from, in which precision they are held, what identifies them."""

import contextlib
import functools
import hashlib
import inspect
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.initialization import no_init_weights
from transformers.utils import is_flash_attn_2_available

from data.files import made_once, sha256_of
from data.model_files import found_at, gguf_cache_dir, gguf_file_of
from data.render import check_template
from data.tokenizer import load_chat_tokenizer
from train.config.run_config import ModelConfig, RunConfig
from train.failure import ExitCode, ModelError, exit_code_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# transformers' configuration defaults are exactly these published models, so their sizes need no network.
KNOWN_ARCHITECTURES = {"HuggingFaceTB/SmolLM3-3B": "smollm3", "HuggingFaceTB/SmolLM3-3B-Base": "smollm3"}
WEIGHT_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]


def pick_device() -> torch.device:
    """Return the GPU of this rank where there is one, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def pick_precision(config: ModelConfig) -> torch.dtype:
    """Return the type of frozen weights and matrix products; what trains is held in fp32 in any case.

    auto is bf16 where the device multiplies bf16 matrices natively (a GPU that has it, a CPU with AMX), else fp32.
    """
    if config.precision == "auto":
        return torch.bfloat16 if _has_native_bf16() else torch.float32
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[config.precision]


def _has_native_bf16() -> bool:
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_amx_tile_supported())


def pick_attention(config: RunConfig) -> str:
    """Return the attention as configured; auto is sdpa, or flash_attention_2 where it can run and no prefix is shared.

    flash_attention_2 cannot take the mask of a prefix tree, and sharing prefixes saves far more than it does.

    Raises:
        ModelError: flash_attention_2 was asked for where it cannot run.
    """
    asked = config.model.attention
    in_bf16 = pick_precision(config.model) == torch.bfloat16
    usable = is_flash_attn_2_available() and torch.cuda.is_available() and in_bf16
    if asked == "flash_attention_2" and not usable:
        raise ModelError(
            "model.attention=flash_attention_2 needs a CUDA device, bf16 and the flash-attn package",
            "Use model.attention=auto, which falls back to sdpa.",
        )
    if asked == "auto":
        return "flash_attention_2" if usable and config.speed.prefix_sharing == "off" else "sdpa"
    return asked


def cache_argument(forward: Callable[..., Any]) -> str | None:
    """Return the name by which a model's or a layer's `forward` is handed keys and values; None if it takes none.

    transformers renames it: `past_key_values` is `cache` from 5.24 on, in some architectures before others.
    """
    names = inspect.signature(forward).parameters
    return next((name for name in ("cache", "past_key_values", "layer_past") if name in names), None)


def cache_input(model: PreTrainedModel, cache: Cache | None) -> dict[str, Cache | None]:
    """Return `cache` as the keyword argument that this model, or its backbone, takes it by."""
    return {cache_argument(model.forward) or "past_key_values": cache}


@contextlib.contextmanager
def attention_by(model: PreTrainedModel, implementation: str) -> Iterator[None]:
    """Let a loaded model attend by this implementation for a while."""
    configured = model.config._attn_implementation
    model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        model.set_attn_implementation(configured)


def load_tokenizer(config: RunConfig) -> "PreTrainedTokenizerBase":
    """Return the model's tokenizer, its chat template frozen and checked.

    Raises:
        ModelError: no such model, or its template cannot be trained on.
    """
    try:
        tokenizer = load_chat_tokenizer(
            config.model.name, config.data.template_date, config.data.template_variables, config.model.revision
        )
    except OSError as error:
        raise _not_loadable(config.model, error) from error
    check_template(tokenizer)
    return tokenizer


def local_weights(config: ModelConfig) -> Path:
    """Return a folder on this machine with the model's safetensors, downloaded or converted once where needed.

    Raises:
        ModelError: the model cannot be had.
    """
    try:
        gguf_file = gguf_file_of(config.name)
        if gguf_file is not None:
            return _converted_gguf(gguf_file)
        place = found_at(config.name, config.revision)
        if Path(place).is_dir():
            return Path(place)
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(config.name, revision=config.revision, allow_patterns=WEIGHT_FILES))
    except OSError as error:
        if exit_code_of(error) == ExitCode.STORAGE:  # a full cache says nothing of the model
            raise
        raise _not_loadable(config, error) from error


def _not_loadable(config: ModelConfig, error: Exception) -> ModelError:
    offline = " (offline: the hub is not asked)" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
    if Path(config.name).exists():
        offline = ""
    elif _is_path(config.name):  # the hub's words about names would mislead
        offline, reason = "", "there is no such file or folder"
    return ModelError(
        f"model '{config.name}' cannot be loaded{offline}: {reason}",
        "Name a hub id, a folder with config.json and safetensors, a .gguf file, or 'embedded'; "
        "a gated model needs HF_TOKEN.",
    )


def _is_path(name: str) -> bool:
    """Whether a model's name can only be meant as a path.

    >>> _is_path("/models/mine"), _is_path("mine.gguf"), _is_path("owner/name")
    (True, True, False)
    """
    return name.startswith(("/", ".", "~")) or name.endswith(".gguf") or name.count("/") > 1


def _converted_gguf(gguf_file: Path) -> Path:
    """Weights of a GGUF file as fp32 safetensors, de-quantised once (10 s); concurrent callers wait for the first."""
    folder = gguf_cache_dir(gguf_file) / "model"

    def convert(aside: Path) -> None:
        print(f"converting {gguf_file.name} once, into {folder}", flush=True)
        _dequantised(gguf_file).save_pretrained(aside)

    return made_once(folder, convert)


def _dequantised(gguf_file: Path) -> PreTrainedModel:
    """The GGUF file's model as a plain fp32 one; the one transformers reads counts as quantised and cannot be saved."""
    with _one_map_of_tensor_names(), contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        read = AutoModelForCausalLM.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.float32)
    config = AutoConfig.for_model(**{**read.config.to_dict(), "quantization_config": None})
    with no_init_weights():
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.tie_weights()
    plain.load_state_dict(read.state_dict())
    plain.generation_config = read.generation_config
    return plain


@contextlib.contextmanager
def _one_map_of_tensor_names() -> Iterator[None]:
    """transformers asks the gguf library for the same map for every module of the model: half the time of a reading."""
    import gguf

    make_map = gguf.get_tensor_name_map
    gguf.get_tensor_name_map = functools.cache(make_map)
    try:
        yield
    finally:
        gguf.get_tensor_name_map = make_map


def load_model(config: RunConfig, tokenizer: "PreTrainedTokenizerBase") -> PreTrainedModel:
    """Return the base model on this rank's device, in eval mode.

    Raises:
        ModelError: the weights cannot be had, or do not belong to the tokenizer.
    """
    kwargs: dict[str, Any] = {
        "dtype": pick_precision(config.model),
        "attn_implementation": pick_attention(config),
    }
    if config.model.random_init is not None:
        architecture = random_architecture(config.model, tokenizer)
        torch.manual_seed(config.seed)
        model = AutoModelForCausalLM.from_config(architecture, **kwargs)
    else:
        model = _pretrained(config.model, **kwargs)
    if model.get_input_embeddings().num_embeddings < len(tokenizer):
        raise ModelError(
            f"the tokenizer of '{config.model.name}' has {len(tokenizer)} tokens, its model only "
            f"{model.get_input_embeddings().num_embeddings} embeddings"
        )
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.to(pick_device()).eval()


def _pretrained(config: ModelConfig, **kwargs: Any) -> PreTrainedModel:
    """The base weights, from safetensors alone: other formats can hold code.

    Raises:
        ModelError: they cannot be had, or are damaged.
    """
    folder = local_weights(config)
    try:
        return AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, **kwargs)
    except (OSError, ValueError, SafetensorError) as error:
        raise _not_loadable(config, error) from error


def random_architecture(config: ModelConfig, tokenizer: "PreTrainedTokenizerBase") -> PretrainedConfig:
    """Return the architecture that `model.random_init` describes, with the tokenizer's vocabulary."""
    overrides = dict(config.random_init or {})
    return AutoConfig.for_model(
        overrides.pop("model_type", "llama"),
        vocab_size=overrides.pop("vocab_size", len(tokenizer)),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **overrides,
    )


def architecture_without_weights(config: RunConfig) -> PretrainedConfig:
    """Return the model's configuration alone, from this machine if it is here; it is for sizes, not for training.

    Raises:
        ModelError: the architecture is unknown and the hub cannot be asked.
    """
    if config.model.random_init is not None:
        return random_architecture(config.model, load_tokenizer(config))
    try:
        gguf_file = gguf_file_of(config.model.name)
        if gguf_file is not None:
            return AutoConfig.from_pretrained(_converted_gguf(gguf_file))
        if config.model.name in KNOWN_ARCHITECTURES:
            return AutoConfig.for_model(KNOWN_ARCHITECTURES[config.model.name])
        place = found_at(config.model.name, config.model.revision)
        return AutoConfig.from_pretrained(place, revision=config.model.revision)
    except (OSError, ValueError) as error:  # ValueError: a folder or repository without a known config.json
        raise _not_loadable(config.model, error) from error


def model_fingerprint(config: RunConfig) -> str:
    """Return a hash of the base weights: of the files' contents, or of architecture and seed where they are random."""
    if config.model.random_init is not None:
        facts = json.dumps([config.model.random_init, config.seed], sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()
    digests = [sha256_of(path) for path in sorted(local_weights(config.model).glob("*.safetensors"))]
    return hashlib.sha256("".join(digests).encode()).hexdigest()
