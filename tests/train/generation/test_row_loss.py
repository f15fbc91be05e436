"""Losses of rows add up to the loss that transformers computes, with and without a shared prefix."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig

from data.render import IGNORE_INDEX, RenderedRow
from train.generation.row_loss import row_losses

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
ARCHITECTURES = {"llama": LlamaConfig(**SIZES), "gemma2": Gemma2Config(**SIZES, head_dim=8, sliding_window=16)}


def make_rows(shared_tokens: int) -> list[RenderedRow]:
    generator = torch.Generator().manual_seed(1)
    prefix = torch.randint(3, 61, (shared_tokens,), generator=generator).tolist()
    rows = []
    for number in (9, 4, 21, 12):
        own = torch.randint(3, 61, (number,), generator=generator).tolist()
        ids = prefix + own
        rows.append(RenderedRow(ids, [IGNORE_INDEX] * (len(ids) - 3) + ids[-3:]))
    return rows


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("shared_tokens", [1, 30])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_each_row_has_the_loss_it_has_alone(architecture, shared_tokens, batch_size):
    torch.manual_seed(0)
    attention = "eager" if architecture == "gemma2" else "sdpa"  # transformers has no other for it
    model = AutoModelForCausalLM.from_config(ARCHITECTURES[architecture], attn_implementation=attention).eval()
    rows = make_rows(shared_tokens)
    losses = row_losses(model, rows, batch_size=batch_size)
    assert [loss.num_labels for loss in losses] == [3] * 4
    for row, loss in zip(rows, losses, strict=True):
        with torch.no_grad():
            mean = model(torch.tensor([row.input_ids]), labels=torch.tensor([row.labels])).loss.item()
        assert loss.summed == pytest.approx(3 * mean, rel=1e-5)


def test_labels_right_after_the_shared_part():
    """The state that predicts the first label must be computed with the row, though its token is shared."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(ARCHITECTURES["llama"], attn_implementation="sdpa").eval()
    rows = [RenderedRow([5, 6, 7, last], [IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX, last]) for last in (8, 9)]
    losses = row_losses(model, rows, batch_size=2)
    with torch.no_grad():
        logits = model(torch.tensor([[5, 6, 7]])).logits[0, -1].log_softmax(-1)
    assert [loss.summed for loss in losses] == pytest.approx([-logits[8].item(), -logits[9].item()], rel=1e-5)


def test_no_rows_no_losses():
    model = AutoModelForCausalLM.from_config(ARCHITECTURES["llama"])
    assert row_losses(model, [], batch_size=4) == []
