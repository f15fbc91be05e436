"""The watch over the ranks: who is named when one is gone, stalled, or failed first; and that nobody waits forever."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from train.distributed.heartbeat import StalledError, Vigil
from train.failure import ConfigError, ExitCode, PeerLostError, Phases

ROOT = Path(__file__).parents[3]
BEAT = 0.05


class SharedStore:
    """A store in memory; `frozen` ones block, as a store on a frozen host does."""

    def __init__(self):
        self.content, self.frozen = {}, threading.Event()

    def set(self, key, value):
        self._block()
        self.content[key] = value

    def get(self, key):
        self._block()
        return self.content[key].encode()

    def check(self, keys):
        self._block()
        return all(key in self.content for key in keys)

    def _block(self):
        while self.frozen.is_set():
            time.sleep(0.01)


class Company:
    """Ranks in threads, beating through one store; the first error each one's watch ends it with is in `left`."""

    def __init__(self, num_ranks, **options):
        self.store, self.left = SharedStore(), {}
        chosen = {"silence_timeout_seconds": 60, "stall_timeout_seconds": 60, "beat_seconds": BEAT} | options
        self.vigils = []
        for rank in range(num_ranks):
            leave = lambda error, rank=rank: self.left.setdefault(rank, error)  # noqa: E731
            self.vigils.append(Vigil(Phases(), rank, leave, **chosen))
        for vigil in self.vigils:
            vigil.watch_peers(self.store, num_ranks, rank_0_hosts_store=True)
        time.sleep(5 * BEAT)

    def await_left(self, rank):
        deadline = time.monotonic() + 10
        while rank not in self.left:
            assert time.monotonic() < deadline
            time.sleep(BEAT)
        return self.left[rank]

    def close(self):
        self.store.frozen.clear()
        for vigil in self.vigils:
            vigil._over.set()
            vigil.part()


@pytest.fixture
def company():
    made = []

    def make(*args, **options):
        made.append(Company(*args, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def die(vigil):
    """As SIGKILL would: no more beats, no farewell."""
    vigil._store = None


def test_a_rank_that_fell_silent_is_named(company):
    vigils = company(3).vigils
    die(vigils[2])
    explained = vigils[0].explain(RuntimeError("[gloo/tcp/pair.cc:1] Connection closed by peer\nmore"))
    assert isinstance(explained, PeerLostError)
    assert str(explained).startswith("rank 2 is gone: killed, frozen or out of reach, without a word (here: [gloo")


def test_a_rank_that_failed_says_why_to_all(company):
    vigils = company(3).vigils
    vigils[1].phases.current = "training"
    vigils[1].say_farewell(ConfigError("no such thing"))
    die(vigils[1])
    for rank in (0, 2):
        explained = vigils[rank].explain(RuntimeError("[gloo/tcp] Connection closed by peer"))
        assert "rank 1 left first: training: no such thing" in str(explained)


def test_a_rank_that_merely_lost_another_is_not_the_culprit(company):
    vigils = company(3).vigils
    vigils[1].say_farewell(PeerLostError("rank 2 is gone"))
    die(vigils[1])
    die(vigils[2])
    assert "rank 2 is gone" in str(vigils[0].explain(PeerLostError("lost")))


def test_peers_of_a_dead_host_are_not_taken_for_dead_because_they_cannot_be_heard(company):
    """Rank 2 was last heard a beat before rank 0 died: for a moment its silence is the longer one."""
    made = company(3, beat_seconds=0.2)
    watch = made.vigils[1]
    made.store.frozen.set()  # as when its host is gone: no more rounds
    watch.peers[2].heard_at = watch._round_at - 2 * watch.beat_seconds
    assert "rank 0 is gone" in str(watch.explain(PeerLostError("lost")))


def test_a_silent_rank_is_known_from_a_host_that_left_first(company):
    made = company(3)
    made.vigils[1].peers[0].farewell = {"exit_code": 203, "phase": "", "message": "rank 2 is gone", "silent": [2]}
    made.store.frozen.set()
    assert "rank 2 is gone" in str(made.vigils[1].explain(PeerLostError("lost")))


def test_errors_of_our_own_stay_what_they_are(company):
    error = ConfigError("mine")
    assert company(2).vigils[0].explain(error) is error


def test_alone_there_is_nobody_to_name():
    error = PeerLostError("lost")
    vigil = Vigil(Phases(), 0, lambda _: None, silence_timeout_seconds=1, stall_timeout_seconds=1)
    assert vigil.explain(error) is error


def test_a_silent_rank_ends_the_wait_of_the_others(company):
    made = company(2, silence_timeout_seconds=0.5)
    with made.vigils[0]:
        die(made.vigils[1])
        left = made.await_left(0)
    assert "rank 1 has given no sign of life for 0 s" in str(left)
    assert left.exit_code is ExitCode.PEER


def test_a_frozen_host_of_the_store_is_named(company):
    made = company(2, silence_timeout_seconds=0.5)
    with made.vigils[1]:
        made.store.frozen.set()
        assert "rank 0 has given no sign of life" in str(made.await_left(1))


def test_ranks_that_part_in_good_order_do_not_miss_each_other(company):
    made = company(2, silence_timeout_seconds=0.2)
    with made.vigils[0]:
        for vigil in made.vigils:
            vigil.part()
        time.sleep(0.6)
    assert not made.left


@pytest.mark.alone
def test_progress_keeps_the_watch_quiet_and_its_absence_names_who_is_behind(company, capfd):
    made = company(2, stall_timeout_seconds=0.5)
    for vigil in made.vigils:
        vigil.phases.current = "training"
    with made.vigils[0]:
        for _ in range(12):
            made.vigils[0].mark()
            time.sleep(0.1)
        assert not made.left
        left = made.await_left(0)
    assert isinstance(left, StalledError)
    assert "no progress for " in str(left)
    assert "rank 1 is behind, at 0 of 12 marks" in str(left)
    assert "most recent call first" in capfd.readouterr().err


def test_where_one_call_may_take_long_nothing_is_expected(company):
    made = company(1, stall_timeout_seconds=0.2)
    made.vigils[0].phases.current = "model"
    with made.vigils[0]:
        time.sleep(0.6)
    assert not made.left


def test_a_main_thread_that_hangs_ends_with_its_stack_and_exit_203(tmp_path):
    program = (
        "import sys, time\n"
        "from train.config.run_config import resolve_config\n"
        "from train.failure import Phases\n"
        "from train.fault_tolerance.guards import guarded\n"
        "from train.__main__ import leave\n"
        f"config = resolve_config('smoke', ['output.dir={tmp_path}', 'distributed.stall_timeout_seconds=1']).config\n"
        "phases = Phases()\n"
        "def waits_for_a_volume_that_is_gone():\n"
        "    time.sleep(60)\n"
        "with guarded(config, phases, 0, leave):\n"
        "    with phases('training'):\n"
        "        waits_for_a_volume_that_is_gone()\n"
    )
    began = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 203
    assert "waits_for_a_volume_that_is_gone" in ended.stderr
    assert "error: rank 0, training: no progress for " in ended.stderr.splitlines()[-1]
    assert '"failure_class": "peer"' in (tmp_path / "failure.json").read_text()
    assert time.monotonic() - began < 50
