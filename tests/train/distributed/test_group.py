import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.free_ports import free_port
from train.distributed.group import _compare
from train.failure import BadDataError, ConfigError, ModelError

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("fact", "error"), [("data", BadDataError), ("model", ModelError), ("optim.epochs", ConfigError)]
)
def test_a_rank_that_differs_is_named(fact, error):
    with pytest.raises(error, match=f"rank 3 differs from rank 0 in {fact}: 2 against 1"):
        _compare({fact: 1, "same": 0}, {fact: 2, "same": 0}, rank=3)


def rank_process(code, rank, port, world_size=2, timeout_seconds=20):
    program = (
        "import os\n"
        "from train.config.run_config import DistributedConfig\n"
        "from train.distributed.group import join\n"
        "from train.distributed.topology import read_topology\n"
        f"config = DistributedConfig(rendezvous_timeout_seconds={timeout_seconds})\n"
        "ranks = join(read_topology(os.environ), config)\n" + code
    )
    environment = os.environ | {
        "WORLD_SIZE": str(world_size),
        "RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ranks_meet_agree_tell_and_leave():
    port = free_port()
    code = (
        "import json, os\n"
        "ranks.agree('shape', {'data': 'x'}, 20)\n"
        "told = ranks.tell('word', ['hello'] if ranks.topology.is_main else None)\n"
        "all_true = [ranks.all_true(True), ranks.all_true(ranks.topology.is_main)]\n"
        "print(json.dumps([told, all_true, os.environ['LOCAL_RANK']]))\n"
        "ranks.leave()\n"
    )
    outputs = [process.communicate(timeout=60) for process in [rank_process(code, rank, port) for rank in (0, 1)]]
    assert [json.loads(out) for out, _ in outputs] == [[["hello"], [True, False], "0"]] * 2


def test_a_rank_with_other_data_is_named_by_all():
    port = free_port()
    code = "ranks.agree('shape', {'data': ranks.topology.rank}, 20)\n"
    errors = [process.communicate(timeout=60)[1] for process in [rank_process(code, rank, port) for rank in (0, 1)]]
    assert all("rank 1 differs from rank 0 in data: 1 against 0" in error for error in errors)


def test_a_rank_that_is_back_before_rank_0_has_left_waits_for_its_next_life():
    """Killed, and started again while rank 0 still hosts the store in which all had met; another peer is gone."""
    port = free_port()
    old = [rank_process("print('met', flush=True)\nimport time\ntime.sleep(60)\n", rank, port, 3) for rank in range(3)]
    assert [process.stdout.readline() for process in old] == ["met\n"] * 3
    for process in old[1:]:
        process.kill()
    early = rank_process("print('met')\nranks.leave()\n", 2, port, 3, timeout_seconds=60)
    with pytest.raises(subprocess.TimeoutExpired):
        early.wait(6)
    old[0].kill()
    new = [rank_process("ranks.leave()\n", rank, port, 3, timeout_seconds=60) for rank in (0, 1)]
    outputs = [process.communicate(timeout=60) for process in [early, *new]]
    assert [process.returncode for process in [early, *new]] == [0, 0, 0], outputs
    assert outputs[0][0] == "met\n"
    for process in old:
        process.communicate()


@pytest.mark.parametrize(("rank", "says"), [(0, "rank 1 did not come"), (1, "could not reach rank 0 at 127.0.0.1")])
def test_waiting_for_peers_is_bounded(rank, says):
    started = time.monotonic()
    _, error = rank_process("", rank, free_port(), timeout_seconds=2).communicate(timeout=60)
    assert "PeerLostError" in error
    assert says in error
    assert time.monotonic() - started < 30
