"""Prefix sharing against row by row on tiny random models: the same loss and the same gradient of every parameter.

The rows are chats rendered by the real template: one question each, several turns that branch late, rows cut at a
maximum length, the same row twice. What is refused is shown to be refused for cause: run anyway, its loss differs.
"""

import pytest
import torch
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from data.render import IGNORE_INDEX, RenderedRow, render_training_row
from data.tokenizer import load_chat_tokenizer
from tests.random_rows import padded
from train.fast.fused_head import TreeForward, summed_loss
from train.fast.prefix_tree import plan_tree, saving
from train.fast.tree_batch import TreeBatch, dense_mask
from train.fast.when_exact import refusal

TOLERANCE = 1e-5
NUM_IDS = 97  # token ids are taken modulo this, which keeps every shared beginning shared and the models tiny
MAX_LENGTH_TOKENS = 35

SIZES = {
    "vocab_size": NUM_IDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MODELS = {
    "llama": {},
    "llama-tied": {"tie_word_embeddings": True},
    "smollm3": {"no_rope_layer_interval": 2},
    "smollm3-nope-listed": {"no_rope_layers": [1, 0, 0, 1]},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "gemma3_text": {"head_dim": 8, "sliding_window": 96, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "mistral": {"sliding_window": 96},
    "gpt_neox": {"num_key_value_heads": None, "rotary_pct": 0.5},
}
EXACT = list(MODELS)


def tiny_config(name, **changes):
    settings = {**SIZES, **MODELS.get(name, {}), **changes}
    return AutoConfig.for_model(name.split("-")[0], **{k: v for k, v in settings.items() if v is not None})


def tiny_model(config, attention="sdpa"):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32).train()


def small_ids(row):
    return RenderedRow(
        [i % NUM_IDS for i in row.input_ids], [i if i == IGNORE_INDEX else i % NUM_IDS for i in row.labels]
    )


def conversation(*turns):
    roles = ("system", "user", "assistant", "user", "assistant", "user", "assistant")
    return [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False)]


GUIDE = "You are a guide. Answer briefly."
CHATS = {
    "questions": [
        conversation(GUIDE, "How do I light a fire?", "Dry tinder first."),
        conversation(GUIDE, "How do I light a fire in rain?", "Split dead wood."),
        conversation(GUIDE, "Which berries are safe?", "Only those you know."),
        conversation(GUIDE, "Which berries are safe?", "None you cannot name."),
    ],
    "multi-turn": [
        conversation(GUIDE, "Hello", "Hi!", "How do I find north?", "Use the sun."),
        conversation(GUIDE, "Hello", "Hi!", "How do I find north?", "Use the sun.", "At night?", "The pole star."),
        conversation(GUIDE, "Hello", "Hi!", "How do I find water?", "Go down."),
        conversation(GUIDE, "Hello", "Hi there!"),
        conversation("Be brief.", "Hello", "Yes?"),
    ],
}


@pytest.fixture(scope="module")
def batches():
    """Name -> rows. `truncated` are the multi-turn rows cut, so that some end inside a prompt and some coincide."""
    tokenizer = load_chat_tokenizer()
    rows = {name: [small_ids(render_training_row(tokenizer, chat)) for chat in chats] for name, chats in CHATS.items()}
    rows["truncated"] = [row.truncated(MAX_LENGTH_TOKENS) for row in rows["multi-turn"]]
    rows["identical"] = rows["questions"][:1] * 3
    rows["one row"] = rows["multi-turn"][:1]
    return rows


BATCHES = ("questions", "multi-turn", "truncated", "identical", "one row")


def gradients(model, summed_loss):
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return summed_loss.item(), dict(
        zip(parameters, torch.autograd.grad(summed_loss, list(parameters.values())), strict=True)
    )


def row_by_row(model, rows):
    total = torch.zeros(())
    for row in rows:
        logits = model(input_ids=torch.tensor([row.input_ids]), use_cache=False).logits[0]
        labels = torch.tensor(row.labels)
        total = total + functional.cross_entropy(logits[:-1], labels[1:], reduction="sum", ignore_index=IGNORE_INDEX)
    return gradients(model, total)


def under_the_tree(model, rows):
    """The product's own way: the tree's mask, the last layer and the head at label positions alone."""
    return gradients(model, summed_loss(TreeForward()(model, **padded(rows))))


def largest_drift(one, other):
    """Relative, over the loss and every parameter's gradient (the norm of the difference)."""
    (loss, grads), (other_loss, other_grads) = one, other
    assert grads.keys() == other_grads.keys()
    assert len(grads) > 10
    assert all(grad.norm() > 0 for grad in other_grads.values())
    drifts = [((grads[name] - grad).norm() / grad.norm()).item() for name, grad in other_grads.items()]
    return max(abs(loss - other_loss) / other_loss, *drifts)


def longest(rows):
    return max(len(row.input_ids) for row in rows)


