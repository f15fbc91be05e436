"""What to change when memory runs out, computed for the very configuration that ran out of it.

Sizes come from the architecture without weights and from the planner's rule of thumb (`train.planning.sizes`,
`train.planning.cost`), so every figure is an estimate: of the plain path, with rows of `data.max_length_tokens`. The
rows of a step stay the same in all that is proposed. This is said while a run fails, so nothing here may fail itself:
`advised` and `memory_remedy` fall back to less.
"""

import copy
import functools
import os
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from train.config.run_config import AdaptConfig, RunConfig
from train.distributed.machine import available_memory_bytes
from train.distributed.topology import Topology, read_topology
from train.failure import MemoryShortError, RunError
from train.model.adapt import ParameterCount
from train.model.base import architecture_without_weights, pick_device, pick_precision
from train.planning.auto_batch import divisors, memory_limit_bytes
from train.planning.cost import FP32_BYTES
from train.planning.sizes import memory_estimate_bytes, model_shape, model_without_weights
from train.units import human_bytes

NUM_CHANGES = 3
WORTHWHILE = 0.95
"""A change is not worth naming unless it brings the estimate below this share of what it is now."""

NOTICEABLE = 0.8
"""Where the run should have fitted by the estimate, a change must bring it at least down to this share."""

SHORTEST_ROWS_TOKENS = 64
MORE_MEMORY = "Give the process more memory (a pod: its memory limit), or start fewer processes on the machine."
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50}
_AMOUNT = r"(\d+(?:\.\d+)?)\s*(bytes|[KMGTP]iB)"
_ASKED, _FREE = re.compile(rf"allocate {_AMOUNT}"), re.compile(rf"of which {_AMOUNT} is free")

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Change:
    """Holds settings that would lower the peak of one device, and what else they do."""

    settings: Settings
    needed_bytes: float
    effect: str
    is_exact: bool
    """The run would learn the same."""

    def __str__(self) -> str:
        written = " ".join(f"{name}={_as_typed(value)}" for name, value in self.settings.items())
        return f"{written} ({human_bytes(self.needed_bytes)}; {self.effect})"


@dataclass(frozen=True)
class _Knob:
    """One thing that can be turned: settings from the mildest to the strongest."""

    rungs: Sequence[Settings]
    effect: str
    is_exact: bool


def useful_changes(
    config: RunConfig, world_size: int, needed_bytes: Callable[[RunConfig], float], limit_bytes: float
) -> list[Change]:
    """Return up to three changes, the largest saving first; those that leave what is learnt alone go before the others.

    Of each setting the mildest value that brings the estimate below `limit_bytes` is taken, else the strongest.
    """
    now_bytes = needed_bytes(config)
    target = min(limit_bytes, NOTICEABLE * now_bytes)
    changes = [_mildest(config, knob, needed_bytes, target) for knob in _knobs(config, world_size)]
    worthwhile = [change for change in changes if change.needed_bytes < WORTHWHILE * now_bytes]
    first = sorted(worthwhile, key=lambda change: (not change.is_exact, change.needed_bytes))[:NUM_CHANGES]
    return sorted(first, key=lambda change: change.needed_bytes)


def _mildest(config: RunConfig, knob: _Knob, needed_bytes: Callable[[RunConfig], float], target: float) -> Change:
    for settings in knob.rungs:
        needed = needed_bytes(with_settings(config, settings))
        if needed <= target:
            break
    return Change(settings, needed, knob.effect, knob.is_exact)


def _knobs(config: RunConfig, world_size: int) -> Iterator[_Knob]:
    """What this configuration leaves to be turned."""
    optim, adapt = config.optim, config.adapt
    rows = config.rows_per_rank(world_size)
    if smaller := [size for size in reversed(divisors(rows)) if size < config.micro_batch_rows]:
        yield _Knob([_micro_batch(config, size, rows) for size in smaller], "the same rows a step", is_exact=True)
    if not optim.gradient_checkpointing:
        yield _Knob([{"optim.gradient_checkpointing": True}], "the same result, slower", is_exact=True)
    if config.speed.activation_cache == "off" and config.speed.prefix_sharing != "off":
        yield _Knob([{"speed.activation_cache": "on"}], "the same result, where it can be used", is_exact=True)
    if shorter := [size for size in _shorter(config.data.max_length_tokens) if size >= SHORTEST_ROWS_TOKENS]:
        yield _Knob([{"data.max_length_tokens": size} for size in shorter], "longer rows are cut", is_exact=False)
    if adapt.layers == "all":
        yield _Knob([{"adapt.layers": "last_n"}], f"only the last {adapt.last_n_layers} layers train", is_exact=False)
    elif adapt.last_n_layers > 1:
        fewer = [adapt.last_n_layers >> shift for shift in range(1, adapt.last_n_layers.bit_length())]
        yield _Knob([{"adapt.last_n_layers": number} for number in fewer], "fewer layers train", is_exact=False)
    if adapt.head != "frozen":
        yield _Knob([{"adapt.head": "frozen"}], "the LM head does not train", is_exact=False)
    automatic = config.model.model_copy(update={"precision": "auto"})
    if config.model.precision == "fp32" and pick_precision(automatic) == torch.bfloat16:
        yield _Knob([{"model.precision": "bf16"}], "products in bf16", is_exact=False)


