"""Sizes of a run that has not started: batch, steps, trainable parameters and memory, from the architecture alone."""

from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from data.dataset import read_dataset, read_questions
from train.adapt import ParameterCount, adapt
from train.config import RunConfig
from train.failure import ModelError
from train.model import architecture_without_weights, pick_precision
from train.sft import steps_per_epoch, total_steps, warmup_steps
from train.tokens import split_configured

GIB = 2**30
FP32_BYTES = 4


@dataclass(frozen=True)
class RunSizes:
    world_size: int
    effective_batch_size: int
    num_train_rows: int
    num_validation_rows: int
    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    learning_rate: float
    parameters: ParameterCount
    memory_bytes: int
    """Estimate for one device: weights, gradients, Adam's two moments, activations of the trained layers."""


def run_sizes(config: RunConfig, world_size: int) -> RunSizes:
    """Sizes without loading weights (raises ModelError where the architecture cannot be known)."""
    num_train_rows, num_validation_rows = count_rows(config)
    architecture = architecture_without_weights(config)
    parameters = count_parameters(config, architecture)
    steps = total_steps(config, world_size=world_size, num_train_rows=num_train_rows)
    return RunSizes(
        world_size=world_size,
        effective_batch_size=config.effective_batch_size(world_size),
        num_train_rows=num_train_rows,
        num_validation_rows=num_validation_rows,
        steps_per_epoch=steps_per_epoch(config, world_size=world_size, num_train_rows=num_train_rows),
        total_steps=steps,
        warmup_steps=warmup_steps(config, steps),
        learning_rate=config.learning_rate_at(world_size),
        parameters=parameters,
        memory_bytes=memory_estimate_bytes(config, architecture, parameters),
    )


def count_rows(config: RunConfig) -> tuple[int, int]:
    """Training and validation rows after the split and the configured subsets."""
    examples = read_dataset(config.data_file(config.data.dataset))
    demo_questions = read_questions(config.data_file(config.data.demo_questions))
    split = split_configured(config, examples, demo_questions)
    return len(split.train), len(split.validation)


def count_parameters(config: RunConfig, architecture: PretrainedConfig) -> ParameterCount:
    """Parameters after `adapt`, counted on the meta device: no memory, no weights."""
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(architecture)
    except ValueError as error:
        raise ModelError(f"'{config.model.name}' is not a causal language model: {error}") from error
    return adapt(model, config.adapt)


def memory_estimate_bytes(config: RunConfig, architecture: PretrainedConfig, parameters: ParameterCount) -> int:
    """Rough peak for one device; activations are those of the trained layers, at the full `max_length_tokens`.

    Per token and layer a transformer keeps about 10 hidden-size and 3 intermediate-size values for the backward pass;
    gradient checkpointing keeps one hidden-size value and recomputes one layer at a time.
    """
    element_bytes = torch.finfo(pick_precision(config.model)).bits // 8
    text = architecture.get_text_config()
    num_layers = text.num_hidden_layers
    trained = num_layers if config.adapt.layers == "all" or config.adapt.head == "tied" else config.adapt.last_n_layers
    per_layer = 10 * text.hidden_size + 3 * text.intermediate_size
    if config.optim.gradient_checkpointing:
        values_per_token = trained * text.hidden_size + per_layer
    else:
        values_per_token = trained * per_layer
    tokens = config.optim.batch_size * config.data.max_length_tokens
    frozen_bytes = (parameters.num_total - parameters.num_trainable) * element_bytes
    trainable_bytes = parameters.num_trainable * 4 * FP32_BYTES  # weight, gradient, two moments
    return frozen_bytes + trainable_bytes + tokens * values_per_token * element_bytes
