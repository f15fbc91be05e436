"""The trimmed last layer: what comes out, what is computed. Its losses and gradients are in tests/parity."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.random_rows import padded, row
from train.fast.fused_head import TreeForward, summed_loss
from train.fast.last_layer import last_layer_at

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
POSITIONS = torch.tensor([2, 3, 3, 9])


@pytest.fixture(params=["llama", "gpt_neox"])
def model(request):
    torch.manual_seed(0)
    config = AutoConfig.for_model(request.param, **SIZES)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").train()


def layers(model):
    return model.base_model.layers


def inputs(num_tokens=12):
    mask = torch.ones(num_tokens, num_tokens, dtype=torch.bool).tril()[None, None]
    return {
        "input_ids": torch.arange(num_tokens)[None] + 3,
        "position_ids": torch.arange(num_tokens)[None],
        "attention_mask": mask,
    }


def final_states(model):
    return model.base_model(**inputs(), use_cache=False).last_hidden_state


def test_the_states_are_those_of_the_whole_layer_picked_from(model):
    whole = final_states(model)
    with last_layer_at(model, POSITIONS):
        trimmed = final_states(model)
    assert trimmed.shape == (1, 4, 16)
    torch.testing.assert_close(trimmed, whole[:, POSITIONS])
    torch.testing.assert_close(final_states(model), whole)  # and nothing stays behind


def test_the_mlp_sees_the_label_positions_alone(model):
    seen = []
    for layer in layers(model):
        layer.mlp.register_forward_hook(lambda _, args, __: seen.append(args[0].shape[1]))
    with last_layer_at(model, POSITIONS):
        final_states(model)
    assert seen == [12, 4]


def test_a_recomputed_layer_is_left_whole_and_still_right(model):
    whole = final_states(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with last_layer_at(model, POSITIONS):
        trimmed = final_states(model)
        trimmed.sum().backward()
    torch.testing.assert_close(trimmed, whole[:, POSITIONS])


def test_no_label_at_all_still_gives_every_parameter_a_gradient(model):
    """A rank without a row takes part in every all-reduce, so none of its gradients may be missing."""
    loss = summed_loss(TreeForward()(model, **padded([row([5, 6], labelled_from=2)])))
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
