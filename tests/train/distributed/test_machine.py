import pytest

from train.distributed import machine
from train.distributed.machine import available_memory_bytes, prove_volume


def test_a_container_limit_counts_for_more_than_the_machine(tmp_path):
    whole = available_memory_bytes(tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text(f"{2**20}\n")
    assert available_memory_bytes(tmp_path) == pytest.approx(whole, rel=0.2)
    (tmp_path / "memory.max").write_text(f"{3 * 2**20}\n")
    assert available_memory_bytes(tmp_path) == 2 * 2**20


def test_a_user_without_a_name(monkeypatch):
    def no_passwd_entry():
        raise KeyError("getpwuid(): uid not found: 1000660000")

    monkeypatch.setattr(machine.getpass, "getuser", no_passwd_entry)
    assert machine.user_name().endswith("(without a name)")


def test_a_volume_is_left_as_it_was(tmp_path):
    speed = prove_volume(tmp_path / "new", num_bytes=2**20)
    assert speed.write_bytes_per_second > 0
    assert not list(tmp_path.iterdir())
