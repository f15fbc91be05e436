"""The cached states are the ones the model computes; a cache that is not what was written is never used."""

import json
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from data.render import RenderedRow
from tests.random_rows import padded
from train.config.run_config import AdaptConfig
from train.distributed.group import Ranks
from train.distributed.topology import Topology
from train.fast.activation_cache import evict, is_valid, open_or_build, refusal
from train.fast.frozen_layers import compute_states, first_trained_layer, injected_states, without_trunk
from train.fast.row_layout import Layout
from train.fast.tree_batch import TreeBatch
from train.model.adapt import adapt, transformer_layers

TINY = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
MODEL_TYPES = ["llama", "smollm3", "qwen2", "qwen3", "gpt_neox"]
ROWS = [[5, 6, 7, 8, 9], [5, 6, 7, 1, 2, 3, 4], [5, 6, 7], [5, 6, 7, 8]]


def tiny(model_type="llama", **overrides):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**TINY, **overrides})).eval()
    adapt(model, AdaptConfig(last_n_layers=2))
    return model


def rendered(rows):
    return [RenderedRow(list(row), list(row)) for row in rows]


def states_of(model, rows):
    layout = Layout.of(rows)
    states = torch.full((layout.num_tokens, 16), float("nan"))
    compute_states(model, rows, layout, range(len(rows)), states)
    return layout, states


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("rows", [ROWS, [[1, 2], [3, 4, 5]], [[7, 7, 7]], [[4, 4], [4, 4]]])
def test_states_are_those_entering_the_first_trained_layer(model_type, rows):
    model = tiny(model_type)
    layout, states = states_of(model, rows)
    assert not states.isnan().any()
    for number, row in enumerate(rows):
        with torch.no_grad():
            hidden = model(torch.tensor([row]), output_hidden_states=True).hidden_states[2][0]  # [tokens, 16]
        mine = states[[layout.index(number, depth) for depth in range(len(row))]]
        torch.testing.assert_close(mine, hidden, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_top_alone_gives_the_same_logits(model_type):
    model = tiny(model_type)
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


@given(rows=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=8))
def test_layout_has_a_place_of_its_own_for_every_token(rows):
    layout = Layout.of(rows)
    places = [[layout.index(number, depth) for depth in range(len(row))] for number, row in enumerate(rows)]
    assert {place for row in places for place in row} == set(range(layout.num_tokens))
    for number, row in enumerate(rows):
        assert row[: layout.prefix_tokens] == rows[0][: layout.prefix_tokens]
        own = places[number][layout.prefix_tokens :]
        assert own == list(range(layout.offsets[number], layout.offsets[number + 1]))


@given(
    rows=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=8), ranks=st.integers(1, 4)
)
def test_shares_cover_every_row_once(rows, ranks):
    shares = Layout.of(rows).shares(ranks)
    assert len(shares) == ranks
    assert [row for share in shares for row in share] == list(range(len(rows)))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CACHE_DIR", str(tmp_path))
    model = tiny()

    def build(rows=ROWS, fingerprint="weights"):
        return open_or_build(model, rendered(rows), fingerprint, Ranks(Topology()))

    return build


def test_a_cache_is_found_again_and_its_key_covers_rows_and_weights(cache):
    first, was_there = cache()
    assert not was_there
    again, was_there = cache()
    assert was_there
    assert torch.equal(first.states, again.states)
    assert not cache(rows=ROWS[:2])[1]
    assert not cache(fingerprint="other weights")[1]


def flip_one_byte(folder):
    content = bytearray((folder / "states.bin").read_bytes())
    content[100] ^= 1
    (folder / "states.bin").write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        flip_one_byte,
        lambda folder: os.truncate(folder / "states.bin", 10),
        lambda folder: (folder / "states.bin").unlink(),
        lambda folder: (folder / "meta.json").write_text("{"),
        lambda folder: (folder / "meta.json").write_text("[]"),
        lambda folder: (folder / "meta.json").unlink(),
    ],
)
def test_a_damaged_cache_is_rebuilt(cache, damage):
    built, _ = cache()
    expected = built.states.clone()
    damage(built.folder)
    assert not is_valid(built.folder)
    rebuilt, was_there = cache()
    assert not was_there
    assert torch.equal(rebuilt.states, expected)
    assert is_valid(built.folder)


def test_nothing_half_built_is_left(cache, tmp_path, monkeypatch):
    def dies(*_):
        raise RuntimeError("killed")

    monkeypatch.setattr("train.fast.activation_cache.compute_states", dies)
    with pytest.raises(RuntimeError, match="killed"):
        cache()
    assert not list((tmp_path / "activations").iterdir())


def test_the_least_recently_used_caches_make_room(cache, tmp_path):
    folders = [cache(fingerprint=name)[0].folder for name in ("first", "second", "third")]
    for age, folder in enumerate(reversed(folders)):
        os.utime(folder / "meta.json", (1e9 - age, 1e9 - age))
    cache(fingerprint="first")  # used again
    size = sum(file.stat().st_size for file in folders[0].iterdir())
    abandoned, building = (tmp_path / "activations" / f".key.host.{pid}" for pid in (1, 2))
    for folder in (abandoned, building):
        folder.mkdir()
    os.utime(abandoned, (1e9, 1e9))
    evict(tmp_path / "activations", keep=folders[2], kept_bytes=int(2.5 * size))
    assert [folder.exists() for folder in folders] == [True, False, True]
    assert [folder.exists() for folder in (abandoned, building)] == [False, True]


def test_gather_takes_any_row_and_depth(cache):
    opened, _ = cache()
    gathered = opened.gather([1, 0, 1], [6, 0, 3])
    assert torch.equal(gathered[0], opened.states[opened.layout.index(1, 6)])
    assert torch.equal(gathered[1], opened.states[0])
    assert json.loads((opened.folder / "meta.json").read_text())["hidden_size"] == 16


def test_a_row_is_known_by_its_tokens(cache):
    opened, _ = cache()
    batch = padded(rendered([ROWS[2], ROWS[0]]))
    tree = TreeBatch.of(batch["input_ids"], batch["labels"], batch["attention_mask"], 8)
    states = opened.of_tree(tree)
    assert states.shape == (1, 8, 16)
    assert torch.equal(states[0, :5], opened.gather([0] * 5, range(5)))
    assert not states[0, 5:].any()
    unknown = padded(rendered([[9, 9]]))
    with pytest.raises(KeyError):
        opened.of_tree(TreeBatch.of(unknown["input_ids"], unknown["labels"], unknown["attention_mask"]))


def test_refusals():
    assert refusal(tiny(), AdaptConfig()) is None
    tied = tiny(tie_word_embeddings=True)
    tied.get_input_embeddings().weight.requires_grad_(True)
    assert "the input embedding trains" in refusal(tied, AdaptConfig(head="tied"))
    everything = tiny()
    everything.requires_grad_(True)
    assert refusal(everything, AdaptConfig(layers="all")) == "the lowest layer trains"


def test_only_the_head_trains():
    model = tiny()
    for layer in transformer_layers(model):
        layer.requires_grad_(False)
    assert first_trained_layer(model) == 3
