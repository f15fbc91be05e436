"""Ports for servers that another process starts: no other worker of the suite, and no outgoing connection, takes them.

A port that the kernel picks is out of its hands until the server listens, seconds later; meanwhile it may be given to
anybody. These lie below the range that Linux picks from, and every worker has a stretch of its own.
"""

import itertools
import os
import random
import socket

FIRST_PORT, PORTS_PER_WORKER, NUM_STRETCHES = 12_000, 2_000, 10
"""Linux picks from 32768 on (net.ipv4.ip_local_port_range)."""

_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_first = FIRST_PORT + _worker % NUM_STRETCHES * PORTS_PER_WORKER
_offsets = itertools.count(random.SystemRandom().randrange(PORTS_PER_WORKER))  # two suites may run on one machine


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, and that is not given again before all others were."""
    for _ in range(PORTS_PER_WORKER):
        port = _first + next(_offsets) % PORTS_PER_WORKER
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no port is free from {_first} to {_first + PORTS_PER_WORKER - 1}")
