"""Ranks: meeting the peers in bounded time, and proving that all run the same thing.

The Kubeflow training operator injects WORLD_SIZE, RANK, MASTER_ADDR, MASTER_PORT and PET_*, but never LOCAL_RANK,
without which accelerate would let every pod train alone on its own. `join` supplies what is missing.
"""

import datetime
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from train import failure
from train.config.run_config import DistributedConfig
from train.distributed.heartbeat import Vigil
from train.distributed.machine import usable_cores
from train.distributed.topology import Topology, check_world_size
from train.failure import BadDataError, ConfigError, ModelError, PeerLostError, RunError

POLL_SECONDS = 0.2
CONNECT_SECONDS = 5.0
RENDEZVOUS = "rendezvous"
READ_SECONDS = 60.0
"""A rank that has come and does not read what was told for so long is lost."""

_MISMATCH_ERRORS: Mapping[str, type[RunError]] = {"data": BadDataError, "model": ModelError}


@dataclass
class Ranks:
    """The running group of processes has a key-value store all can reach, and torch's process group over it."""

    topology: Topology
    store: dist.Store | None = None
    vigil: Vigil | None = None

    def mark(self) -> None:
        """Note that progress was made."""
        if self.vigil is not None:
            self.vigil.mark()

    def agree(self, round_name: str, facts: Mapping[str, Any], timeout_seconds: float) -> None:
        """Stop unless every rank holds the same facts; the error names the rank and the fact that differ.

        Facts travel as JSON through the store, so this works before and without a process group.
        """
        if self.store is None:
            return
        self.store.set(f"{round_name}/{self.topology.rank}", json.dumps(dict(facts)))
        self._wait_for_all(round_name, timeout_seconds)
        known = [json.loads(self.store.get(f"{round_name}/{rank}")) for rank in range(self.topology.world_size)]
        self.store.set(f"{round_name} read/{self.topology.rank}", "")
        if self.topology.is_main:  # it hosts the store: were it to leave first, the others could not say what differs
            self._wait_for_all(f"{round_name} read", min(timeout_seconds, READ_SECONDS))
        for rank, facts_of_rank in enumerate(known):
            _compare(known[0], facts_of_rank, rank)

    def tell(self, round_name: str, value: Any) -> Any:
        """Return rank 0's value on every rank (JSON values only); what the other ranks pass is ignored."""
        if self.store is None:
            return value
        if self.topology.is_main:
            self.store.set(f"{round_name}/told", json.dumps(value))
        return json.loads(self.store.get(f"{round_name}/told"))

    def decide(self, round_name: str, decision: Callable[[], Any], timeout_seconds: float) -> Any:
        """Return what rank 0 decides on every rank (JSON values only); a RunError it meets is raised on every rank."""
        told: dict[str, Any] = {}
        if self.topology.is_main:
            try:
                told = {"decided": decision()}
            except RunError as error:
                told = {"error": [type(error).__name__, error.problem, error.remedy]}
        told = self.tell(round_name, told)
        if self.store is not None:
            self.store.set(f"{round_name} read/{self.topology.rank}", "")
            if self.topology.is_main:  # it hosts the store, and may leave next
                self._wait_for_all(f"{round_name} read", min(timeout_seconds, READ_SECONDS))
        if "error" in told:
            name, problem, remedy = told["error"]
            raise vars(failure)[name](problem, remedy)
        return told["decided"]

    def all_true(self, value: bool) -> bool:
        """Say whether the value is true on every rank."""
        return bool(self.smallest(int(value)))

    def smallest(self, value: int) -> int:
        """Return the smallest of all ranks' values, on every rank."""
        if self.store is None:
            return value
        agreed = torch.tensor(value)
        dist.all_reduce(agreed, op=dist.ReduceOp.MIN)
        return int(agreed)

    def _wait_for_all(self, round_name: str, timeout_seconds: float) -> None:
        assert self.store is not None
        waiting = set(range(self.topology.world_size))
        deadline = time.monotonic() + timeout_seconds
        while waiting := {rank for rank in waiting if not self.store.check([f"{round_name}/{rank}"])}:
            if time.monotonic() > deadline:
                raise PeerLostError(
                    f"waited {timeout_seconds:.0f} s for all {self.topology.world_size} ranks ({round_name}), but "
                    f"rank {', '.join(map(str, sorted(waiting)))} did not come",
                    "Check that every pod is running and reaches MASTER_ADDR, or raise "
                    "distributed.rendezvous_timeout_seconds.",
                )
            time.sleep(POLL_SECONDS)

    def leave(self) -> None:
        """Wait until every rank is done, then close the group. Rank 0 hosts the store, so it goes last."""
        if self.store is None:
            return
        dist.barrier()
        if self.vigil is not None:
            self.vigil.part()
        dist.destroy_process_group()


