"""Watching over a run: which ranks live, whether this one gets anywhere, and who was the first to fail.

Every rank writes a beat to the store all can reach, from a thread, and reads the others'. A rank that is killed or
frozen beats no more; one that fails says so before it leaves. A rank that beats but makes no progress is stalled: it
prints where each of its threads is, and leaves. So no rank waits for another without bound, whatever the backend.
No torch here.
"""

import faulthandler
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from train.failure import ON_REQUEST, ExitCode, PeerLostError, Phases, RunError, describe_failure, exit_code_of

BEAT_SECONDS = 1.0
SILENT_BEATS = 4
"""Beats missed after which a rank is named as silent, once something has failed."""

FAREWELL_SECONDS = 6.0
"""Longest time that a failing rank gives the others to hear of it."""

CULPRIT_SECONDS = 12.0
"""Longest time that a rank which lost another takes to learn who failed first: silence shows after a few beats."""

DESERTED_SECONDS = 30.0
"""Time within which a rank notices by itself that another has left, before it is made to leave."""

WATCHED_PHASES = ("speed", "training")
"""Where progress is marked. Elsewhere one call may take long: reading a large data set, loading a model."""


class Store(Protocol):
    """The part of torch's key-value store that is used here."""

    def set(self, key: str, value: str) -> Any: ...
    def get(self, key: str) -> bytes: ...
    def check(self, keys: list[str]) -> bool: ...


class StalledError(RunError):
    exit_code = ExitCode.PEER


@dataclass
class Peer:
    """What is known of another rank."""

    number: int = 0
    """Of its last beat."""
    heard_at: float = 0.0
    marks: int = 0
    farewell: Mapping[str, Any] | None = None
    left_at: float = 0.0