def test_the_batches_are_what_their_names_say(batches):
    assert tuple(batches) == BATCHES
    for name in ("questions", "multi-turn", "truncated", "identical"):
        plain, shared = saving(batches[name])
        assert shared < 0.8 * plain, name
    whole, cut = batches["multi-turn"], batches["truncated"]
    assert 0 < sum(len(row.input_ids) == MAX_LENGTH_TOKENS for row in cut) < len(cut)
    assert sum(row.num_label_tokens for row in cut) < sum(row.num_label_tokens for row in whole)
    assert len({tuple(row.input_ids) for row in cut}) < len(cut), "two rows coincide once they are cut"
    assert max(plan_tree(whole).label_weights) > 1, "labels that rows share"
    assert longest(whole) < plan_tree(whole).num_tokens, "rows that branch"


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", EXACT)
def test_loss_and_gradients_are_those_of_the_rows(name, batch, batches):
    config, rows = tiny_config(name), batches[batch]
    assert refusal(config, "sdpa", longest_row_tokens=longest(rows)) is None
    model = tiny_model(config)
    assert largest_drift(under_the_tree(model, rows), row_by_row(model, rows)) <= TOLERANCE


def test_only_some_layers_of_smollm3_have_positions():
    """Or the test above would not show that layers without positions are exact."""
    assert tiny_config("smollm3").no_rope_layers == [1, 0, 1, 0]
    assert tiny_config("smollm3-nope-listed").no_rope_layers == [1, 0, 0, 1]


def test_last_layers_and_an_untied_head_alone(batches):
    """The flagship's way to train: what is frozen gets no gradient, what trains gets the same."""
    model = tiny_model(tiny_config("smollm3"))
    model.requires_grad_(False)
    for part in (*model.model.layers[-2:], model.lm_head):
        part.requires_grad_(True)
    shared, plain = (path(model, batches["multi-turn"]) for path in (under_the_tree, row_by_row))
    assert largest_drift(shared, plain) <= TOLERANCE


# --- negative controls: the check above can fail, and each refusal has its cause --------------------------------------


def drift_if_run_anyway(config, rows, attention="sdpa"):
    model = tiny_model(config, attention)
    return largest_drift(under_the_tree(model, rows), row_by_row(model, rows))


def test_eager_attention_adds_the_bool_mask_as_a_number(batches):
    rows = batches["questions"]
    assert refusal(tiny_config("llama"), "eager") is not None
    assert drift_if_run_anyway(tiny_config("llama"), rows, "eager") > 0.01


@pytest.mark.parametrize("name", ["mistral", "gemma3_text"])
def test_a_window_shorter_than_the_rows(name, batches):
    rows = batches["multi-turn"]
    config = tiny_config(name, sliding_window=16)
    assert "shorter than the longest row" in refusal(config, "sdpa", longest_row_tokens=longest(rows))
    assert drift_if_run_anyway(config, rows) > 0.01


def test_a_window_that_the_longest_row_just_fits_in(batches):
    """Windows count keys of the row, and this one is shorter than the batch: exact to the last token."""
    rows = batches["multi-turn"]
    assert longest(rows) < plan_tree(rows).num_tokens
    for name in ("mistral", "gemma3_text"):
        config = tiny_config(name, sliding_window=longest(rows))
        assert refusal(config, "sdpa", longest_row_tokens=longest(rows)) is None
        assert drift_if_run_anyway(config, rows) <= TOLERANCE


def test_a_recurrent_layer(batches):
    config = tiny_config(
        "qwen3_next",
        layer_types=["linear_attention", "full_attention"] * 2,
        head_dim=8,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        num_experts=0,
        mlp_only_layers=[0, 1, 2, 3],
    )
    rows = [row.truncated(40) for row in batches["questions"]]
    assert "outside the attention mask" in refusal(config, "sdpa", longest_row_tokens=40)
    model = tiny_model(config)
    (shared, _), (plain, _) = under_the_tree(model, rows), row_by_row(model, rows)
    assert abs(shared - plain) / plain > 1e-3


def test_gemma2_is_refused_for_the_attention_it_would_run_with():
    """transformers gives Gemma-2 no sdpa (its scores are capped), so it runs eager, which is refused."""
    config = tiny_config("gemma2", head_dim=8)
    attention = AutoModelForCausalLM.from_config(config).config._attn_implementation
    assert attention == "eager"
    assert "cannot take a tree mask" in refusal(config, attention, longest_row_tokens=8)


def test_positions_must_be_depths(batches):
    """A model that ignored position_ids would number the tokens of the batch: that is not the same."""
    rows = batches["questions"]
    model = tiny_model(tiny_config("llama"))
    batch = padded(rows)
    tree = TreeBatch.of(batch["input_ids"], batch["labels"], batch["attention_mask"])
    inputs = {"input_ids": tree.input_ids, "attention_mask": dense_mask(tree.ends)}
    at_depths = model.base_model(**inputs, position_ids=tree.position_ids).last_hidden_state
    in_order = model.base_model(**inputs).last_hidden_state
    assert not torch.allclose(at_depths, in_order, rtol=1e-2)
