"""Faults thrown at runs, by chance from a seed; what must hold after each of them; and the tally.

A supervisor starts all ranks, waits for the moment of the next fault, strikes, and starts all ranks again once they
have left, as a kubelet would. After every fault: no rank stays longer than the configured time, every exit code is one
that asks for another try, what is published is whole, every committed checkpoint is what was written. In the end the
run is bit for bit one that nothing disturbed.
"""

import itertools
import json
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from tests.forked_ranks import Gang, Rank, run_gang
from tests.tiny_runs import CACHED, PLAIN, tiny_run
from train.run_folder.manifest import is_published, verify_manifest
from train.run_folder.run_folder import COMMITTED, RunFolder

COLLECTIVE_TIMEOUT_SECONDS = 30
BOUND_SECONDS = 150
"""After a fault all ranks must have left by then, on a machine that many share: time-out, farewell, grace and spare."""

EVERY_RUN = (
    f"distributed.collective_timeout_seconds={COLLECTIVE_TIMEOUT_SECONDS}",
    "distributed.rendezvous_timeout_seconds=60",
    "output.keep_checkpoints=3",
)
TRY_AGAIN_CODES = {0, 137, 143, 203}
SHAPES = ((2, CACHED), (3, PLAIN), (4, CACHED), (2, PLAIN))
MOMENTS = ("any time", "checkpoint", "evaluation", "publication")
KINDS = ("SIGKILL", "SIGTERM", "SIGSTOP for a while", "SIGSTOP for good")


@dataclass(frozen=True)
class Fault:
    """What is done to which rank, and when. `share` places it in time, or in the stretch the moment names."""

    kind: str
    moment: str
    rank_share: float
    share: float

    def victim(self, gang: Gang) -> Rank:
        alive = [rank for rank in gang.ranks if rank.process.is_alive()]
        return alive[int(self.rank_share * len(alive))]


def draw_faults(seed: int) -> Iterator[Fault]:
    """Faults without end: the kinds at chance, the moments in turn so that none is missed."""
    chance = random.Random(seed)
    for moment in itertools.cycle(MOMENTS):
        kind = chance.choices(KINDS, weights=(8, 5, 5, 1))[0]
        yield Fault(kind, moment, chance.random(), chance.random())


