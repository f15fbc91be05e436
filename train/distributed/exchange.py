"""What DDP sends between the ranks: of the weights those that train, of the gradients bf16 where it is asked for."""

from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

from train.failure import ConfigError
from train.model.base import pick_device


def broadcast_only_what_trains(model: torch.nn.Module) -> None:
    """Let DDP leave alone what is frozen: at its construction it would send every weight of rank 0 to all others.

    The frozen weights are the same on all ranks already: read from files whose hash the ranks have compared, or drawn
    from the run's seed. Buffers are constants of the architecture, which DDP would send again in every forward pass.
    """
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    constants = [name for name, _ in model.named_buffers()]
    torch.nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, [*frozen, *constants])


def gathered_bytes(content: bytes) -> list[bytes]:
    """Return what each rank passes, in the order of the ranks; every rank calls this. All get all: keep it small."""
    if not dist.is_initialized():
        return [content]
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, torch.tensor([len(content)]))
    longest = max(int(length) for length in lengths)  # all_gather takes tensors of one size
    padded = torch.frombuffer(bytearray(content.ljust(longest, b"\0")), dtype=torch.uint8)
    contents = [torch.empty(longest, dtype=torch.uint8) for _ in lengths]
    dist.all_gather(contents, padded)
    return [bytes(each[: int(length)].numpy()) for each, length in zip(contents, lengths, strict=True)]


def check_gradient_compression(compression: str) -> None:
    """Refuse bf16 gradients where the ranks' library cannot add them up (ConfigError); every rank calls this."""
    if compression == "none":
        return
    try:
        # Tried, since what a backend can add up differs from one build of torch to the next.
        dist.all_reduce(torch.ones(2, dtype=torch.bfloat16, device=pick_device()))
    except (RuntimeError, ValueError, TypeError) as error:
        raise ConfigError(
            f"distributed.gradient_compression={compression} is not possible here: {str(error).splitlines()[0]}",
            "Set distributed.gradient_compression=none.",
        ) from error


class RoundedGradients(DistributedDataParallelKwargs):
    """These are accelerate's settings for DDP, with gradients exchanged in bf16."""

    def register_comm_hook(self, model: torch.nn.parallel.DistributedDataParallel) -> None:
        model.register_comm_hook(None, in_bf16)


def round_gradients_to_bf16(accelerator: Accelerator) -> None:
    """Have the DDP model that `accelerator` is going to make exchange its gradients in bf16."""
    accelerator.ddp_handler = RoundedGradients(**accelerator.ddp_handler.to_kwargs())


def in_bf16(group: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Call torch's own hook under another name: by its name DDP refuses it for gloo, which has learnt to add bf16."""
    return bf16_compress_hook(group, bucket)
