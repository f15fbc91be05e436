"""The batch size that is found by trying: the search, the meter, and a run that equals the one set by hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from data.render import RenderedRow
from train.batching.tokenise import TokenisedRows, TrainingData
from train.config.run_config import resolve_config
from train.distributed.group import Ranks
from train.distributed.topology import Topology
from train.failure import ConfigError
from train.fast.choose import ChosenPath
from train.fast.fused_head import plain_forward
from train.model.adapt import adapt
from train.planning import auto_batch
from train.planning.auto_batch import divisors, largest_fitting, peak_of_step, settled_by_measure

ROOT = Path(__file__).parents[3]
PLAIN = ChosenPath("plain", plain_forward, [])
AUTO = ("optim.batch_size=auto", "optim.effective_batch_size=8")


def config(*overrides):
    return resolve_config("smoke", overrides, {}).config


@pytest.mark.parametrize(("limit", "found"), [(109, 0), (110, 1), (139, 3), (140, 4), (10_000, 12)])
def test_the_largest_that_fits(limit, found):
    tried = []

    def peak(rows):
        tried.append(rows)
        return 100 + 10 * rows

    assert largest_fitting(divisors(12), peak, limit) == found
    assert all(peak(rows) <= limit for rows in tried[2:-1])  # with two measured, nothing is tried that will not fit


def test_running_out_of_memory_ends_the_search():
    assert largest_fitting([1, 2, 4], lambda rows: None if rows > 1 else 5, 1e9) == 1


def test_the_search_is_bounded_in_time():
    assert largest_fitting([1, 2, 4], lambda rows: rows, 1e9, search_seconds=0.0) == 1


@pytest.mark.parametrize(
    ("overrides", "world_size", "settled"),
    [
        (("optim.batch_size=4", "optim.accumulation_steps=3"), 2, (4, 3)),
        (("optim.batch_size=4", "optim.effective_batch_size=64"), 2, (4, 8)),
        (("optim.batch_size=auto", "optim.effective_batch_size=64"), 2, (8, 4)),
        (("optim.batch_size=auto", "optim.effective_batch_size=66"), 2, (3, 11)),
    ],
)
def test_the_effective_batch_decides(overrides, world_size, settled):
    asked = config(*overrides)
    optim = asked.settled(world_size).optim
    assert (optim.batch_size, optim.accumulation_steps) == settled
    assert asked.settled(world_size).effective_batch_size(world_size) == asked.effective_batch_size(world_size)


def test_auto_is_spelt_auto():
    assert config(*AUTO).optim.batch_size == "auto"
    assert config(*AUTO).deciding_fields()["optim.batch_size"] == "auto"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("optim.batch_size=auto",), "the rows of a step must be given"),
        (("optim.batch_size=0",), "optim.batch_size: input should be greater than 0, not 0"),
        (("optim.batch_size=many",), "optim.batch_size: input should be a valid integer"),
        (("optim.batch_size=5", "optim.effective_batch_size=64"), "no multiple of optim.batch_size=5"),
        (("optim.effective_batch_size=63",), "cannot be shared by 2 ranks"),
    ],
)
def test_what_cannot_be(overrides, says):
    with pytest.raises(ConfigError) as raised:
        config(*overrides).settled(2)
    assert says in str(raised.value)


@pytest.fixture
def tiny():
    """A model whose logits are most of its memory: 20,000 words, 60 labels a row."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=20_000, **shape)).eval()
    adapt(model, config().adapt)
    rows = [RenderedRow(list(range(5, 69)), [-100] * 4 + list(range(9, 69))) for _ in range(64)]
    tokenised = TokenisedRows(rows, 0, 0)
    return model, TrainingData(tokenised, tokenised, "", [], {})


def test_a_trial_measures_and_leaves_no_trace(tiny):
    model, data = tiny
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    few, many = (peak_of_step(config(), model, PLAIN, data.train.rows[:number]) for number in (1, 64))
    assert many - few > 64 * 60 * 20_000 * 4 / 2  # the fp32 logits alone would be twice that
    assert torch.random.get_rng_state().equal(state)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(model.state_dict()[name].equal(tensor) for name, tensor in before.items())
    assert not model.training


def test_a_limit_between_two_sizes_is_found_by_measuring(tiny, monkeypatch):
    model, data = tiny
    asked = config("optim.batch_size=auto", "optim.effective_batch_size=64", "speed.prefix_sharing=off")
    limit = peak_of_step(config(), model, PLAIN, data.train.rows[:8]) + 250 * 2**20  # 64 rows need 300 MB of logits
    monkeypatch.setattr(auto_batch, "memory_limit_bytes", lambda *_: limit)
    settled = settled_by_measure(asked, model, data, Ranks(Topology()), checkpoint=None)
    assert 1 <= settled.optim.batch_size < 64
    assert settled.optim.batch_size * settled.optim.accumulation_steps == 64


def test_nothing_fits(tiny, monkeypatch):
    model, data = tiny
    monkeypatch.setattr(auto_batch, "memory_limit_bytes", lambda *_: 0)
    with pytest.raises(MemoryError, match=r"out of memory: one row of 64 tokens at a time needs more than 94%"):
        settled_by_measure(config(*AUTO), model, data, Ranks(Topology()), None)


def test_a_resumed_run_keeps_its_batch(tiny, tmp_path):
    (tmp_path / "trainer_state.json").write_text(json.dumps({"train_batch_size": 2}))
    settled = settled_by_measure(config(*AUTO), *tiny, Ranks(Topology()), tmp_path)
    assert (settled.optim.batch_size, settled.optim.accumulation_steps) == (2, 4)


def test_a_run_with_a_found_batch_equals_the_one_set_by_hand(run, history, tmp_path):
    """Memory is pretended to grow by 10 a row up to a limit of 129, so two rows fit."""
    folder = tmp_path / "auto"
    common = ["smoke", "output.demo=false", "optim.epochs=1", "data.max_train_rows=16"]
    program = (
        "import runpy, sys\n"
        "from train.planning import auto_batch\n"
        "search = auto_batch.largest_fitting\n"
        "auto_batch.largest_fitting = lambda sizes, peak, _: search(sizes, lambda n: peak(n) and 100 + 10 * n, 129)\n"
        f"sys.argv = {['train', *common, *AUTO, f'output.dir={folder}']!r}\n"
        "runpy.run_module('train', run_name='__main__')\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert finished.returncode == 0, finished.stderr
    chosen = json.loads((folder / "training_summary.json").read_text())["config"]["optim"]
    assert (chosen["batch_size"], chosen["accumulation_steps"]) == (2, 4)
    assert (
        f"{chosen['batch_size']} (the most that fit on every rank) x {chosen['accumulation_steps']}" in finished.stdout
    )
    by_hand = [f"optim.{name}={chosen[name]}" for name in ("batch_size", "accumulation_steps")]
    again = run("train", *common, *by_hand, f"output.dir={tmp_path / 'hand'}")
    assert again.returncode == 0, again.stderr
    for name in ("loss", "grad_norm", "learning_rate"):
        assert [r[name] for r in history(folder, "step")] == [r[name] for r in history(tmp_path / "hand", "step")]