@dataclass
class Tally:
    """What was done and what came of it."""

    faults: Counter[str] = field(default_factory=Counter)
    codes: Counter[int] = field(default_factory=Counter)
    attempts: int = 0
    runs: int = 0
    slowest_leave_seconds: float = 0.0

    @property
    def num_faults(self) -> int:
        return self.faults.total()

    def __str__(self) -> str:
        rows = [f"  {number:>4}  {name}" for name, number in sorted(self.faults.items())]
        codes = ", ".join(f"{code}: {number}" for code, number in sorted(self.codes.items()))
        return "\n".join(
            [
                f"{self.num_faults} faults in {self.attempts} attempts at {self.runs} runs",
                *rows,
                f"exit codes of ranks: {codes}",
                f"slowest departure after a fault: {self.slowest_leave_seconds:.0f} s (allowed: {BOUND_SECONDS} s)",
                f"{self.runs} of {self.runs} runs bit-equal to the undisturbed one; no hang; nothing invalid published",
            ]
        )


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing happened to: what the others must come to, and how long one takes."""

    folder: Path
    seconds: float


class Storm:
    """Disturbed runs of several shapes in `root`; raises AssertionError where something does not hold."""

    def __init__(self, root: Path, seed: int, say: Callable[[str], None] = print) -> None:
        self.root, self.say = root, say
        self.faults, self.chance = draw_faults(seed), random.Random(seed + 1)
        self.tally = Tally()
        self._undisturbed: dict[tuple[int, Sequence[str]], Undisturbed] = {}

    def rage(self, num_faults: int, deadline: float, shapes: Sequence[tuple[int, Sequence[str]]] = SHAPES) -> Tally:
        """Runs of these shapes in turn until so many faults have struck, or `deadline` (monotonic) is near."""
        for world_size, path in itertools.cycle(shapes):
            self.disturbed_run(world_size, path, min(10, num_faults - self.tally.num_faults), deadline)
            if self.tally.num_faults >= num_faults or time.monotonic() > deadline:
                return self.tally
        raise AssertionError("unreachable")

    def undisturbed(self, world_size: int, path: Sequence[str]) -> Undisturbed:
        key = (world_size, path)
        if key not in self._undisturbed:
            folder = self.root / f"undisturbed-{len(self._undisturbed)}"
            arguments = [*self._arguments(world_size, path), f"output.dir={folder / 'run'}"]
            gang = run_gang(world_size, arguments, folder / "logs")
            self._undisturbed[key] = Undisturbed(folder / "run", min(gang.seconds, BOUND_SECONDS / 2))
        return self._undisturbed[key]

    def disturbed_run(self, world_size: int, path: Sequence[str], num_faults: int, deadline: float) -> None:
        """One run, with up to so many faults, to its end."""
        undisturbed = self.undisturbed(world_size, path)
        self.tally.runs += 1
        base = self.root / f"disturbed-{self.tally.runs}"
        folder = RunFolder(base / "run")
        arguments = [*self._arguments(world_size, path), f"output.dir={folder.root}"]
        left = num_faults
        for attempt in itertools.count():
            self.tally.attempts += 1
            with Gang(world_size, arguments, base / f"attempt-{attempt}") as gang:
                while left > 0 and time.monotonic() < deadline and self._strike(gang, folder, undisturbed.seconds):
                    left -= 1
                codes = self._await_departure(gang)
            assert_sound(folder)
            if codes[0] == 0:
                break
        assert_same_run(folder, RunFolder(undisturbed.folder))
        self.say(f"run {self.tally.runs}: {world_size} ranks, {' '.join(path)}: bit-equal, {attempt + 1} attempts")

    def _arguments(self, world_size: int, path: Sequence[str]) -> list[str]:
        return tiny_run(self.root / "data", world_size, *EVERY_RUN, *path)

    def _strike(self, gang: Gang, folder: RunFolder, usual_seconds: float) -> bool:
        """Do the next fault; False if the gang must be started again before there can be another, or is done."""
        fault = next(self.faults)
        if not await_moment(fault, gang, folder, usual_seconds):
            return False
        victim = fault.victim(gang)
        where = _phase(folder)
        self.say(f"  {fault.kind} to rank {victim.number} of {len(gang.ranks)}, {fault.moment} ({where})")
        self.tally.faults[f"{fault.kind}, {fault.moment}"] += 1
        if fault.kind == "SIGSTOP for a while":
            victim.send(signal.SIGSTOP)
            time.sleep(0.5 + 3 * self.chance.random())
            victim.send(signal.SIGCONT)
            return True
        if fault.kind == "SIGSTOP for good":
            victim.send(signal.SIGSTOP)
            self._await_others(gang, victim)
            victim.send(signal.SIGKILL)
        else:
            victim.send(signal.Signals[fault.kind])
        began = time.monotonic()
        self._await_departure(gang, count=False)
        self.tally.slowest_leave_seconds = max(self.tally.slowest_leave_seconds, time.monotonic() - began)
        return False

    def _await_others(self, gang: Gang, frozen: Rank) -> None:
        """All but the frozen rank leave by themselves; a single rank that is left has nobody to miss it."""
        deadline = time.monotonic() + BOUND_SECONDS
        for rank in gang.ranks:
            if rank is not frozen:
                assert rank.await_end(deadline - time.monotonic()) is not None, f"hangs: {rank}\n{gang.errors()}"

    def _await_departure(self, gang: Gang, *, count: bool = True) -> list[int]:
        codes = gang.await_end(BOUND_SECONDS)
        assert None not in codes, f"a rank hangs: {codes}\n{gang.errors()}"
        assert set(codes) <= TRY_AGAIN_CODES, f"{codes}\n{gang.errors()}"
        if count:
            self.tally.codes.update(code for code in codes if code is not None)
        return [code for code in codes if code is not None]


def await_moment(fault: Fault, gang: Gang, folder: RunFolder, usual_seconds: float) -> bool:
    """Wait for the moment of a fault; False if a rank that matters has left before it came."""
    began, seen_steps = time.monotonic(), _steps(gang)
    while gang.ranks[0].process.is_alive():
        seconds = time.monotonic() - began
        if seconds > BOUND_SECONDS:
            raise AssertionError(f"no progress towards '{fault.moment}'\n{gang.errors()}")
        if fault.moment == "any time" and seconds >= 0.8 * fault.share * usual_seconds:
            return True
        if fault.moment == "checkpoint" and _half_written(folder):
            time.sleep(0.02 * fault.share)
            return True
        if fault.moment == "evaluation" and any(step % 2 == 0 for step in _steps(gang)[len(seen_steps) :]):
            time.sleep(0.1 * fault.share)
            return True
        if fault.moment == "publication" and folder.best_model.with_name(".best_model.new").is_dir():
            time.sleep(2 * fault.share)
            return gang.ranks[0].process.is_alive()
        time.sleep(0.002)
    return False


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _half_written(folder: RunFolder) -> bool:
    return any(not (path / COMMITTED).exists() for path in folder.checkpoints.glob("checkpoint-*"))


def _steps(gang: Gang) -> list[int]:
    """Steps that rank 0 has printed: a step's line comes before its evaluation."""
    lines = [line for line in gang.ranks[0].out.splitlines() if line.startswith("step ")]
    return [int(line.removeprefix("step ").partition("/")[0]) for line in lines]


def _phase(folder: RunFolder) -> str:
    try:
        status = json.loads(folder.status.read_text())
    except (OSError, ValueError):
        return "starting"
    return f"{status.get('phase')}, step {status.get('step', 0)}"


def assert_sound(folder: RunFolder) -> None:
    """What is published is whole, and so is every checkpoint that counts."""
    if folder.best_model.exists():
        assert is_published(folder.best_model), "published without its marker"
        verify_manifest(folder.best_model)
    for marker in folder.checkpoints.glob(f"checkpoint-*/{COMMITTED}"):
        verify_manifest(marker.parent)


def assert_same_run(folder: RunFolder, other: RunFolder) -> None:
    """Bit-equal: loss, gradient norm and learning rate of every step, evaluations; best, published and last weights."""
    assert _numbers(folder) == _numbers(other)
    last = max(folder.checkpoints.glob(f"checkpoint-*/{COMMITTED}"), key=lambda path: _step_of(path.parent)).parent.name
    for name in (
        "checkpoints/best.safetensors",
        "best_model/model.safetensors",
        f"checkpoints/{last}/trainable.safetensors",
    ):
        weights, others = load_file(folder.root / name), load_file(other.root / name)
        assert weights.keys() == others.keys()
        assert all(np.array_equal(weights[key], others[key]) for key in weights), name


def _numbers(folder: RunFolder) -> list[tuple[object, ...]]:
    names = ("kind", "step", "loss", "grad_norm", "learning_rate", "token_accuracy")
    records = json.loads(folder.history.read_text())
    assert records
    return sorted(tuple(str(record.get(name)) for name in names) for record in records)
