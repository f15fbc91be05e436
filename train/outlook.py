"""What a run with several ranks says at its start: the bandwidth it measured, and whether the ranks will pay off."""

from dataclasses import replace

import torch
from transformers import PreTrainedModel

from train.bandwidth import measure_link, this_device
from train.config import RunConfig
from train.data_work import data_work, job_of
from train.distributed import Ranks, Topology
from train.exchange import check_gradient_compression
from train.plan import Link, PathName, predict, verdict
from train.prefix_sharing import PrefixSharingCollator
from train.sizing import model_shape
from train.speed import Path
from train.tokens import TrainingData


def measured_link(config: RunConfig, ranks: Ranks) -> Link | None:
    """The link between the ranks, measured; None for one rank (ConfigError: it cannot carry what is configured)."""
    num_ranks = ranks.topology.world_size
    if num_ranks == 1:
        return None
    check_gradient_compression(config.distributed.gradient_compression)
    return measure_link(num_ranks)


def outlook(
    config: RunConfig, model: PreTrainedModel, data: TrainingData, path: Path, link: Link | None, topology: Topology
) -> list[str]:
    """Lines for rank 0: the link, the prediction for this run, and what is not exact about the exchange."""
    if link is None or not topology.is_main:
        return []
    world_size = topology.world_size
    num_trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    shape = model_shape(model, recomputes=config.optim.gradient_checkpointing)
    work = data_work(config, data, world_size, config.effective_batch_size(world_size))
    in_bf16 = model.dtype == torch.bfloat16
    job = job_of(config, shape, work, path_name(path), num_trainable, in_bf16=in_bf16)
    device = this_device()
    if device.is_shared and topology.local_world_size == 1:  # ranks on other machines bring cores of their own
        device = replace(device, is_shared=False)
    one, many = (predict(job, device, link, num_ranks) for num_ranks in (1, world_size))
    compression = config.distributed.gradient_compression
    rounded = [f"           gradients are rounded to {compression} before they are exchanged: an approximation"]
    return [
        f"network    {link.description}",
        *(rounded if compression != "none" else []),
        f"outlook    {verdict(job, device, one, many)}",
    ]


def path_name(path: Path) -> PathName:
    """The planner's name of a chosen path."""
    if path.cache is not None:
        return "sharing + cache"
    return "prefix sharing" if isinstance(path.collator, PrefixSharingCollator) else "plain"