def _compare(reference: Mapping[str, Any], other: Mapping[str, Any], rank: int) -> None:
    for name in dict.fromkeys([*reference, *other]):  # in the order given: settings before what follows from them
        if reference.get(name) != other.get(name):
            error = _MISMATCH_ERRORS.get(name, ConfigError)
            raise error(
                f"rank {rank} differs from rank 0 in {name}: {other.get(name)!r} against {reference.get(name)!r}",
                "All ranks must run the same image, recipe, overrides, data and model.",
            )


def join(topology: Topology, config: DistributedConfig, vigil: Vigil | None = None) -> Ranks:
    """Meet all peers within `rendezvous_timeout_seconds` and open the process group (NCCL on GPUs, else gloo).

    Raises:
        ConfigError: the number of ranks is not the one the recipe is made for.
        PeerLostError: some rank did not come in time; the message names it.
    """
    check_world_size(topology, config)
    if topology.world_size == 1:
        return Ranks(topology, vigil=vigil)
    _complete_environment(topology)
    ranks = Ranks(topology, _open_store(topology, config.rendezvous_timeout_seconds), vigil)
    ranks.agree(RENDEZVOUS, {"world size": topology.world_size}, config.rendezvous_timeout_seconds)
    if vigil is not None and ranks.store is not None:  # before the process group: its making may hang for good
        beats = dist.PrefixStore("vigil", ranks.store.clone())  # a connection of its own: it may block
        vigil.watch_peers(beats, topology.world_size, rank_0_hosts_store=not _agent_hosts_store())
    if torch.cuda.is_available():
        torch.cuda.set_device(topology.local_rank)
    dist.init_process_group(
        backend="cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        store=dist.PrefixStore("process-group", ranks.store),
        rank=topology.rank,
        world_size=topology.world_size,
        timeout=datetime.timedelta(seconds=config.collective_timeout_seconds),
    )
    return ranks


def _agent_hosts_store() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _open_store(topology: Topology, timeout_seconds: int) -> dist.Store:
    """Rank 0 hosts the store, unless torch's elastic agent hosts one at the same address already.

    A rank that starts again at once may find the store of the life before, which rank 0 is the last to leave. There
    everybody seems to have come, and the addresses are of ranks that are gone: it waits for rank 0's next life.
    """
    hosts_it = topology.is_main and not _agent_hosts_store()
    if hosts_it:
        return _connect(topology, timeout_seconds, hosts_it=True)
    deadline = time.monotonic() + timeout_seconds
    while True:
        _wait_for_port(topology, timeout_seconds)
        try:
            store = _connect(topology, timeout_seconds, hosts_it=False)
            if not store.check([f"{RENDEZVOUS} read/0"]):  # rank 0 has not seen all of us come
                return store
        except dist.DistNetworkError:
            pass  # rank 0 left at this very moment
        if time.monotonic() > deadline:
            raise PeerLostError(
                f"rank 0 at {topology.master_addr}:{topology.master_port} was for {timeout_seconds} s in a run that "
                f"rank {topology.rank} had left",
                "Rank 0 does not notice that its peer is gone; start all ranks again.",
            )
        time.sleep(POLL_SECONDS)


def _connect(topology: Topology, timeout_seconds: int, *, hosts_it: bool) -> dist.Store:
    store = dist.TCPStore(
        topology.master_addr,
        topology.master_port,
        topology.world_size,
        is_master=hosts_it,
        timeout=datetime.timedelta(seconds=timeout_seconds),
        wait_for_workers=False,
    )
    return dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _wait_for_port(topology: Topology, timeout_seconds: float) -> None:
    """Wait until rank 0 listens; torch's own client would print stack traces while it waits."""
    address = (topology.master_addr, topology.master_port)
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            socket.create_connection(address, timeout=CONNECT_SECONDS).close()
            return
        except OSError as error:  # refused, unreachable, or its name does not resolve yet
            if time.monotonic() > deadline:
                raise PeerLostError(
                    f"could not reach rank 0 at {address[0]}:{address[1]} within {timeout_seconds:.0f} s ({error})",
                    "Check that rank 0 is running and that its name resolves.",
                ) from error
            time.sleep(POLL_SECONDS)


def _complete_environment(topology: Topology) -> None:
    """Set what accelerate reads and the training operator leaves out."""
    os.environ["LOCAL_RANK"] = str(topology.local_rank)
    os.environ["LOCAL_WORLD_SIZE"] = str(topology.local_world_size)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // topology.local_world_size)))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
