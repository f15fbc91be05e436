"""What training costs in arithmetic and memory: functions of an architecture's shape and of token counts. No torch.

A matrix product takes 2 floating-point operations per weight and token, and attention 4 per unit of attention width
and (query, key) pair. The backward pass takes the same again for the gradient of a layer's input, and again for that of
its weights. Norms, activation functions and the embedding are left out: below 1 %.
"""

from dataclasses import dataclass

from train.fast.row_layout import TRUNK_BATCH_TOKENS

FP32_BYTES = 4
ADAM_BYTES = 4 * FP32_BYTES
"""Per trained parameter: weight, gradient and two moments, all fp32."""

ADAM_TRAFFIC_BYTES = 7 * FP32_BYTES
"""Read and written per trained parameter and step: four values read, three written."""


@dataclass(frozen=True)
class ModelShape:
    """Holds the numbers of an architecture, and of what trains in it, that cost anything."""

    num_layers: int
    num_cached_layers: int
    """Layers below the first trained one: a constant of the run."""
    num_backward_layers: int
    """Layers the backward pass goes through, counted from the top."""
    num_trained_layers: int
    layer_parameters: int
    """Weights of one layer's matrix products."""
    key_value_parameters: int
    """Those of them that make keys and values."""
    attention_width: int
    """Number of query heads times their size."""
    head_parameters: int
    head_trains: bool
    hidden_size: int
    intermediate_size: int
    vocabulary_size: int
    recomputes: bool = False
    """Gradient checkpointing: the layers of the backward pass compute forward twice."""


@dataclass(frozen=True)
class Work:
    """Counts tokens computed, (query, key) pairs of attention, and labels scored; sums or means over rows."""

    tokens: float
    pairs: float
    labels: float

    def of(self, share: float) -> "Work":
        return Work(self.tokens * share, self.pairs * share, self.labels * share)


def row_work(num_tokens: float, num_labels: float) -> Work:
    """Count a row by itself, every token looking at those before it and at itself.

    >>> row_work(4, 2)
    Work(tokens=4, pairs=10.0, labels=2)
    """
    return Work(num_tokens, num_tokens * (num_tokens + 1) / 2, num_labels)


def training_flops(shape: ModelShape, work: Work, *, from_cache: bool = False, labels_only: bool = False) -> float:
    """Return the floating-point operations of the forward and backward pass.

    `from_cache`: the layers below the first trained one are not run. `labels_only`: the last layer computes queries,
    output and MLP at the labels' positions alone, as it does for prefix trees.
    """
    extra = 1 if shape.recomputes else 0
    num_forward_only = shape.num_layers - shape.num_backward_layers - (shape.num_cached_layers if from_cache else 0)
    flops = num_forward_only * _layer_flops(shape, work, matmul=1, attention=1)
    num_passed = shape.num_backward_layers - shape.num_trained_layers
    flops += num_passed * _layer_flops(shape, work, matmul=2 + extra, attention=3 + extra)
    whole_layer = _layer_flops(shape, work, matmul=3 + extra, attention=3 + extra)
    flops += shape.num_trained_layers * whole_layer
    if labels_only and shape.num_trained_layers and not shape.recomputes:
        flops += _trimmed_layer_flops(shape, work) - whole_layer
    return flops + (6 if shape.head_trains else 4) * shape.head_parameters * work.labels


def caching_flops(shape: ModelShape, work: Work) -> float:
    """Return the floating-point operations of one forward pass through the layers that never change."""
    return shape.num_cached_layers * _layer_flops(shape, work, matmul=1, attention=1)


def _layer_flops(shape: ModelShape, work: Work, *, matmul: int, attention: int) -> float:
    return 2 * matmul * shape.layer_parameters * work.tokens + 4 * attention * shape.attention_width * work.pairs


def _trimmed_layer_flops(shape: ModelShape, work: Work) -> float:
    """A trained layer that looks up keys and values for all tokens, but computes the rest at the labels alone."""
    of_labels = shape.layer_parameters - shape.key_value_parameters
    matmul = 6 * (shape.key_value_parameters * work.tokens + of_labels * work.labels)
    return matmul + 12 * shape.attention_width * work.pairs * work.labels / max(1.0, work.tokens)


@dataclass(frozen=True)
class MicroBatch:
    """Is the largest batch a device holds at once: tokens (with padding) and labels."""

    tokens: float
    labels: float


def memory_bytes(
    shape: ModelShape,
    batch: MicroBatch,
    *,
    num_parameters: int,
    num_trainable: int,
    element_bytes: int,
    num_ranks: int = 1,
    cached: bool = False,
) -> float:
    """Estimate the rough peak of one device: weights, gradients, Adam's moments, activations, logits.

    Per token and layer a transformer keeps about 10 hidden-size and 3 intermediate-size values for the backward pass;
    gradient checkpointing keeps one hidden-size value and recomputes one layer at a time. With the activation cache
    the frozen layers leave the device before training, so the peak is the larger one of the two phases.
    """
    frozen_bytes = (num_parameters - num_trainable) * element_bytes
    buckets = FP32_BYTES if num_ranks > 1 else 0  # DDP copies gradients to send them
    cast = element_bytes if element_bytes < FP32_BYTES else 0  # what trains, in the precision of the products
    trained_bytes = num_trainable * (ADAM_BYTES + buckets + cast)
    activation_bytes = batch.tokens * _values_per_token(shape) * element_bytes
    logit_bytes = batch.labels * shape.vocabulary_size * (2 * FP32_BYTES + 2 * element_bytes)
    training = frozen_bytes + trained_bytes + activation_bytes + logit_bytes
    if not cached:
        return training
    per_layer = _values_per_token_and_layer(shape)
    caching = frozen_bytes + num_trainable * FP32_BYTES + TRUNK_BATCH_TOKENS * per_layer * element_bytes
    trunk_bytes = shape.num_cached_layers * shape.layer_parameters * element_bytes
    return max(training - trunk_bytes, caching)


def _values_per_token_and_layer(shape: ModelShape) -> int:
    return 10 * shape.hidden_size + 3 * shape.intermediate_size


def _values_per_token(shape: ModelShape) -> int:
    per_layer = _values_per_token_and_layer(shape)
    if shape.recomputes:
        return shape.num_backward_layers * shape.hidden_size + per_layer
    return max(1, shape.num_backward_layers) * per_layer
