"""Logs as they are followed: every line once, also those written at once, and across a lost connection."""

import time

from tests.cluster.jobs import job
from tests.cluster.kinds import JOB

NAMESPACE, NAME, MASTER = "fieldcraft", "fieldcraft-smoke", "fieldcraft-smoke-master-0"
SECONDS = 100
NUM_BURSTS, BURST = 25, 3
# Lines that come in bursts, as a traceback does: those of a burst have one time stamp.
BURSTS = f'for i in $(seq {NUM_BURSTS}); do printf "$i a\\n$i b\\n$i c\\n"; sleep 0.2; done'
ALL_LINES = [f"{number} {part}" for number in range(1, NUM_BURSTS + 1) for part in "abc"]


def num_lines(cluster):
    return len(cluster.log_of(NAMESPACE, MASTER).splitlines())


def test_every_line_comes_once_though_the_connection_is_lost(cluster, start):
    cluster.create(JOB, job(NAME, BURSTS, workers=0))
    cluster.wait_until(lambda: num_lines(cluster) >= BURST, SECONDS, "for the first lines")
    following = start("logs", "cpu-smoke", "--follow")
    assert following.stdout.readline() == "1 a\n"
    cluster.go_down()
    time.sleep(1)
    assert num_lines(cluster) < NUM_BURSTS * BURST
    cluster.come_up()
    output = following.stdout.read()  # communicate() would lose what readline() has taken in already
    assert following.wait(SECONDS) == 0, output
    lines = ["1 a", *output.splitlines()]
    assert [line for line in lines if line[:1].isdigit()] == ALL_LINES
    assert f"the log of {MASTER} broke off" in output


def test_lines_of_all_ranks_come_with_their_rank(cluster, deploy):
    cluster.create(JOB, job(NAME, "echo me first; sleep 1; echo last words", worker_script="echo a worker"))
    cluster.wait_until(lambda: cluster.phase_of(NAMESPACE, MASTER) == "Succeeded", SECONDS)
    every = deploy("logs", "cpu-smoke", "--all")
    assert every.returncode == 0, every.stderr
    assert sorted(every.stdout.splitlines()) == ["[0] last words", "[0] me first", "[1] a worker"]
    tail = deploy("logs", "cpu-smoke", "--rank", "0", "--tail", "1")
    assert (tail.returncode, tail.stdout) == (0, "last words\n")
