"""What a run says at its start: the arithmetic its path saves and, of several ranks, whether they will pay off."""

from dataclasses import replace

import torch
from transformers import PreTrainedModel

from train.config.run_config import RunConfig
from train.distributed.exchange import check_gradient_compression
from train.distributed.group import Ranks
from train.distributed.topology import Topology
from train.fast.when_exact import PathName
from train.planning.count_work import data_work, job_of
from train.planning.measure import measure_link, this_device
from train.planning.predict import Job, Link, predict, verdict
from train.planning.sizes import model_shape
from train.run_context import Run


def measured_link(config: RunConfig, ranks: Ranks) -> Link | None:
    """Measure the link between the ranks; None for one rank (ConfigError: it cannot carry what is configured)."""
    num_ranks = ranks.topology.world_size
    if num_ranks == 1:
        return None
    check_gradient_compression(config.distributed.gradient_compression)
    return measure_link(num_ranks)


def outlook(run: Run, model: PreTrainedModel, path: PathName, link: Link | None) -> list[str]:
    """Return lines for rank 0: the saving, the link, the prediction for this run, what is not exact in the exchange."""
    if not run.is_main:
        return []
    config = run.config
    shape = model_shape(model, recomputes=config.optim.gradient_checkpointing)
    work = data_work(config, run.data, run.world_size, run.effective_batch_size)
    num_trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    in_bf16 = model.dtype == torch.bfloat16
    plain, job = (job_of(config, shape, work, name, num_trainable, in_bf16=in_bf16) for name in ("plain", path))
    if link is None:
        return saving(plain, job)
    return [*saving(plain, job), *_network(job, config.distributed.gradient_compression, link, run.ranks.topology)]


def saving(plain: Job, job: Job) -> list[str]:
    """Say how much arithmetic training takes by the path of `job`, and how much by the plain one; predicted."""
    if job.path == "plain":
        return []
    return [
        f"           arithmetic: {human_flops(job.total_flops)} for {human_flops(plain.total_flops)}, "
        f"{plain.total_flops / job.total_flops:.1f} x less (counted)"
    ]


def human_flops(flops: float) -> str:
    """Return an amount of arithmetic as people say it.

    >>> human_flops(1.62e15)
    '1.62 PFLOP'
    """
    name, unit = next(((name, unit) for name, unit in _UNITS if flops >= unit), _UNITS[-1])
    return f"{flops / unit:.3g} {name}"


_UNITS = (("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6))


def _network(job: Job, compression: str, link: Link, topology: Topology) -> list[str]:
    device = this_device()
    if device.is_shared and topology.local_world_size == 1:  # ranks on other machines bring cores of their own
        device = replace(device, is_shared=False)
    one, many = (predict(job, device, link, num_ranks) for num_ranks in (1, topology.world_size))
    rounded = [f"           gradients are rounded to {compression} before they are exchanged: an approximation"]
    return [
        f"network    {link.description}",
        *(rounded if compression != "none" else []),
        f"outlook    {verdict(job, device, one, many)}",
    ]
