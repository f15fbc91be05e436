"""What the frozen layers make of rows is what enters the first trained layer, and the layers above go on from it."""

import pytest
import torch

from tests.tiny_models import tiny_model
from train.fast.frozen_layers import compute_states, first_trained_layer, injected_states, without_trunk
from train.fast.row_layout import Layout
from train.model.adapt import transformer_layers

MODEL_TYPES = ["llama", "smollm3", "qwen2", "qwen3", "gpt_neox"]
ROWS = [[5, 6, 7, 8, 9], [5, 6, 7, 1, 2, 3, 4], [5, 6, 7], [5, 6, 7, 8]]


def states_of(model, rows):
    layout = Layout.of(rows)
    states = torch.full((layout.num_tokens, 16), float("nan"))
    compute_states(model, rows, layout, range(len(rows)), states)
    return layout, states


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("rows", [ROWS, [[1, 2], [3, 4, 5]], [[7, 7, 7]], [[4, 4], [4, 4]]])
def test_states_are_those_entering_the_first_trained_layer(model_type, rows):
    model = tiny_model(model_type)
    layout, states = states_of(model, rows)
    assert not states.isnan().any()
    for number, row in enumerate(rows):
        with torch.no_grad():
            hidden = model(torch.tensor([row]), output_hidden_states=True).hidden_states[2][0]  # [tokens, 16]
        mine = states[[layout.index(number, depth) for depth in range(len(row))]]
        torch.testing.assert_close(mine, hidden, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_top_alone_gives_the_same_logits(model_type):
    model = tiny_model(model_type)
    layout, states = states_of(model, ROWS)
    row = torch.tensor([ROWS[1]])
    with torch.no_grad():
        whole = model(row).logits
        trunk_states = states[[layout.index(1, depth) for depth in range(row.shape[1])]][None]
        with without_trunk(model), injected_states(model, trunk_states):
            assert sum(1 for layer in transformer_layers(model) if any(True for _ in layer.parameters())) == 2
            top = model(row).logits
        again = model(row).logits
    torch.testing.assert_close(top, whole, rtol=1e-5, atol=1e-6)
    assert torch.equal(again, whole)


def test_only_the_head_trains():
    model = tiny_model()
    for layer in transformer_layers(model):
        layer.requires_grad_(False)
    assert first_trained_layer(model) == 3
