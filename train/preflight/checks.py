"""What a run needs of the machine it starts on, each need as one function.

A check gets what the earlier ones found out, and returns what it saw, or `Warned` where the run would work badly. It
raises what the run itself would raise where the run would fail, so that its exit code is the run's.
"""

import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import torch

from data.model_files import cache_dir
from train.batching.steps import refuse_nonsense
from train.batching.tokenise import TrainingData, load_training_data
from train.config.run_config import ResolvedConfig, RunConfig
from train.distributed.machine import (
    SHARED_MEMORY,
    VolumeSpeed,
    free_bytes,
    prove_volume,
    shared_memory_bytes,
    user_name,
)
from train.distributed.topology import Topology, check_world_size
from train.failure import ConfigError, MemoryShortError, ModelError, StorageError
from train.fast.fused_head import plain_forward, summed_loss
from train.fault_tolerance.begin import decide_beginning, run_identity
from train.fault_tolerance.checkpoints import checkpoint_bytes
from train.methods.trl_options import make_sft_config, sft_options
from train.model.base import load_model, load_tokenizer, pick_device, pick_precision
from train.planning.memory_advice import device_memory, memory_remedy
from train.planning.predict import MEMORY_LIMIT, fit_of
from train.planning.sizes import GIB, RunSizes, run_sizes
from train.run_folder.run_folder import RunFolder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MANY_ROWS = 20_000
SAMPLED_ROWS = 2_000
ENOUGH_SHARED_MEMORY_BYTES = GIB
SLOW_FLUSH_SECONDS = 1.0
SAVED_FILES = 5
"""Files of a checkpoint that are flushed one by one."""


@dataclass(frozen=True)
class Warned:
    """Says that the run would start, but something is not as it should be."""

    detail: str
    remedy: str = ""


@dataclass
class Facts:
    """Holds the run to be checked, and what its checks have found out so far."""

    resolved: ResolvedConfig
    topology: Topology
    tokenizer: "PreTrainedTokenizerBase | None" = None
    data: TrainingData | None = None
    sampled: bool = False
    sizes: RunSizes | None = None
    volume: VolumeSpeed | None = None
    identity: dict[str, Any] | None = None

    @property
    def config(self) -> RunConfig:
        return self.resolved.config

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.config.output.dir)


def settings(facts: Facts) -> str:
    """Check the world size against the recipe's."""
    world_size = facts.topology.world_size
    check_world_size(facts.topology, facts.config.distributed)
    rows = facts.config.effective_batch_size(world_size)
    return f"recipe {facts.resolved.recipe}, {world_size} rank(s), {rows} rows a step"


def folders(facts: Facts) -> str | Warned:
    """Write to temporary and cache folders: in a container with a read-only root, only what was mounted is writable."""
    try:
        temporary = tempfile.gettempdir()
    except FileNotFoundError as error:
        raise StorageError(
            "no temporary folder can be written", "Mount an emptyDir at /tmp, or set TMPDIR to a writable folder."
        ) from error
    cache = cache_dir()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as error:
        return Warned(
            f"user {user_name()}; the cache folder {cache} cannot be written ({error.strerror})",
            "Set CACHE_DIR (or HOME) to a mounted, writable folder; without one no activation cache is kept.",
        )
    return f"user {user_name()}; {temporary} and {cache} ({free_bytes(cache) / GIB:.1f} GiB free) can be written"


def template(facts: Facts) -> str:
    """Load the tokenizer, which proves its chat template fit to train on."""
    facts.tokenizer = load_tokenizer(facts.config)
    return f"{len(facts.tokenizer):,} tokens; the chat template keeps the prefix rule"


def data(facts: Facts) -> str:
    """Read, split and render the rows; of a large set a seeded sample, so that this stays under a minute."""
    assert facts.tokenizer is not None
    config = facts.config
    path = config.data_file(config.data.dataset)
    facts.sampled = path.is_file() and _num_rows(path) > MANY_ROWS
    facts.data = load_training_data(_with_fewer_rows(config) if facts.sampled else config, facts.tokenizer)
    found = facts.data.facts
    refuse_nonsense(config, world_size=facts.topology.world_size, num_train_rows=num_train_rows(facts))
    sample = f" (a sample of {SAMPLED_ROWS:,} was rendered)" if facts.sampled else ""
    return (
        f"{found['rows']:,} rows{sample}: {found['train_rows']:,} to train on, {found['validation_rows']:,} to "
        f"validate, {found['truncated_rows']} cut"
    )


