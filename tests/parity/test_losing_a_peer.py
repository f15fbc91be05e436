"""When a rank is killed or frozen, every other one leaves within the configured time, and says which it was."""

import json
import signal
import time

import psutil
import pytest

from tests.forked_ranks import Gang, run_gang
from tests.tiny_runs import CACHED, PLAIN, tiny_run
from train.config.run_config import DistributedConfig
from train.failure import ExitCode

TIMEOUT_SECONDS = 15
SPARE_SECONDS = 90
"""For a machine that is busy: the farewell takes a few seconds, and each rank must be scheduled."""

LONGEST_KUBELET_BACK_OFF_SECONDS = 300


def start(world_size, tmp_path, *more):
    settings = (f"distributed.collective_timeout_seconds={TIMEOUT_SECONDS}", f"output.dir={tmp_path / 'run'}")
    return Gang(world_size, tiny_run(tmp_path / "data", world_size, *settings, *more, epochs=20), tmp_path / "logs")


@pytest.mark.parametrize("victim", [0, 2])
def test_a_killed_rank(tmp_path, victim):
    with start(3, tmp_path, *CACHED) as gang:
        gang.await_line("step 2/")
        gang.ranks[victim].send(signal.SIGKILL)
        began = time.monotonic()
        codes = gang.await_end(TIMEOUT_SECONDS + SPARE_SECONDS)
    assert codes == [137 if rank == victim else ExitCode.PEER for rank in range(3)], gang.errors()
    assert time.monotonic() - began < TIMEOUT_SECONDS + SPARE_SECONDS
    survivors = [rank for rank in gang.ranks if rank.number != victim]
    assert all(f"rank {victim} is gone: killed, frozen or out of reach" in rank.error for rank in survivors)
    assert all("Traceback" not in rank.error for rank in survivors)
    record = json.loads((tmp_path / "run" / "failure.json").read_text())
    assert (record["failure_class"], record["phase"]) == ("peer", "training")
    assert f"rank {victim} is gone" in record["message"]
    assert not (tmp_path / "run" / "best_model").exists()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_frozen_rank(tmp_path, victim):
    with start(2, tmp_path, *PLAIN) as gang:
        gang.await_line("step 2/")
        gang.ranks[victim].send(signal.SIGSTOP)
        other = gang.ranks[1 - victim]
        assert other.await_end(TIMEOUT_SECONDS + SPARE_SECONDS) == ExitCode.PEER, gang.errors()
        assert f"rank {victim} is gone" in other.error or f"rank {victim} has given no sign of life" in other.error
        gang.ranks[victim].send(signal.SIGCONT)  # it comes back to find nobody
        assert gang.ranks[victim].await_end(TIMEOUT_SECONDS + SPARE_SECONDS) == ExitCode.PEER, gang.errors()


def test_frozen_for_less_than_the_time_out_is_no_failure(tmp_path):
    arguments = [*tiny_run(tmp_path / "data", 2, *PLAIN, epochs=2), f"output.dir={tmp_path / 'run'}"]
    with Gang(2, arguments, tmp_path / "logs") as gang:
        gang.await_line("step 1/")
        gang.ranks[1].send(signal.SIGSTOP)
        time.sleep(6)  # longer than it takes to be named, had anything failed
        gang.ranks[1].send(signal.SIGCONT)
        assert gang.await_end(150) == [0, 0], gang.errors()


def test_a_second_run_in_the_same_folder_is_refused_on_every_rank(tmp_path):
    with start(2, tmp_path, *PLAIN) as first:
        first.await_line("step 1/")
        arguments = [*tiny_run(tmp_path / "data", 2, *PLAIN), f"output.dir={tmp_path / 'run'}"]
        with Gang(2, arguments, tmp_path / "second") as second:
            assert second.await_end(100) == [2, 2], second.errors()
        assert all("is being written by another run (process " in rank.error for rank in second.ranks)
        assert first.ranks[0].process.is_alive()
        assert not (tmp_path / "run" / "failure.json").exists()


def test_a_rank_waits_longer_for_the_others_than_a_kubelet_takes_to_start_them_again():
    assert DistributedConfig().rendezvous_timeout_seconds > 2 * LONGEST_KUBELET_BACK_OFF_SECONDS


def test_a_run_that_is_over_leaves_no_lock(tmp_path):
    arguments = [*tiny_run(tmp_path / "data", 2, *CACHED, epochs=1), f"output.dir={tmp_path / 'run'}"]
    run_gang(2, arguments, tmp_path / "logs")
    assert not list((tmp_path / "run").rglob("*.lock"))
    again = run_gang(2, arguments, tmp_path / "again")
    assert "holds this very run, finished" in again.ranks[0].out


def test_a_rank_that_is_killed_while_the_process_group_is_made(tmp_path):
    with start(3, tmp_path, *CACHED, "distributed.rendezvous_timeout_seconds=20") as gang:
        deadline = time.monotonic() + SPARE_SECONDS
        while not any(_meets(rank) for rank in gang.ranks[1:]):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        gang.ranks[1].send(signal.SIGKILL)
        codes = gang.await_end(2 * TIMEOUT_SECONDS + SPARE_SECONDS)
    assert codes == [ExitCode.PEER, 137, ExitCode.PEER], gang.errors()


def _meets(rank):
    """Whether a rank has connected to the store."""
    connections = psutil.Process(rank.process.pid).net_connections("tcp")
    return any(each.status == psutil.CONN_ESTABLISHED for each in connections)
