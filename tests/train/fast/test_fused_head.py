"""The seam below TRL's trainers: for every label of every row, what TRL's own fused head says, and its gradients."""

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from trl.trainer.utils import add_fused_lm_head

from tests.random_rows import padded, row
from train.config.run_config import AdaptConfig
from train.distributed.group import Ranks
from train.distributed.topology import Topology
from train.fast.activation_cache import open_or_build
from train.fast.frozen_layers import without_trunk
from train.fast.fused_head import TreeForward, add_fast_forward, plain_forward
from train.model.adapt import adapt

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
ROWS = [row([1, 2, 3, 4, 5], 2), row([1, 2, 3, 9, 9, 9], 3), row([1, 2, 3, 4, 5], 3), row([7, 8], 1), row([7, 8, 9], 3)]
"""They branch, repeat, share nothing; the last has no label."""


@pytest.fixture
def model():
    """In fp64: another order of sums is no difference then."""
    torch.manual_seed(0)
    built = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SIZES), attn_implementation="sdpa")
    adapt(built, AdaptConfig(last_n_layers=2))
    return built.double().train()


def weighted(output):
    """A scalar whose gradient tells the labels apart."""
    return (output.log_probs * torch.arange(1, output.log_probs.numel() + 1).view_as(output.log_probs)).sum()


def scored(model, forward, batch):
    """What `forward`, or TRL's own where it is None, says of a batch through the patched model; and the gradients."""
    patched = copy.deepcopy(model)
    add_fused_lm_head(patched, outputs=("log_probs", "entropy", "is_top1"))
    if forward is not None:
        add_fast_forward(patched, forward)
    output = patched(**batch, use_cache=False, fused_lm_head=True)
    weighted(output).backward()
    return output, {name: p.grad for name, p in patched.named_parameters() if p.requires_grad}


def assert_same(one, other):
    (output, gradients), (expected, expected_gradients) = one, other
    assert torch.equal(output.label_mask, expected.label_mask)
    assert torch.equal(output.is_top1.bool(), expected.is_top1.bool())
    for name in ("log_probs", "entropy"):  # TRL folds its tiles in fp32, whatever the model is in
        torch.testing.assert_close(output[name].float(), expected[name].float(), rtol=1e-5, atol=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    assert len(gradients) > 10
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("forward", [plain_forward, TreeForward()], ids=["plain", "tree"])
def test_every_label_is_scored_as_trl_scores_it(model, forward):
    batch = padded(ROWS)
    assert_same(scored(model, forward, batch), scored(model, None, batch))


def test_with_the_frozen_layers_from_the_cache(model, tmp_path, monkeypatch):
    monkeypatch.setenv("CACHE_DIR", str(tmp_path))
    model = model.float()
    expected = scored(model, None, padded(ROWS))
    cache, _ = open_or_build(model, ROWS, "weights", Ranks(Topology()))
    for rows in (ROWS, ROWS[:1], list(reversed(ROWS))):  # a row is found in any batch, in any place
        expected = scored(model, None, padded(rows))
        with without_trunk(model.train()):
            assert_same(scored(model, TreeForward(cache.of_tree), padded(rows)), expected)


def test_a_batch_without_labels_gives_every_parameter_a_gradient_of_zero(model):
    """A rank that has no row in a step takes part in every all-reduce, so none of its gradients may be missing."""
    for forward in (plain_forward, TreeForward()):
        output, gradients = scored(model, forward, padded([row([5, 6], labelled_from=2)]))
        assert not output.log_probs.any()
        assert not output.label_mask.any()
        assert all(gradient is not None and not gradient.any() for gradient in gradients.values())


def test_without_the_flag_nothing_changes(model):
    ids = torch.tensor([[1, 2, 3]])
    expected = model.eval()(ids).logits
    add_fast_forward(model, lambda *_, **__: pytest.fail("asked without the flag"))
    assert torch.equal(model(ids).logits, expected)
    assert model.generate(ids, max_new_tokens=2, do_sample=False, position_ids=None).shape == (1, 5)