def num_train_rows(facts: Facts) -> int:
    """Return the training rows of the run; of a sampled set about as many as the split will leave."""
    assert facts.data is not None
    found = facts.data.facts
    if not facts.sampled:
        return int(found["train_rows"])
    split_off = round(int(found["rows"]) * (1 - facts.config.data.validation_fraction))
    return min(split_off, facts.config.data.max_train_rows or split_off)


def options(facts: Facts) -> str:
    """Ask TRL's own opinion of the settings. It opens the process group, so it is asked after the ranks have met."""
    config, folder = facts.config, facts.folder
    known = sft_options(
        config, world_size=facts.topology.world_size, num_train_rows=num_train_rows(facts), folder=folder
    )
    make_sft_config(known, config.trl)
    return f"TRL accepts the settings, {len(config.trl)} of them passed through as trl.*"


def _num_rows(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, ValueError):
        return 0  # not a Parquet file: reading it says so, with a remedy


def _with_fewer_rows(config: RunConfig) -> RunConfig:
    fewer = {"max_train_rows": SAMPLED_ROWS, "max_validation_rows": SAMPLED_ROWS}
    return config.model_copy(update={"data": config.data.model_copy(update=fewer)})


def memory(facts: Facts) -> str | Warned:
    """Compare the estimate of what training takes with what the device, or this rank's share of the host, has free."""
    facts.sizes = run_sizes(facts.config, facts.topology.world_size)
    needed, (free, where) = facts.sizes.memory_bytes, device_memory(facts.topology)
    numbers = f"about {needed / GIB:.1f} GiB needed (estimate), {free / GIB:.1f} GiB free on {where}"
    fit = fit_of(needed, free)
    if fit == "does not fit":
        raise MemoryShortError(numbers, memory_remedy(facts.config, facts.topology, MEMORY_LIMIT * free))
    return Warned(numbers, "Tight: a smaller optim.batch_size leaves room.") if fit == "tight" else numbers


def precision(facts: Facts) -> str | Warned:
    """Multiply two matrices in the precision of the run, and compare with fp32."""
    dtype, device = pick_precision(facts.config.model), pick_device()
    name = f"{str(dtype).removeprefix('torch.')} on {device}"
    left, right = torch.rand(256, 256, device=device), torch.rand(256, 256, device=device)
    exact = left @ right
    drift = ((left.to(dtype) @ right.to(dtype)).float() - exact).abs().max().item() / exact.abs().max().item()
    if not drift < 0.02:  # NaN too
        raise ModelError(f"a matrix product in {name} is off by {drift:.2g}", "Set model.precision=fp32.")
    wanted = torch.cuda.is_available() and facts.config.model.precision != "fp32" and dtype != torch.bfloat16
    return Warned(f"{name}: this GPU has no bf16", "") if wanted else f"{name}, products within {drift:.1g} of fp32"


def model(facts: Facts) -> str:
    """Load the weights and score one row; the model is dropped again."""
    assert facts.tokenizer is not None
    assert facts.data is not None
    loaded = load_model(facts.config, facts.tokenizer)
    row = facts.data.train.rows[0]
    batch = {
        name: torch.tensor([ids], device=loaded.device)
        for name, ids in (("input_ids", row.input_ids), ("labels", row.labels))
    }
    with torch.no_grad():
        output = plain_forward(loaded, **batch)
        loss = (summed_loss(output) / output.label_mask.sum()).item()
    if not math.isfinite(loss):
        raise ModelError(f"the loss of one row is {loss}", "The weights are damaged, or model.precision is too low.")
    return f"loads without asking the hub; the loss of one row is {loss:.3f}"


def volume(facts: Facts) -> str | Warned:
    """Write, fsync, rename and lock in the output folder."""
    root = facts.folder.root
    try:
        facts.volume = prove_volume(root)
    except OSError as error:
        raise StorageError(
            f"the output folder {root} cannot be used ({error.strerror or error})",
            "Set output.dir (OUTPUT_DIR) to a folder this user may write; in a pod, group 0 must be able to.",
        ) from error
    speed = (
        f"{facts.volume.write_bytes_per_second / 2**20:,.0f} MiB/s, fsync {1000 * facts.volume.flush_seconds:.0f} ms"
    )
    detail = f"{root}: written, flushed, renamed, locked; {speed}"
    return (
        Warned(detail, "A slow fsync makes checkpoints slow.")
        if facts.volume.flush_seconds > SLOW_FLUSH_SECONDS
        else detail
    )


