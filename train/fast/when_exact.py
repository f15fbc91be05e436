"""For which models prefix sharing would not be exact, and why: judged by what their configuration says the layers do.

No torch here.
"""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import PretrainedConfig

PathName = Literal["plain", "prefix sharing", "sharing + cache"]
"""How forward passes may be computed, from the slowest to the fastest."""

# Settings of layers that carry something from one token to the next in the order of the batch, or pick keys by it.
_NOT_ONLY_ATTENTION = re.compile(r"mamba|rwkv|recurrent|block_type|state_size|(^|_)(ssm|lru|conv)|^(linear|index)_")
_OTHER_WINDOW = re.compile(r"^(?!.*sliding_window|max_window|use_window).*window")
_NOT_CAUSAL = ("use_bidirectional_attention", "prefix_lm", "is_prefix_lm")
_NOISE = re.compile(r"^(?!classifier|summary).*(dropout|pdrop|layerdrop|jitter)")
# Their rotation angles are a function of the position alone; `dynamic` and `longrope` look at the longest row too.
_STATIC_ROTATIONS = {"default", "linear", "yarn", "llama3", "proportional"}
# Architectures whose logits are more than `head(hidden)`: left to TRL's own head.
_LOGIT_TRANSFORMS = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "output_multiplier",
)
_WINDOW_OF_LAYER = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}


def refusal(
    model_config: "PretrainedConfig", attn_implementation: str | None, *, longest_row_tokens: int | None = None
) -> str | None:
    """Why prefix sharing would not be exact for this model, or None when it is.

    Judged by what the configuration says the layers do, not by a list of names; what cannot be told is refused.
    Attention windows and chunks refuse, unless every row is known to fit: a window of at least `longest_row_tokens`
    hides nothing, and transformers hands such layers our mask unchanged.

    >>> from transformers import LlamaConfig, MistralConfig
    >>> refusal(LlamaConfig(), "sdpa")
    >>> refusal(LlamaConfig(), "flash_attention_2")
    "attention implementation 'flash_attention_2' cannot take a tree mask (sdpa and flex_attention can)"
    >>> refusal(MistralConfig(sliding_window=512), "sdpa", longest_row_tokens=1024)
    'sliding_window=512 is shorter than the longest row (1024 tokens)'
    >>> refusal(MistralConfig(sliding_window=512), "sdpa", longest_row_tokens=512)
    """
    if attn_implementation not in ("sdpa", "flex_attention"):
        return f"attention implementation {attn_implementation!r} cannot take a tree mask (sdpa and flex_attention can)"
    if not type(model_config).__module__.startswith("transformers.models."):
        return f"the code of model type {model_config.model_type!r} is not part of transformers"
    if model_config.sub_configs:
        return f"model type {model_config.model_type!r} is made of parts ({', '.join(model_config.sub_configs)})"
    settings = model_config.to_dict()
    return (
        _refuse_not_causal(settings)
        or _refuse_other_mixing(settings)
        or _refuse_windows(settings, longest_row_tokens)
        or _refuse_positions(settings)
        or _refuse_noise(settings)
    )


def has_plain_logits(model_config: "PretrainedConfig") -> bool:
    """Whether the logits of such a model are `head(hidden)` and nothing else."""
    text_config = model_config.get_text_config()
    return all(getattr(text_config, name, None) is None for name in _LOGIT_TRANSFORMS)


def _refuse_not_causal(settings: Mapping[str, Any]) -> str | None:
    if settings.get("is_encoder_decoder"):
        return "an encoder-decoder is not a causal decoder"
    if settings.get("is_causal") is False:
        return "is_causal=False: tokens see what comes after them"
    return _first_set(_NOT_CAUSAL, settings, "tokens may see what comes after them")


def _refuse_other_mixing(settings: Mapping[str, Any]) -> str | None:
    names = [name for name in settings if _NOT_ONLY_ATTENTION.search(name)]
    return _first_set(names, settings, "tokens of different rows would mix outside the attention mask")


def _refuse_windows(settings: Mapping[str, Any], longest_row_tokens: int | None) -> str | None:
    layer_types = settings.get("layer_types") or []
    unknown = sorted(set(layer_types) - {"full_attention", *_WINDOW_OF_LAYER})
    if unknown:
        return f"layers of type {unknown[0]!r} are not plain attention"
    windows = {_WINDOW_OF_LAYER[kind] for kind in layer_types if kind in _WINDOW_OF_LAYER}
    for name in sorted(windows if layer_types else _WINDOW_OF_LAYER.values()):
        window = settings.get(name)
        if window is None and not layer_types:
            continue
        if longest_row_tokens is None or window is None:
            return f"{name}={window}: the longest row would have to fit in it"
        if longest_row_tokens > window:
            return f"{name}={window} is shorter than the longest row ({longest_row_tokens} tokens)"
    return _first_set(filter(_OTHER_WINDOW.search, settings), settings, "a window over the batch, not over the row")


def _refuse_positions(settings: Mapping[str, Any]) -> str | None:
    """Positions must come from `position_ids`: of all kinds, only rotary embeddings are known to take them so."""
    by_batch = _first_set(("alibi", "attn_temperature_tuning"), settings, "positions are counted over the batch")
    if by_batch:
        return by_batch
    rope = settings.get("rope_parameters") or {}
    rotations = [part for part in rope.values() if isinstance(part, Mapping)] or ([rope] if rope else [])
    if not rotations:
        return "no rotary position embedding: whether position_ids decide the positions is not known"
    kinds = {str(rotation.get("rope_type", rotation.get("type", "default"))) for rotation in rotations}
    for kind in sorted(kinds - _STATIC_ROTATIONS):
        return f"rotary embedding of type {kind!r} depends on the longest row of the batch, or is not known"
    return None


def _refuse_noise(settings: Mapping[str, Any]) -> str | None:
    """Shared tokens would draw one dropout mask for all their rows, where the plain path draws one for each."""
    names = [name for name in settings if _NOISE.search(name) and not isinstance(settings[name], str)]
    return _first_set(names, settings, "rows that share a token would share its noise")


def _first_set(names: Iterable[str], settings: Mapping[str, Any], consequence: str) -> str | None:
    """`name=value: consequence` for the first of `names` that is set to anything, None if none is."""
    for name in names:
        if value := settings.get(name):
            setting = f"{name}={value!r}" if isinstance(value, int | float | str) else name
            return f"{setting}: {consequence}"
    return None
