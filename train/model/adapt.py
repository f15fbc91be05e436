"""Which weights train: the last n transformer layers or all, and the LM head, untied from the embedding by default.

A tied head is the embedding: training it changes the model's input too and sends the backward pass through every
layer. `untied` gives the head a copy of its own, so that nothing below the first trained layer needs a gradient.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from train.config.run_config import AdaptConfig
from train.failure import ConfigError


@dataclass(frozen=True)
class ParameterCount:
    """Counts parameters; `num_base` is the model's own size, before its head was untied."""

    num_base: int
    num_total: int
    num_trainable: int

    @property
    def trainable_share(self) -> float:
        """Trainable parameters over the base model's."""
        return self.num_trainable / self.num_base

    def __str__(self) -> str:
        return (
            f"{self.num_trainable / 1e6:,.1f} M trainable = {100 * self.trainable_share:.2f} % "
            f"of the base model's {self.num_base / 1e6:,.1f} M"
        )


def adapt(model: PreTrainedModel, config: AdaptConfig) -> ParameterCount:
    """Set `requires_grad` on every parameter as the configuration says; works on the meta device too.

    Raises:
        ConfigError: more layers asked for than the model has.
    """
    num_base = _count(model)
    if config.head == "untied":
        untie_head(model)
    model.requires_grad_(config.layers == "all")
    for layer in _trained_layers(model, config):
        layer.requires_grad_(True)
    # Last, since a tied head is the embedding, of which the lines above have decided otherwise.
    model.get_output_embeddings().requires_grad_(config.head != "frozen")
    return ParameterCount(num_base, _count(model), sum(p.numel() for p in model.parameters() if p.requires_grad))


def transformer_layers(model: PreTrainedModel) -> nn.ModuleList:
    """Return the decoder's stack of layers, whatever the architecture calls it."""
    # By its length: it is `model.layers`, `gpt_neox.layers`, `transformer.h` and more.
    num_layers = model.config.get_text_config().num_hidden_layers
    return next(module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == num_layers)


def untie_head(model: PreTrainedModel) -> None:
    """Give the LM head its own copy of the weights it shares with the input embedding; nothing if it has its own."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head.weight is embedding.weight:
        head.weight = nn.Parameter(embedding.weight.detach().clone())
    model.config.get_text_config().tie_word_embeddings = False
    model.config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}  # else save_pretrained would drop the head as a duplicate


def master_weights_in_fp32(model: PreTrainedModel) -> None:
    """Hold what trains in fp32: in bf16 an update smaller than 1/256 of a weight would be lost."""
    for parameter in trainable_parameters(model).values():
        parameter.data = parameter.data.float()


def cast_weights(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Hold every parameter in `dtype`, and leave the buffers as they are.

    `model.to(dtype)` would round them too: the rotary frequencies are fp32 in training and in every loaded model, and
    a model whose frequencies are rounded to bf16 is another one.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def trainable_parameters(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """Return what trains, by name; its order is the model's."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def load_trainable(model: PreTrainedModel, tensors: dict[str, torch.Tensor]) -> None:
    """Copy saved values into the model's trainable parameters; the names must be exactly the same."""
    parameters = trainable_parameters(model)
    if parameters.keys() != tensors.keys():
        differing = sorted(parameters.keys() ^ tensors.keys())
        raise ValueError(f"the saved weights do not belong to this configuration: {differing[:3]} differ")
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])


def _trained_layers(model: PreTrainedModel, config: AdaptConfig) -> list[nn.Module]:
    layers = transformer_layers(model)
    if config.layers == "all":
        return list(layers)
    if config.last_n_layers > len(layers):
        raise ConfigError(f"adapt.last_n_layers={config.last_n_layers}, but the model has {len(layers)} layers")
    return list(layers[-config.last_n_layers :])


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