def space(facts: Facts) -> str:
    """Compare what the run folder will hold at its fullest with the free space; only rank 0 writes it."""
    assert facts.sizes is not None
    if not facts.topology.is_main:
        return "rank 0 writes the run folder"
    needed, free = run_folder_bytes(facts.config, facts.sizes), free_bytes(facts.folder.root)
    numbers = f"{needed / GIB:.2f} GiB needed at most, {free / GIB:.2f} GiB free"
    if needed > free:
        raise StorageError(
            f"{numbers} in {facts.folder.root}",
            "Free space, name another output.dir, or lower output.keep_checkpoints.",
        )
    return numbers


def run_folder_bytes(config: RunConfig, sizes: RunSizes) -> int:
    """Add up kept checkpoints and one being written, the best weights and their successor, two published models."""
    checkpoints = (config.output.keep_checkpoints + 2) * checkpoint_bytes(sizes.parameters.num_trainable)
    best = 2 * 4 * sizes.parameters.num_trainable
    published = 2 * sizes.parameters.num_total * int(torch.finfo(pick_precision(config.model)).bits) // 8
    return checkpoints + best + published


def stopping(facts: Facts) -> str:
    """Check that a checkpoint can be written between SIGTERM and SIGKILL, at the volume's measured speed."""
    assert facts.sizes is not None
    assert facts.volume is not None
    if not facts.topology.is_main:
        return "rank 0 writes the checkpoint"
    seconds = save_seconds(facts.volume, facts.sizes)
    grace = facts.config.distributed.grace_seconds
    megabytes = checkpoint_bytes(facts.sizes.parameters.num_trainable) / 2**20
    numbers = f"a checkpoint of {megabytes:,.0f} MiB takes about {seconds:.1f} s"
    if seconds > grace:
        raise ConfigError(
            f"{numbers}, longer than distributed.grace_seconds={grace}: a stopped run could not save",
            "Raise terminationGracePeriodSeconds and distributed.grace_seconds, or use a faster volume.",
        )
    return f"{numbers} of the {grace} s between SIGTERM and SIGKILL"


def save_seconds(volume: VolumeSpeed, sizes: RunSizes) -> float:
    """Return the time a checkpoint takes on a volume of this speed."""
    written = checkpoint_bytes(sizes.parameters.num_trainable) / volume.write_bytes_per_second
    return written + SAVED_FILES * volume.flush_seconds


def shared_memory(facts: Facts) -> str | Warned:
    """Look at /dev/shm, which NCCL within a machine and data loader workers need; a container's default is 64 MiB."""
    size, remedy = shared_memory_bytes(), f"Mount an emptyDir of medium Memory at {SHARED_MEMORY}, 1 GiB or more."
    if size is None:
        return "this system has none"
    if not os.access(SHARED_MEMORY, os.W_OK):
        return Warned(f"{SHARED_MEMORY} cannot be written", remedy)
    several_gpus = facts.topology.local_world_size > 1 and torch.cuda.is_available()
    needed = several_gpus or facts.config.trl.get("dataloader_num_workers", 0) > 0
    detail = f"{SHARED_MEMORY} has {size / 2**20:,.0f} MiB"
    if needed and size < ENOUGH_SHARED_MEMORY_BYTES:
        return Warned(detail, remedy)
    return detail if needed else f"{detail}; this run needs none"


def beginning(facts: Facts) -> str:
    """Say what the run would do about an earlier one in its folder."""
    assert facts.data is not None
    if facts.sampled:
        return "not asked: only a sample of the rows was rendered"
    facts.identity = run_identity(facts.config, facts.data, facts.topology.world_size)
    if not facts.topology.is_main:
        return "rank 0 decides"
    begins, checkpoint = decide_beginning(facts.folder, facts.config.output.if_exists, facts.identity)
    return {
        "fresh": "the run would start at step 0",
        "resume": f"the run would go on from {checkpoint}",
        "finished": f"{facts.folder.root} holds this very run, finished: nothing would be trained",
    }[begins]


@dataclass(frozen=True)
class Check:
    name: str
    function: Callable[[Facts], str | Warned]
    needs: tuple[str, ...] = ()
    """Names of checks that must have passed: without what they found, this one could not be made."""


CHECKS = (
    Check("settings", settings),
    Check("folders", folders),
    Check("template", template),
    Check("data", data, ("template",)),
    Check("memory", memory, ("template", "data")),
    Check("precision", precision),
    Check("model", model, ("data", "memory")),
    Check("volume", volume),
    Check("space", space, ("memory", "volume")),
    Check("stopping", stopping, ("memory", "volume")),
    Check("shared memory", shared_memory),
    Check("beginning", beginning, ("data", "model")),
)
AFTER_MEETING = Check("options", options, ("data",))