def _micro_batch(config: RunConfig, batch_size: int, rows: int) -> Settings:
    sizes = {"optim.batch_size": batch_size}
    follows = config.optim.effective_batch_size is not None
    return sizes if follows else {**sizes, "optim.accumulation_steps": rows // batch_size}


def _shorter(num_tokens: int) -> list[int]:
    """
    >>> _shorter(1024)
    [768, 512, 256]
    """
    return [num_tokens * share // 4 // SHORTEST_ROWS_TOKENS * SHORTEST_ROWS_TOKENS for share in (3, 2, 1)]


def with_settings(config: RunConfig, settings: Settings) -> RunConfig:
    """Return the configuration with some dotted settings changed."""
    for dotted, value in settings.items():
        section, _, name = dotted.partition(".")
        changed = getattr(config, section).model_copy(update={name: value})
        config = config.model_copy(update={section: changed})
    return config


def estimator(config: RunConfig, world_size: int, *, weights_only: bool = False) -> Callable[[RunConfig], float]:
    """Return a function from a configuration of the same model to the bytes one device would need (raises ModelError).

    `weights_only`: to load the model, before anything is computed.
    """
    architecture = architecture_without_weights(config)

    @functools.cache
    def adapted(adapt: AdaptConfig) -> tuple[PreTrainedModel, ParameterCount]:
        return model_without_weights(config.model_copy(update={"adapt": adapt}), copy.deepcopy(architecture))

    def needed_bytes(changed: RunConfig) -> float:
        model, parameters = adapted(changed.adapt)
        if weights_only:  # what trains is then held twice: as loaded, and in fp32
            element_bytes: int = torch.finfo(pick_precision(changed.model)).bits // 8
            return parameters.num_total * element_bytes + parameters.num_trainable * FP32_BYTES
        shape = model_shape(model, recomputes=changed.optim.gradient_checkpointing)
        return memory_estimate_bytes(changed, shape, parameters, world_size)

    return needed_bytes


def memory_remedy(config: RunConfig, topology: Topology, limit_bytes: float, *, weights_only: bool = False) -> str:
    """Say what would help this configuration, in one sentence or two; empty where nothing can be computed."""
    try:
        return _remedy(_as_run(config, topology.world_size), topology, limit_bytes, weights_only=weights_only)
    except Exception:  # there may be no memory left for this either; the failure itself is reported in any case
        return ""


def _remedy(config: RunConfig, topology: Topology, limit_bytes: float, *, weights_only: bool) -> str:
    needed_bytes = estimator(config, topology.world_size, weights_only=weights_only)
    what = "To load it" if weights_only else "The run"
    numbers = f"{what} takes about {human_bytes(needed_bytes(config))} (estimate), this rank may use "
    numbers += human_bytes(limit_bytes)
    changes = useful_changes(config, topology.world_size, needed_bytes, limit_bytes)
    if not changes:
        return f"{numbers}. Use a smaller model, or a device with more memory."
    enough = any(change.needed_bytes <= limit_bytes for change in changes)
    verb = "One of these would lower that" if enough else "These would lower that, no one of them enough alone"
    fewer = "; or fewer processes on this machine" if topology.local_world_size > 1 and not _on_gpu() else ""
    return f"{numbers}. {verb}: {', or '.join(map(str, changes))}{fewer}."


def _as_run(config: RunConfig, world_size: int) -> RunConfig:
    """With batch sizes as numbers; an automatic one is taken for the smallest there is, one row at a time."""
    if config.optim.batch_size == "auto":
        return config.with_batch_size(1, config.rows_per_rank(world_size))
    return config.settled(world_size)


def device_memory(topology: Topology) -> tuple[int, str]:
    """Return the free bytes for this rank, and where."""
    if _on_gpu():
        index = topology.local_rank % torch.cuda.device_count()
        return torch.cuda.mem_get_info(index)[0], torch.cuda.get_device_name(index)
    where = "the host, per rank" if topology.local_world_size > 1 else "the host"
    return available_memory_bytes() // topology.local_world_size, where


def asked_and_free_bytes(message: str) -> tuple[float | None, float | None]:
    """Return what an allocator says it was asked for, and what was free, where it says so.

    >>> asked_and_free_bytes("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes.")
    (4096.0, None)
    >>> asked_and_free_bytes("Tried to allocate 2.00 GiB. GPU 0 has a capacity of 44.5 GiB of which 1.50 GiB is free.")
    (2147483648.0, 1610612736.0)
    """
    found = (_ASKED.search(message), _FREE.search(message))
    asked, free = (match and float(match[1]) * _UNITS[match[2]] for match in found)
    return asked, free


def advised(error: BaseException, config: RunConfig, phase: str) -> BaseException:
    """Return a failure for want of memory, with numbers and a remedy; `error` itself where nothing can be said."""
    if isinstance(error, RunError):  # it says what to do already
        return error
    try:
        return _advised(error, config, phase, read_topology(os.environ))
    except Exception:
        return error


def _advised(error: BaseException, config: RunConfig, phase: str, topology: Topology) -> MemoryShortError:
    message = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    asked, free = asked_and_free_bytes(message)
    free_now, where = device_memory(topology)
    limit_bytes = memory_limit_bytes(pick_device(), topology.local_world_size)
    beside_gpu = _on_gpu() and not isinstance(error, torch.OutOfMemoryError)
    if beside_gpu:
        free_now, where = available_memory_bytes(), "the host, beside the GPU"
    asked_for = "" if asked is None else f"asked for {human_bytes(asked)}, "
    numbers = f"{message} ({asked_for}{human_bytes(free_now if free is None else free)} free on {where})"
    traceback.clear_frames(error.__traceback__)  # what the failed step held is needed to size the model
    remedy = MORE_MEMORY
    if phase in ("model", "speed", "training") and not beside_gpu:
        remedy = memory_remedy(config, topology, limit_bytes, weights_only=phase == "model")
    return MemoryShortError(numbers, remedy)


def _on_gpu() -> bool:
    return bool(pick_device().type == "cuda")


def _as_typed(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
