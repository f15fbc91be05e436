"""A cache that is not what was written is never used; what is cached is found again by a row's tokens."""

import json
import os

import pytest
import torch

from data.render import RenderedRow
from tests.random_rows import padded
from tests.tiny_models import tiny_model
from train.config.run_config import AdaptConfig
from train.distributed.group import Ranks
from train.distributed.topology import Topology
from train.fast.activation_cache import evict, is_valid, open_or_build, refusal
from train.fast.tree_batch import TreeBatch

ROWS = [[5, 6, 7, 8, 9], [5, 6, 7, 1, 2, 3, 4], [5, 6, 7], [5, 6, 7, 8]]


def rendered(rows):
    return [RenderedRow(list(row), list(row)) for row in rows]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CACHE_DIR", str(tmp_path))
    model = tiny_model()

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
    assert refusal(tiny_model(), AdaptConfig()) is None
    tied = tiny_model(tie_word_embeddings=True)
    tied.get_input_embeddings().weight.requires_grad_(True)
    assert "the input embedding trains" in refusal(tied, AdaptConfig(head="tied"))
    everything = tiny_model()
    everything.requires_grad_(True)
    assert refusal(everything, AdaptConfig(layers="all")) == "the lowest layer trains"
