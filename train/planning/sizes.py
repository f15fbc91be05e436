"""Sizes of a run that has not started: batch, steps, trainable parameters and memory, from the architecture alone."""

from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from data.dataset import read_dataset, read_questions
from train.batching.steps import steps_per_epoch, total_steps, warmup_steps
from train.batching.tokenise import split_configured
from train.config.run_config import RunConfig
from train.failure import ModelError
from train.fast.frozen_layers import first_trained_layer
from train.model.adapt import ParameterCount, adapt, transformer_layers
from train.model.base import architecture_without_weights, pick_precision
from train.planning.cost import MicroBatch, ModelShape, memory_bytes

GIB = 2**30


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
    memory_bytes: float
    """Estimate for one device: weights, gradients, Adam's two moments, activations of the trained layers, logits."""


def run_sizes(config: RunConfig, world_size: int) -> RunSizes:
    """Compute sizes without loading weights (raises ModelError where the architecture cannot be known)."""
    config = config.settled(world_size)
    num_train_rows, num_validation_rows = count_rows(config)
    architecture = architecture_without_weights(config)
    model, parameters = model_without_weights(config, architecture)
    shape = model_shape(model, recomputes=config.optim.gradient_checkpointing)
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
        memory_bytes=memory_estimate_bytes(config, shape, parameters, world_size),
    )


def count_rows(config: RunConfig) -> tuple[int, int]:
    """Count training and validation rows after the split and the configured subsets."""
    examples = read_dataset(config.data_file(config.data.dataset))
    demo_questions = read_questions(config.data_file(config.data.demo_questions))
    split = split_configured(config, examples, demo_questions)
    return len(split.train), len(split.validation)


def model_without_weights(config: RunConfig, architecture: PretrainedConfig) -> tuple[PreTrainedModel, ParameterCount]:
    """Return the adapted model on the meta device: shapes, and what trains."""
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(architecture)
    except ValueError as error:
        raise ModelError(f"'{config.model.name}' is not a causal language model: {error}") from error
    return model, adapt(model, config.adapt)


def model_shape(model: PreTrainedModel, *, recomputes: bool) -> ModelShape:
    """Return what the costs of an adapted model depend on; its layers are taken to be alike."""
    text, layers = model.config.get_text_config(), transformer_layers(model)
    head, trained = model.get_output_embeddings(), [_trains(layer) for layer in layers]
    lowest = trained.index(True) if any(trained) else len(layers)
    heads = text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // heads  # Gemma and Qwen3 decide it apart
    key_value_heads = getattr(text, "num_key_value_heads", None) or heads
    return ModelShape(
        num_layers=len(layers),
        num_cached_layers=first_trained_layer(model),
        num_backward_layers=len(layers) - (0 if _trains(model.get_input_embeddings()) else lowest),
        num_trained_layers=sum(trained),
        # Norms and biases, of one dimension, are in no matrix product.
        layer_parameters=sum(p.numel() for p in layers[0].parameters() if p.dim() > 1),
        key_value_parameters=2 * key_value_heads * head_size * text.hidden_size,
        attention_width=heads * head_size,
        head_parameters=head.weight.numel(),
        head_trains=_trains(head),
        hidden_size=text.hidden_size,
        intermediate_size=text.intermediate_size,
        vocabulary_size=text.vocab_size,
        recomputes=recomputes,
    )


def _trains(module: torch.nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def memory_estimate_bytes(config: RunConfig, shape: ModelShape, parameters: ParameterCount, world_size: int) -> float:
    """Estimate one device's peak: rows of `max_length_tokens`, a quarter of them labels, plain path or cached."""
    tokens = config.micro_batch_rows * config.data.max_length_tokens
    return memory_bytes(
        shape,
        MicroBatch(tokens, tokens / 4),
        num_parameters=parameters.num_total,
        num_trainable=parameters.num_trainable,
        element_bytes=torch.finfo(pick_precision(config.model)).bits // 8,
        num_ranks=world_size,
        cached=config.speed.activation_cache == "on",
    )
