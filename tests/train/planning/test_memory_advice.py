"""Advice when memory runs out: what is proposed, that it would help, and that it hides nothing when it fails itself."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.forked_commands import clean_environment
from train.config.run_config import resolve_config
from train.distributed.machine import available_memory_bytes
from train.distributed.topology import Topology
from train.failure import ConfigError, ExitCode, MemoryShortError, describe_failure
from train.planning import memory_advice
from train.planning.memory_advice import advised, estimator, memory_remedy, useful_changes, with_settings

ROOT = Path(__file__).parents[3]
GIB = 2**30
CUDA_MESSAGE = (
    "CUDA out of memory. Tried to allocate 1.96 GiB. GPU 0 has a total capacity of 44.53 GiB of which 512.00 MiB is "
    "free. Process 77 has 43.97 GiB memory in use."
)


def config_of(recipe, *overrides):
    return resolve_config(recipe, overrides, {}).config


@pytest.mark.parametrize(
    ("recipe", "world_size", "overrides"),
    [
        ("smollm3-l40s-x4", 4, ["optim.batch_size=32", "optim.effective_batch_size=256"]),
        ("smollm3-l40s-x1", 1, ["adapt.layers=all"]),
        ("laptop", 1, ["optim.accumulation_steps=3", "model.precision=fp32", "speed.activation_cache=off"]),
        ("smoke", 1, ["optim.gradient_checkpointing=true"]),
    ],
)
def test_every_change_lowers_the_estimate_and_keeps_the_rows_of_a_step(recipe, world_size, overrides):
    config = config_of(recipe, *overrides).settled(world_size)
    needed = estimator(config, world_size)
    changes = useful_changes(config, world_size, needed, 0.5 * needed(config))
    assert 1 <= len(changes) <= 3
    assert [change.needed_bytes for change in changes] == sorted(change.needed_bytes for change in changes)
    for change in changes:
        changed = with_settings(config, change.settings)
        assert needed(changed) == change.needed_bytes < needed(config)
        assert changed.effective_batch_size(world_size) == config.effective_batch_size(world_size)
        typed = str(change).partition(" (")[0].split()
        again = config_of(recipe, *overrides, *typed).settled(world_size)  # it can be typed as it is printed
        assert needed(again) == change.needed_bytes
    assert any(change.is_exact for change in changes)


def test_the_mildest_value_that_fits_is_taken():
    config = config_of("smollm3-l40s-x4", "optim.batch_size=48", "optim.accumulation_steps=1")
    needed = estimator(config, 4)
    limit = needed(with_settings(config, {"optim.batch_size": 16})) + 1
    [batch] = [c for c in useful_changes(config, 4, needed, limit) if "optim.batch_size" in c.settings]
    assert batch.settings == {"optim.batch_size": 16, "optim.accumulation_steps": 3}


def test_changes_that_leave_the_result_alone_go_first():
    config = config_of("smollm3-l40s-x4", "adapt.layers=all", "speed.activation_cache=off")

    def needed(changed):
        if changed.optim.batch_size != config.optim.batch_size:
            return 90
        if changed.optim.gradient_checkpointing:
            return 80
        if changed.speed.activation_cache == "on":
            return 94
        return 100 if changed == config else 1  # the others would save far more

    named = [next(iter(change.settings)) for change in useful_changes(config, 4, needed, 50)]
    assert named == ["optim.gradient_checkpointing", "optim.batch_size", "speed.activation_cache"]


def test_where_nothing_is_left_to_turn_it_says_so():
    smallest = ["optim.batch_size=1", "optim.accumulation_steps=1", "optim.gradient_checkpointing=true"]
    smallest += ["adapt.last_n_layers=1", "adapt.head=frozen", "data.max_length_tokens=64", "model.precision=auto"]
    config = config_of("smoke", *smallest)
    assert "Use a smaller model" in memory_remedy(config, Topology(), 1)


def test_an_automatic_batch_counts_as_one_row_and_several_processes_are_named():
    config = config_of("laptop", "optim.batch_size=auto", "optim.effective_batch_size=32")
    remedy = memory_remedy(config, Topology(world_size=2, local_world_size=2), GIB)
    assert "optim.batch_size" not in remedy
    assert "data.max_length_tokens=" in remedy
    assert "fewer processes on this machine" in remedy


def test_a_failure_keeps_its_own_words_and_tells_what_was_asked_and_free():
    error = torch.OutOfMemoryError(CUDA_MESSAGE)
    record = describe_failure(advised(error, config_of("laptop"), "training"), "training", 0)
    assert record.exit_code == ExitCode.MEMORY
    assert "Process 77 has 43.97 GiB memory in use (asked for 1.96 GiB, 512 MiB free on" in record.message
    assert "optim.batch_size=8 optim.accumulation_steps=2 (" in record.remedy


def test_to_load_the_model_smaller_batches_are_no_help():
    remedy = advised(MemoryError(), config_of("laptop", "optim.batch_size=64"), "model").remedy
    assert remedy.startswith("To load it takes about")
    assert "adapt.head=frozen" in remedy
    assert "batch_size" not in remedy
    in_data = advised(MemoryError(), config_of("laptop"), "data")
    assert "memory limit" in in_data.remedy
    assert str(in_data).startswith("MemoryError (")  # by which `diagnose` knows it


def test_it_never_hides_the_failure(monkeypatch):
    error = MemoryError("out of memory")
    unknown = advised(error, config_of("smoke", "model.name=/no/such", "model.random_init=null"), "training")
    assert str(unknown).startswith("out of memory (")
    assert describe_failure(unknown, "training", 0).remedy.startswith("Lower optim.batch_size")
    refused = ConfigError("said already")
    assert advised(refused, config_of("smoke"), "training") is refused

    def fails(*_):
        raise MemoryError

    monkeypatch.setattr(memory_advice, "device_memory", fails)
    assert advised(error, config_of("smoke"), "training") is error


LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30,) * 2)
sys.argv = sys.argv[1:]
runpy.run_module("train", run_name="__main__")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is enforced on Linux")
def test_a_run_whose_allocation_fails(tmp_path):
    """Each activation of a layer this wide takes gigabytes, and the process may have six of them in all."""
    folder = tmp_path / "run"
    settings = [
        f"output.dir={folder}",
        "model.random_init.intermediate_size=60000",
        "speed.prefix_sharing=off",
        "data.max_validation_rows=1",
        "evaluation.batch_size=1",
        "optim.batch_size=32",
        "optim.accumulation_steps=1",
    ]
    finished = subprocess.run(
        [sys.executable, "-c", LIMITED, "train", "smoke", *settings],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert finished.returncode == ExitCode.MEMORY, finished.stderr
    [line] = [line for line in finished.stderr.splitlines() if line.startswith("error:")]
    assert line.startswith("error: rank 0, training: ")
    record = json.loads((folder / "failure.json").read_text())
    assert record["failure_class"] == "memory"
    for text in (line, record["message"]):
        assert "you tried to allocate" in text
        assert "(asked for 3." in text
        assert "GiB free on the host)" in text or "MiB free on the host)" in text
    assert record["remedy"].count(" (") == 4  # the estimate, and three changes
    assert "optim.batch_size=" in record["remedy"]
    assert "Traceback" not in finished.stderr


def test_a_limit_of_the_address_space_counts(tmp_path):
    program = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**30,) * 2)\n"
    program += "from train.distributed.machine import available_memory_bytes; print(available_memory_bytes())"
    finished = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert 0 < int(finished.stdout) < GIB
    assert available_memory_bytes(tmp_path) > 0


def test_preflight_computes_its_remedy(tmp_path, monkeypatch):
    from train.preflight import checks as preflight_checks
    from train.preflight.checks import Facts

    resolved = resolve_config("smollm3-l40s-x1", [f"output.dir={tmp_path}"], {})
    monkeypatch.setattr(preflight_checks, "device_memory", lambda _: (8 * GIB, "a test"))
    with pytest.raises(MemoryShortError, match=r"optim.batch_size=1 optim.accumulation_steps=60 \("):
        preflight_checks.memory(Facts(resolved, Topology()))
