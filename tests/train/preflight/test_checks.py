"""Each check of one rank that can fail, made to fail."""

import dataclasses
from types import SimpleNamespace

import pytest

from train.config.run_config import resolve_config
from train.distributed.machine import VolumeSpeed
from train.distributed.topology import Topology
from train.failure import ConfigError, MemoryShortError, StorageError
from train.preflight import checks as preflight_checks
from train.preflight.checks import Facts, Warned

GIB = 2**30


def facts_of(tmp_path, *overrides, **fields):
    resolved = resolve_config("smoke", [f"output.dir={tmp_path / 'run'}", *overrides], {})
    return Facts(resolved, Topology(), **fields)


def sizes(**fields):
    return SimpleNamespace(parameters=SimpleNamespace(num_trainable=10**9, num_total=3 * 10**9), **fields)


def test_too_little_memory_is_refused_and_tight_memory_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight_checks, "run_sizes", lambda *_: sizes(memory_bytes=9 * GIB))
    for free, verdict in [(20 * GIB, str), (10 * GIB, Warned)]:
        monkeypatch.setattr(preflight_checks, "device_memory", lambda _, free=free: (free, "a test"))
        assert isinstance(preflight_checks.memory(facts_of(tmp_path)), verdict)
    monkeypatch.setattr(preflight_checks, "device_memory", lambda _: (9 * GIB, "a test"))
    with pytest.raises(MemoryShortError, match=r"9.0 GiB needed \(estimate\), 9.0 GiB free"):
        preflight_checks.memory(facts_of(tmp_path))


def test_the_run_folder_must_have_room_for_all_it_will_hold(tmp_path, monkeypatch):
    facts = facts_of(tmp_path, "output.keep_checkpoints=1", sizes=sizes())
    needed = 3 * 12 * 10**9 + 2 * 4 * 10**9 + 2 * 3 * 10**9 * 4  # checkpoints, best weights, models in fp32
    assert preflight_checks.run_folder_bytes(facts.config, facts.sizes) == needed
    monkeypatch.setattr(preflight_checks, "free_bytes", lambda _: needed)
    assert "GiB free" in preflight_checks.space(facts)
    monkeypatch.setattr(preflight_checks, "free_bytes", lambda _: needed - 1)
    with pytest.raises(StorageError, match=r"keep_checkpoints"):
        preflight_checks.space(facts)


def test_a_checkpoint_must_fit_into_the_grace_period(tmp_path):
    facts = facts_of(tmp_path, "distributed.grace_seconds=30", sizes=sizes())
    facts.volume = VolumeSpeed(write_bytes_per_second=10**9, flush_seconds=0.1)
    assert "about 12.5 s of the 30 s" in preflight_checks.stopping(facts)
    facts.volume = dataclasses.replace(facts.volume, write_bytes_per_second=10**8)
    with pytest.raises(ConfigError, match=r"about 120.5 s, longer than distributed.grace_seconds=30"):
        preflight_checks.stopping(facts)


@pytest.mark.parametrize(("workers", "warned"), [(0, False), (2, True)])
def test_little_shared_memory_matters_to_who_uses_it(tmp_path, monkeypatch, workers, warned):
    monkeypatch.setattr(preflight_checks, "shared_memory_bytes", lambda: 64 * 2**20)
    saw = preflight_checks.shared_memory(facts_of(tmp_path, f"trl.dataloader_num_workers={workers}"))
    assert isinstance(saw, Warned) == warned
    assert "64 MiB" in (saw.detail if warned else saw)


def test_a_large_data_set_is_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight_checks, "MANY_ROWS", 600)
    monkeypatch.setattr(preflight_checks, "SAMPLED_ROWS", 10)
    facts = facts_of(tmp_path, "data.max_train_rows=null")
    preflight_checks.template(facts)
    assert "a sample of 10 was rendered" in preflight_checks.data(facts)
    assert len(facts.data.train.rows) == 10
    assert preflight_checks.num_train_rows(facts) == 600  # of 667, less a tenth
    assert "sample" in preflight_checks.beginning(facts)
