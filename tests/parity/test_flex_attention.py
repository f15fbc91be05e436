"""The masks flex_attention is given, against the dense ones: the same loss and gradients, whole and trimmed layers.

Its kernels need a GPU. torch refuses the backward pass on a CPU, though its plain implementation can do it; that
refusal and the compilation are taken out here, so what is shown is our masks, not the kernels.
"""

import pytest
import torch
from torch.nn.attention import flex_attention
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations import flex_attention as integration

from data.render import IGNORE_INDEX, RenderedRow
from tests.random_rows import padded
from train.distributed.group import Ranks
from train.distributed.topology import Topology
from train.fast.choose import ChosenPath, _by_flex_attention_if_it_runs, summed_loss_of
from train.fast.fused_head import TreeForward
from train.fast.tree_batch import TreeBatch

SIZES = {
    "vocab_size": 60,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
DENSE = ChosenPath("prefix sharing", TreeForward(), [])
FLEXIBLE = ChosenPath("prefix sharing", TreeForward(by_flex_attention=True), [], attention="flex_attention")


@pytest.fixture
def on_a_cpu(monkeypatch):
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)
    monkeypatch.setattr(integration, "WrappedFlexAttention", lambda training: lambda: flex_attention.flex_attention)


@pytest.fixture(params=["llama", "smollm3", "qwen3"])
def model(request):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(request.param, **SIZES), attn_implementation="sdpa")


def many_rows():
    """Twelve rows of 20 to 42 tokens with a common beginning: several blocks of keys, and of label positions."""
    rows = []
    for number in range(12):
        ids = [*range(3, 15), *((7 * number + token) % 50 + 3 for token in range(8 + 2 * number))]
        rows.append(RenderedRow(ids, [IGNORE_INDEX] * 10 + ids[10:]))
    return rows


def gradients(model, path, rows):
    summed_loss = summed_loss_of(model.eval(), path, rows)
    parameters = dict(model.named_parameters())
    grads = torch.autograd.grad(summed_loss, list(parameters.values()))
    return summed_loss.item(), dict(zip(parameters, grads, strict=True))


def test_loss_and_gradients(model, on_a_cpu):
    rows = many_rows()
    batch = padded(rows)
    tree = TreeBatch.of(batch["input_ids"], batch["labels"], batch["attention_mask"])
    assert tree.input_ids.shape[1] > 128, "more than one block of keys"
    assert len(tree.label_positions) > 128, "more than one block of queries"
    loss, grads = gradients(model, FLEXIBLE, rows)
    expected_loss, expected = gradients(model, DENSE, rows)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    for name, grad in expected.items():
        assert (grads[name] - grad).norm() <= 1e-4 * grad.norm(), name
    assert model.config._attn_implementation == "sdpa"


def test_a_batch_without_labels(model, on_a_cpu):
    loss, grads = gradients(model, FLEXIBLE, [RenderedRow([3, 4], [IGNORE_INDEX] * 2)])
    assert loss == 0
    assert not any(grad.any() for grad in grads.values())


def test_it_is_taken_where_it_runs(model, on_a_cpu):
    chosen = _by_flex_attention_if_it_runs(model, DENSE, many_rows()[:4], Ranks(Topology()))
    assert chosen.attention == "flex_attention"
    assert chosen.forward.by_flex_attention
    assert all(parameter.grad is None for parameter in model.parameters())


def test_where_it_does_not_run_the_dense_mask_stays(model):
    chosen = _by_flex_attention_if_it_runs(model, DENSE, many_rows()[:4], Ranks(Topology()))
    assert chosen.attention is None
    assert chosen.forward is DENSE.forward
    assert "flex_attention does not run here (NotImplementedError" in chosen.report[-1]
    assert model.config._attn_implementation == "sdpa"
