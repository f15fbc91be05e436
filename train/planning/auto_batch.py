"""`optim.batch_size: auto`: the largest micro-batch that fits the device, found by trying it on the longest rows.

A trial is one forward and backward pass of the model as it will train. What the optimizer adds at its first step is
known without trying. The step keeps its rows: accumulation makes up the effective batch. Running out of memory on a GPU
ends the search with the size before; on a CPU, where the system would end the process instead, a size is only tried if
the growth so far says that it fits. Not verified on a GPU.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import torch
from transformers import PreTrainedModel

from data.render import RenderedRow
from train.batching.tokenise import TrainingData
from train.config.run_config import RunConfig
from train.distributed.group import Ranks
from train.distributed.machine import available_memory_bytes
from train.fast.choose import ChosenPath, exact_path, summed_loss_of
from train.planning.cost import FP32_BYTES
from train.planning.predict import MEMORY_LIMIT

SEARCH_SECONDS = 120.0
"""No larger size is tried once the next trial would end after this."""

SAMPLE_SECONDS = 0.002


def settled_by_measure(
    asked: RunConfig, model: PreTrainedModel, data: TrainingData, ranks: Ranks, checkpoint: Path | None
) -> RunConfig:
    """The configuration with every size a number, an automatic batch size the most rows that fit on every rank.

    A resumed run keeps the batch size it began with.

    Raises:
        MemoryError: not even one row at a time fits.
    """
    guessed = asked.settled(ranks.topology.world_size)
    if asked.optim.batch_size != "auto":
        return guessed
    rows_per_rank = asked.rows_per_rank(ranks.topology.world_size)
    if checkpoint is not None:
        batch_size = int(
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["train_batch_size"]
        )
    else:
        path = exact_path(guessed, model, data, ranks)
        with path.training(model):
            batch_size = ranks.smallest(_search(guessed, model, path, data, ranks, divisors(rows_per_rank)))
    if batch_size == 0:
        raise MemoryError(
            f"out of memory: one row of {max(len(row.input_ids) for row in data.train.rows)} tokens at a time needs "
            f"more than {MEMORY_LIMIT:.0%} of the memory of some rank"
        )
    return guessed.with_batch_size(batch_size, rows_per_rank // batch_size)


def _search(
    config: RunConfig,
    model: PreTrainedModel,
    path: ChosenPath,
    data: TrainingData,
    ranks: Ranks,
    candidates: Sequence[int],
) -> int:
    longest_first = sorted(data.train.rows, key=lambda row: -len(row.input_ids))

    def peak_bytes(batch_size: int) -> int | None:
        return peak_of_step(config, model, path, longest_first[:batch_size])

    num_trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    to_come = num_trainable * FP32_BYTES * (2 + (ranks.topology.world_size > 1))  # Adam's moments, DDP's buckets
    limit = memory_limit_bytes(model.device, ranks.topology.local_world_size) - to_come
    return largest_fitting([size for size in candidates if size <= len(longest_first)], peak_bytes, limit)


def divisors(number: int) -> list[int]:
    """In ascending order.

    >>> divisors(12)
    [1, 2, 3, 4, 6, 12]
    """
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]


def largest_fitting(
    candidates: Sequence[int],
    peak_bytes: Callable[[int], int | None],
    limit_bytes: float,
    *,
    search_seconds: float = SEARCH_SECONDS,
) -> int:
    """The largest of the ascending candidates whose peak stays within the limit; 0 if none does.

    `peak_bytes` answers None when memory ran out. A candidate is not tried if the growth between the two before it
    says that it will not fit, or if it is expected to take too long.

    >>> largest_fitting([1, 2, 4, 8], lambda rows: 100 + 10 * rows, limit_bytes=150)
    4
    """
    best, peaks, started, last_seconds = 0, list[tuple[int, int]](), time.monotonic(), 0.0
    for candidate in candidates:
        next_seconds = last_seconds * candidate / max(best, 1)
        if best and time.monotonic() - started + next_seconds > search_seconds:
            break
        if _extrapolated(peaks, candidate) > limit_bytes:
            break
        trial_started = time.monotonic()
        peak = peak_bytes(candidate)
        last_seconds = time.monotonic() - trial_started
        if peak is None or peak > limit_bytes:
            break
        best = candidate
        peaks.append((candidate, peak))
    return best


def _extrapolated(peaks: Sequence[tuple[int, int]], candidate: int) -> float:
    """The peak to expect, along the line through the last two; 0 while there are not two."""
    if len(peaks) < 2:
        return 0.0
    (size, peak), (larger_size, larger_peak) = peaks[-2:]
    return larger_peak + (larger_peak - peak) * (candidate - larger_size) / (larger_size - size)


def memory_limit_bytes(device: torch.device, num_local_ranks: int) -> float:
    """What this process may hold: its part of the memory in use by itself and free."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return float(MEMORY_LIMIT * (free + torch.cuda.memory_reserved(device)))
    held: int = psutil.Process().memory_info().rss
    return float(MEMORY_LIMIT * (held + available_memory_bytes() / num_local_ranks))


def peak_of_step(
    config: RunConfig, model: PreTrainedModel, path: ChosenPath, rows: Sequence[RenderedRow]
) -> int | None:
    """Most memory this process holds during forward and backward pass of these rows; None if it runs out (GPU).

    The model, its gradients and the random numbers are left as they were.
    """
    if config.optim.gradient_checkpointing:  # as TRL does when training begins
        model.gradient_checkpointing_enable({"use_reentrant": False})
    meter = _GpuMeter(model.device) if model.device.type == "cuda" else _HostMeter()
    try:
        with meter, torch.random.fork_rng():
            summed_loss_of(model.train(), path, rows).backward()
    except torch.OutOfMemoryError:
        return None
    finally:
        model.zero_grad(set_to_none=True)
        model.eval()
        if model.device.type == "cuda":
            torch.cuda.empty_cache()
    return meter.peak_bytes


class _HostMeter:
    """Samples the resident memory of this process while the context lasts."""

    def __enter__(self) -> "_HostMeter":
        self.peak_bytes, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def _sample(self) -> None:
        process = psutil.Process(os.getpid())
        while not self._done.wait(SAMPLE_SECONDS):
            self.peak_bytes = max(self.peak_bytes, process.memory_info().rss)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.peak_bytes = max(self.peak_bytes, psutil.Process().memory_info().rss)


class _GpuMeter:
    """Most memory torch reserved on the device while the context lasts, fragmentation included."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.peak_bytes = device, 0

    def __enter__(self) -> "_GpuMeter":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        return self

    def __exit__(self, *_: object) -> None:
        self.peak_bytes = torch.cuda.max_memory_reserved(self.device)