class Vigil:
    """Watches over one rank and its peers, within a `with` block; an error that leaves it is told to the peers.

    `leave` ends the process and reports why; it is called from a thread, when the main one stands still.
    """

    def __init__(
        self,
        phases: Phases,
        rank: int,
        leave: Callable[[RunError], None],
        *,
        silence_timeout_seconds: float,
        stall_timeout_seconds: float,
        beat_seconds: float = BEAT_SECONDS,
    ) -> None:
        self.phases, self.rank, self._leave = phases, rank, leave
        self.silence_timeout_seconds, self.stall_timeout_seconds = silence_timeout_seconds, stall_timeout_seconds
        self.beat_seconds = beat_seconds
        self.peers: dict[int, Peer] = {}
        self._marks, self._marked_at = 0, time.monotonic()
        self._phase_seen = ""
        self._store: Store | None = None
        self._rank_0_hosts_store = True
        self._round_at = 0.0
        self._farewell: str | None = None
        self._farewell_said, self._over, self._hurry = threading.Event(), threading.Event(), threading.Event()

    def mark(self) -> None:
        """Note that something got done: a micro-batch, an evaluation batch, a batch of the cache, a checkpoint."""
        self._marks += 1
        self._marked_at = time.monotonic()

    def watch_peers(self, store: Store, world_size: int, *, rank_0_hosts_store: bool) -> None:
        """Exchange beats through `store` from now on, which nobody else may use: a call may block for long."""
        now = time.monotonic()
        self.peers = {rank: Peer(heard_at=now) for rank in range(world_size) if rank != self.rank}
        self._store, self._rank_0_hosts_store, self._round_at = store, rank_0_hosts_store, now
        threading.Thread(target=self._exchange_beats, name="beats", daemon=True).start()

    def part(self) -> None:
        """Part from the others in good order: nobody is missed from now on."""
        self._store, self.peers = None, {}
        self._hurry.set()

    def __enter__(self) -> "Vigil":
        threading.Thread(target=self._watch, name="vigil", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if error is None:
            self.part()
            return
        explained = self.explain(error)
        self.say_farewell(explained)
        if explained is not error:
            raise explained from error

    def explain(self, error: BaseException) -> BaseException:
        """Return `error`, or where it only says that a peer is gone, one that says which and its last words."""
        if exit_code_of(error) is not ExitCode.PEER or not self.peers or isinstance(error, StalledError):
            return error
        culprit = self._await_culprit()
        if culprit is None:
            return error
        first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return PeerLostError(f"{culprit} (here: {first_line[:200]})", "Start again to go on from the last checkpoint.")

    def say_farewell(self, error: BaseException) -> None:
        """Tell the peers why this rank leaves; who hosts the store stays until they have read it. Bounded in time."""
        if self._store is None:
            return
        record = describe_failure(error, self.phases.current, self.rank)
        told = {"exit_code": record.exit_code, "phase": record.phase, "message": record.message}
        self._farewell = json.dumps(told | {"silent": self.silent_peers()})
        self._hurry.set()
        deadline = time.monotonic() + FAREWELL_SECONDS
        self._farewell_said.wait(FAREWELL_SECONDS / 2)  # the other half is for the peers to read it
        if record.exit_code in ON_REQUEST:
            return  # all were asked, or will be told by what follows; who asked does not wait
        if self.rank == 0 and self._rank_0_hosts_store:
            beats = {rank: peer.number for rank, peer in self.peers.items()}
            while time.monotonic() < deadline and self._peers_yet_to_read(beats):
                time.sleep(0.05)

    def _peers_yet_to_read(self, beats: Mapping[int, int]) -> list[int]:
        """Ranks that have read nothing since they were at these beats: two later, a whole round has passed."""
        gone = self.silent_peers()
        return [
            rank
            for rank, peer in self.peers.items()
            if peer.farewell is None and rank not in gone and peer.number < beats[rank] + 2
        ]

    def silent_peers(self, seconds: float | None = None) -> list[int]:
        """Return the ranks not heard of for so long (default: a few beats), which said no farewell."""
        seconds = SILENT_BEATS * self.beat_seconds if seconds is None else seconds
        unheard = {rank: peer for rank, peer in self.peers.items() if peer.farewell is None}
        if time.monotonic() - self._round_at > seconds:  # nobody can be heard: the store is gone, and with it its host
            host_is_a_peer = self._rank_0_hosts_store and self.rank != 0
            return [rank for rank in unheard if rank == 0 or not host_is_a_peer]
        return [rank for rank, peer in unheard.items() if self._round_at - peer.heard_at > seconds]

    def _await_culprit(self) -> str | None:
        """Who failed first, in words: a rank that said why it failed, else one that fell silent."""
        deadline = time.monotonic() + CULPRIT_SECONDS
        while time.monotonic() < deadline:
            for rank, peer in sorted(self.peers.items(), key=lambda item: item[1].left_at):
                if peer.farewell and peer.farewell["exit_code"] != ExitCode.PEER:
                    return f"rank {rank} left first: {peer.farewell['phase']}: {peer.farewell['message']}"
            if silent := self.silent_peers() or self._named_by_peers():
                named = ", ".join(map(str, silent))
                return f"rank {named} is gone: killed, frozen or out of reach, without a word"
            time.sleep(0.05)
        return None

    def _named_by_peers(self) -> list[int]:
        """Ranks that those who left had found silent; the host of the store may leave before this rank finds it too."""
        named = {rank for peer in self.peers.values() if peer.farewell for rank in peer.farewell["silent"]}
        return sorted(rank for rank in named if rank in self.peers and self.peers[rank].farewell is None)

    def _exchange_beats(self) -> None:
        number = 0
        while (store := self._store) is not None:
            number += 1
            try:
                self._beat(store, number)
            except RuntimeError:  # its host is gone: silence says so
                self._farewell_said.set()
                return
            self._hurry.wait(self.beat_seconds)
            self._hurry.clear()

    def _beat(self, store: Store, number: int) -> None:
        store.set(f"beat/{self.rank}", f"{number} {self._marks}")
        if self._farewell is not None and not self._farewell_said.is_set():
            store.set(f"farewell/{self.rank}", self._farewell)
            self._farewell_said.set()
        for rank, peer in list(self.peers.items()):
            if store.check([f"beat/{rank}"]):
                their_number, marks = map(int, store.get(f"beat/{rank}").split())
                if their_number != peer.number:
                    peer.number, peer.marks, peer.heard_at = their_number, marks, time.monotonic()
            if peer.farewell is None and store.check([f"farewell/{rank}"]):
                peer.left_at = time.monotonic()
                peer.farewell = json.loads(store.get(f"farewell/{rank}"))
        self._round_at = time.monotonic()

    def _watch(self) -> None:
        """The thread that ends the process when the main one cannot."""
        while not self._over.wait(self.beat_seconds):
            error = self._reason_to_leave()
            if error is not None:
                if not isinstance(error, PeerLostError):  # a silent peer is not to be found in our own stacks
                    faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
                if not self._over.is_set():
                    self._leave(error)
                return

    def _reason_to_leave(self) -> RunError | None:
        if silent := self.silent_peers(self.silence_timeout_seconds):
            return PeerLostError(
                f"rank {', '.join(map(str, silent))} has given no sign of life for "
                f"{self.silence_timeout_seconds:.0f} s (distributed.collective_timeout_seconds)",
                "Look at that pod or process: frozen, killed or out of reach. Start again to go on.",
            )
        idle_seconds = self._idle_seconds()
        left = [(rank, peer) for rank, peer in self.peers.items() if peer.farewell is not None]
        for rank, peer in left:
            assert peer.farewell is not None
            if min(idle_seconds, time.monotonic() - peer.left_at) > DESERTED_SECONDS:
                return StalledError(
                    f"rank {rank} left ({peer.farewell['message']}) and this rank stood still for {idle_seconds:.0f} s",
                    "The stacks above show where.",
                )
        if self.phases.current in WATCHED_PHASES and idle_seconds > self.stall_timeout_seconds:
            return StalledError(
                f"no progress for {idle_seconds:.0f} s "
                f"(distributed.stall_timeout_seconds={self.stall_timeout_seconds:g}){self._who_is_behind()}",
                "The stacks above show where; a rank that is behind the others is the one to look at.",
            )
        return None

    def _idle_seconds(self) -> float:
        """Time since something got done, or since the phase began."""
        if self.phases.current != self._phase_seen:
            self._phase_seen, self._marked_at = self.phases.current, time.monotonic()
        return time.monotonic() - self._marked_at

    def _who_is_behind(self) -> str:
        known = {rank: peer.marks for rank, peer in self.peers.items()} | {self.rank: self._marks}
        least, most = min(known.values()), max(known.values())
        if least == most:
            return ""
        behind = [rank for rank, marks in known.items() if marks == least]
        return f"; rank {', '.join(map(str, sorted(behind)))} is behind, at {least} of {most} marks of progress"
