"""Prefix sharing and the activation cache against the plain path, step by step, through the command line."""

import itertools
import json
import random
import re
import statistics

import pytest
from safetensors.torch import load_file

TOLERANCE = 1e-5
COMMON = ("smoke", "data.max_train_rows=27", "optim.scale_learning_rate=false", "output.demo=false")
ONE = ("optim.batch_size=4", "optim.accumulation_steps=2")
TWO = ("optim.batch_size=2", "optim.accumulation_steps=2")
PLAIN = ("speed.prefix_sharing=off", "speed.activation_cache=off")
SHARED = ("speed.prefix_sharing=on", "speed.activation_cache=off")
CACHED = ("speed.prefix_sharing=on", "speed.activation_cache=on")


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def plain(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    finished = run("train", *COMMON, *ONE, *PLAIN, f"output.dir={folder}")
    assert finished.returncode == 0, finished.stderr
    return folder


def assert_same(history, plain, other):
    for kind, names in [("step", ("loss", "grad_norm")), ("evaluation", ("loss",))]:
        for name in names:
            one, two = ([record[name] for record in history(folder, kind)] for folder in (plain, other))
            drifts = [abs(a - b) / abs(a) for a, b in zip(one, two, strict=True)]
            assert max(drifts) <= TOLERANCE, (kind, name, drifts)
            assert statistics.mean(drifts) <= TOLERANCE / 2, (kind, name, drifts)
    one, two = (load_file(folder / "best_model" / "model.safetensors") for folder in (plain, other))
    assert one.keys() == two.keys()
    is_gemma = "gemma" in json.loads((plain / "best_model" / "config.json").read_text())["model_type"]
    for name in one:
        # Gemma's norms multiply by 1 + weight: their weights start at 0, where those of the others start at 1.
        used = one[name] + 1 if is_gemma and "norm" in name else one[name]
        assert (one[name] - two[name]).norm() <= 1e-4 * used.norm(), name


def test_prefix_sharing(run, plain, history, tmp_path):
    finished = run("train", *COMMON, *ONE, *SHARED, f"output.dir={tmp_path}")
    assert finished.returncode == 0, finished.stderr
    assert "prefix sharing: " in finished.stdout
    assert re.search(r"arithmetic: \S+ [GM]FLOP for \S+ [GM]FLOP, [1-9]\S* x less", finished.stdout)
    assert_same(history, plain, tmp_path)


def test_activation_cache_on_one_process_then_found_by_two(run, plain, history, tmp_path, cache_dir):
    first = run("train", *COMMON, *ONE, *CACHED, f"output.dir={tmp_path / 'one'}", CACHE_DIR=cache_dir)
    assert first.returncode == 0, first.stderr
    assert "activation cache: 2 of 4 layers computed" in first.stdout
    assert_same(history, plain, tmp_path / "one")
    arguments = [*COMMON, *TWO, *CACHED, f"output.dir={tmp_path / 'two'}", "--nproc", "2"]
    second = run("train", *arguments, CACHE_DIR=cache_dir)
    assert second.returncode == 0, second.stderr
    assert "activation cache: 2 of 4 layers found" in second.stdout
    assert_same(history, plain, tmp_path / "two")


def test_activation_cache_built_by_four_ranks_together(ranks, plain, history, tmp_path, monkeypatch):
    monkeypatch.setenv("CACHE_DIR", str(tmp_path / "cache"))
    batch = ("optim.batch_size=2", "optim.accumulation_steps=1")
    finished = ranks(4, *COMMON, *batch, *CACHED, f"output.dir={tmp_path / 'run'}")
    assert [process.returncode for process in finished] == [0, 0, 0, 0], finished[0].stderr
    assert "layers computed" in finished[0].stdout
    assert_same(history, plain, tmp_path / "run")


def test_where_it_is_not_exact_the_plain_path_is_taken_or_the_run_refused(run, tmp_path, history):
    tied = ("adapt.head=tied", "optim.epochs=1")
    fallen_back = run("train", *COMMON, *ONE, *tied, f"output.dir={tmp_path / 'auto'}")
    assert fallen_back.returncode == 0, fallen_back.stderr
    assert "no activation cache: the input embedding trains" in fallen_back.stdout
    refused = run("train", *COMMON, *ONE, *tied, *CACHED, f"output.dir={tmp_path / 'on'}")
    assert refused.returncode == 2
    assert "speed.activation_cache=on is not possible here: the input embedding trains" in refused.stderr
    eager = run("train", *COMMON, *ONE, "model.attention=eager", "optim.epochs=1", f"output.dir={tmp_path / 'eager'}")
    assert eager.returncode == 0, eager.stderr
    assert "plain: attention implementation 'eager' cannot take a tree mask" in eager.stdout


# --- other architectures, other rows ---------------------------------------------------------------------------------

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "head_dim": 16}
# Qwen2 is in test_prefix_sharing_models.py: AutoTokenizer reads any tokenizer beside it back as Qwen2's own.
ARCHITECTURES = {
    "smollm3": {"num_key_value_heads": 2, "no_rope_layers": [1, 0, 1, 0]},
    "qwen3": {"num_key_value_heads": 2},
    "gemma3_text": {"num_key_value_heads": 2},
    "gpt_neox": {},
}


def run_both(run, history, tmp_path, *settings):
    """One epoch by the plain path and by the fastest one; both must be the same run. Returns the fast one's lines."""
    settings = (*COMMON, "data.max_train_rows=12", "data.max_validation_rows=4", "optim.epochs=1", *ONE, *settings)
    environment = {"CACHE_DIR": str(tmp_path / "cache")}
    for name, path in [("plain", PLAIN), ("fast", CACHED)]:
        finished = run("train", *settings, *path, f"output.dir={tmp_path / name}", **environment)
        assert finished.returncode == 0, finished.stderr
    assert_same(history, tmp_path / "plain", tmp_path / "fast")
    return finished.stdout


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_architectures(run, history, tmp_path, model_type):
    shape = {"model_type": model_type, **SMALL, **ARCHITECTURES[model_type]}
    said = run_both(run, history, tmp_path, f"model.random_init={json.dumps(shape)}")
    assert "2 of 4 layers computed" in said


def words(seed):
    """Eight words that no other seed gives."""
    chance = random.Random(seed)
    return " ".join("".join(chance.choices("aeioubdklmnrst", k=6)) for _ in range(8)) + "."


@pytest.fixture(scope="module")
def chats(run, tmp_path_factory):
    """A data set of conversations of one to three turns, some of which begin alike."""
    folder = tmp_path_factory.mktemp("chats")
    rows = []
    for number in range(45):
        contents = [words(number % 15 if turn == 0 else 100 * number + turn) for turn in range(2 + 2 * (number % 3))]
        roles = itertools.cycle(("user", "assistant"))
        rows.append({"messages": [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    built = run("data", "build", str(folder / "rows.jsonl"), "--output", str(folder / "chats.parquet"))
    assert built.returncode == 0, built.stderr
    return folder / "chats.parquet"


@pytest.mark.slow
def test_conversations_of_several_turns(run, history, tmp_path, chats):
    run_both(run, history, tmp_path, f"data.dataset={chats}")


@pytest.mark.slow
def test_rows_cut_at_the_maximum_length(run, history, tmp_path):
    said = run_both(run, history, tmp_path, "data.max_length_tokens=400", "data.max_truncated_fraction=0.95")
    assert not re.search(r"\(0 cut", said)
