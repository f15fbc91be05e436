"""RunConfig -> TRL's SFTConfig: every option this project decides, and which others are let through."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from trl import SFTConfig

from train.batching.steps import total_steps, warmup_steps
from train.config.run_config import RunConfig
from train.config.yaml_files import nearest
from train.failure import ConfigError
from train.model.base import pick_device, pick_precision
from train.run_folder.run_folder import RunFolder


def sft_options(config: RunConfig, *, world_size: int, num_train_rows: int, folder: RunFolder) -> dict[str, Any]:
    """The SFTConfig options this configuration decides; `config.trl` may add others, never these."""
    steps = total_steps(config, world_size=world_size, num_train_rows=num_train_rows)
    on_cpu = pick_device().type == "cpu"
    return {
        "output_dir": str(folder.checkpoints),
        "seed": config.seed,
        "num_train_epochs": config.optim.epochs,
        "per_device_train_batch_size": config.micro_batch_rows,
        "gradient_accumulation_steps": config.optim.accumulation_steps,
        "learning_rate": config.learning_rate_at(world_size),
        "lr_scheduler_type": config.optim.schedule,
        "warmup_steps": warmup_steps(config, steps),
        "weight_decay": config.optim.weight_decay,
        "max_grad_norm": config.optim.max_grad_norm,
        "gradient_checkpointing": config.optim.gradient_checkpointing,
        "bf16": pick_precision(config.model) == torch.bfloat16,
        "use_cpu": on_cpu,
        # DDP lays out its buckets anew after the first step of a process, a resumed one too, unless it looks for unused
        # parameters; sums of three and more depend on the layout, and on a CPU a resumed run is to be bit-equal.
        "ddp_find_unused_parameters": on_cpu and world_size > 2,
        "ddp_timeout": config.distributed.collective_timeout_seconds,
        "eval_strategy": "steps" if config.evaluation.every_steps else "epoch",
        "eval_steps": config.evaluation.every_steps,
        "per_device_eval_batch_size": config.evaluation.batch_size,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
        "save_strategy": "steps" if config.output.checkpoint_every_steps else "epoch",
        "save_steps": config.output.checkpoint_every_steps or 500,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # the filter would replace a NaN loss by the running mean
        "report_to": "none",
        "disable_tqdm": True,
        "max_length": None,  # rows are cut, and counted, before they come here
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }


def make_sft_config(options: Mapping[str, Any], extra: Mapping[str, Any]) -> SFTConfig:
    """SFTConfig from our options and the recipe's `trl` mapping.

    Raises:
        ConfigError: an option TRL does not know, one that has a field of its own, or a value TRL refuses.
    """
    known = [field.name for field in dataclasses.fields(SFTConfig) if field.init]
    for name in extra:
        if name in options:
            raise ConfigError(f"trl.{name} is decided elsewhere in the configuration (it would be {options[name]!r})")
        if name not in known:
            remedy = nearest(f"trl.{name}", [f"trl.{option}" for option in known]).strip()
            raise ConfigError(f"unknown TRL option 'trl.{name}'", remedy)
    try:
        return SFTConfig(**options, **extra)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"TRL refuses these options: {error}") from error
