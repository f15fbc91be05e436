"""Measured, in well under a second each: how fast ranks exchange gradients, and how fast this machine computes."""

import os
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from train.config.run_config import DistributedConfig
from train.distributed.group import join
from train.distributed.machine import available_memory_bytes, usable_cores
from train.distributed.topology import read_topology
from train.failure import ConfigError
from train.model.base import pick_device
from train.planning.predict import DEVICES, GIGA, GPU_UTILISATION, Device, Link

FIRST_BYTES, LAST_BYTES = 2**20, 2**26
ENOUGH_SECONDS = 0.15
MATRIX_SIZE = 1024
CPU_UTILISATION = 0.3
"""Assumed share of a large matrix product's speed that training reaches on a CPU."""


def measure_link(num_ranks: int) -> Link:
    """Time all-reduces of growing size over the process group until one takes long enough to tell; all ranks call it.

    At 100 Mbit/s the first piece already is enough; the whole stays below a second unless the network is slower.
    """
    device, num_bytes = pick_device(), FIRST_BYTES
    _timed_all_reduce(FIRST_BYTES // 16, device)  # opens connections
    while True:
        elapsed = _timed_all_reduce(num_bytes, device)
        if elapsed >= ENOUGH_SECONDS or num_bytes >= LAST_BYTES:
            break
        num_bytes *= 4
    rate = 2 * (num_ranks - 1) / num_ranks * num_bytes / elapsed
    return Link(rate, f"{rate * 8 / GIGA:.3g} Gbit/s, measured with {num_bytes // 2**20} MiB")


def _timed_all_reduce(num_bytes: int, device: torch.device) -> float:
    """Seconds, the same on every rank: those of the slowest."""
    values = torch.zeros(num_bytes // 4, device=device)
    dist.barrier()
    elapsed = timed(lambda: dist.all_reduce(values), device)
    slowest = torch.tensor(elapsed, dtype=torch.float64)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    return float(slowest)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds until the device has done it."""
    _wait_for(device)
    start = time.perf_counter()
    work()
    _wait_for(device)
    return max(time.perf_counter() - start, 1e-9)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def this_device() -> Device:
    """Return the device of this process: a GPU by its name (measured, if that is not known), or the CPU."""
    device = pick_device()
    if device.type == "cpu":
        return this_cpu()
    properties = torch.cuda.get_device_properties(device)
    known = next((preset for name, preset in DEVICES.items() if name in properties.name.lower()), None)
    if known is not None:
        return known
    bf16, fp32 = (matmul_flops_per_second(device, dtype) / 1e12 for dtype in (torch.bfloat16, torch.float32))
    copied = copied_bytes_per_second(device)
    return Device(properties.name, bf16, fp32, properties.total_memory, copied, GPU_UTILISATION)


def this_cpu() -> Device:
    """Return this machine's cores as a device, shared by all ranks that run here."""
    cpu, cores = torch.device("cpu"), usable_cores()
    threads = torch.get_num_threads()
    torch.set_num_threads(cores)
    try:
        bf16, fp32 = (matmul_flops_per_second(cpu, dtype) / 1e12 for dtype in (torch.bfloat16, torch.float32))
        copied = copied_bytes_per_second(cpu)
    finally:
        torch.set_num_threads(threads)
    return Device(f"CPU, {cores} core(s)", bf16, fp32, available_memory_bytes(), copied, CPU_UTILISATION, True)


def matmul_flops_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """Measure a square matrix product, the best of a few: of full size, unless a smaller one takes long enough to tell.

    A CPU without instructions for bf16 takes seconds for what a GPU does in microseconds.
    """
    size = MATRIX_SIZE // 4
    while (seconds := _seconds_of_matmul(size, device, dtype)) < ENOUGH_SECONDS and size < MATRIX_SIZE:
        size *= 2
    return 2 * size**3 / seconds


def _seconds_of_matmul(size: int, device: torch.device, dtype: torch.dtype) -> float:
    """The best of four, or of as many as fit into the time that is enough."""
    one, other = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    times: list[float] = []
    while len(times) < 4 and sum(times) < ENOUGH_SECONDS:
        times.append(timed(lambda: one @ other, device))
    return min(times)


def copied_bytes_per_second(device: torch.device) -> float:
    """Measure the memory traffic, reading and writing, of a large copy."""
    source = torch.zeros(2**24, device=device)
    target = torch.empty_like(source)
    return 2.0 * int(source.nbytes) / min(timed(lambda: target.copy_(source), device) for _ in range(3))


def measure_link_here() -> Link:
    """Measure the link between two processes started here for it (ConfigError on a machine with a single GPU)."""
    if torch.cuda.is_available() and torch.cuda.device_count() < 2:
        raise ConfigError(
            "--bandwidth measured needs two GPUs here, or to be run by every rank of a job",
            "Give the network's rate in Gbit/s.",
        )
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, run_id="bandwidth", rdzv_backend="c10d", rdzv_endpoint="localhost:0"
    )
    link: Link = elastic_launch(config, _measure_as_rank)()[0]
    return Link(link.bytes_per_second, f"{link.description} between two processes on this machine")


def _measure_as_rank() -> Link:
    ranks = join(read_topology(os.environ), DistributedConfig())
    link = measure_link(ranks.topology.world_size)
    ranks.leave()
    return link
