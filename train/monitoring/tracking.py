"""Trackers told of a run while it goes on: TensorBoard and Aim in the run folder, MLflow there or on a server.

transformers' own callbacks call the tracker from the training loop: one that is down stops the run, a slow one slows
it. Here the loop puts records into a queue, and a thread of rank 0 does the rest. A tracker that fails is named once
and tried again later; what it then has not taken is counted. `training_history.json` has everything in any case.
"""

import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from train.config.run_config import ResolvedConfig
from train.distributed.group import Ranks
from train.masking import masked
from train.monitoring.sink import Description, Point, Sink
from train.monitoring.system_metrics import SECONDS_BETWEEN_SAMPLES, SystemMetrics
from train.monitoring.trackers import SINKS
from train.run_folder.provenance import provenance
from train.run_folder.run_folder import RunFolder

SECONDS_BETWEEN_SENDS = 2.0
SECONDS_BETWEEN_TRIES = 30.0
PAUSE_SECONDS = 5.0
"""How long the end of training waits for a tracker to take what is left."""

FINISH_SECONDS = 20.0
INSTALL = "Install it with: pip install '.[tracking]'"
MOST_KEPT = 100_000
"""Numbers kept for a tracker that does not answer: some 10,000 steps."""


def points_of(record: Mapping[str, Any], seconds: float) -> list[Point]:
    """Return the numbers of a history record under the names trackers know them by.

    >>> [p.name for p in points_of({"kind": "evaluation", "step": 4, "loss": 2.0, "loss_by_topic": {"knots": 1.0}}, 0)]
    ['validation/loss', 'validation/topic/knots']
    """
    if record["kind"] == "epoch":
        return []
    side = "train" if record["kind"] == "step" else "validation"
    skipped = {"step", "total_steps", "percent"}
    numbers = {f"{side}/{key}": v for key, v in record.items() if isinstance(v, int | float) and key not in skipped}
    topics = {f"{side}/topic/{topic}": loss for topic, loss in record.get("loss_by_topic", {}).items()}
    return [Point(name, float(value), record["step"], seconds) for name, value in {**numbers, **topics}.items()]


class Tracked:
    """Holds one sink and what it has not taken yet; the tracker's thread alone uses it."""

    def __init__(self, sink: Sink) -> None:
        self.sink, self.pending, self.num_lost = sink, list[Point](), 0
        self._is_open = self._was_named = False
        self._next_try = 0.0

    def send(self, points: Sequence[Point], *, now: bool = False) -> None:
        """Hand over what is there, unless the sink failed a moment ago; `now`: even then."""
        self.pending += points
        self.num_lost += max(0, len(self.pending) - MOST_KEPT)
        del self.pending[: max(0, len(self.pending) - MOST_KEPT)]
        if self.pending and (now or time.monotonic() >= self._next_try):
            self._try(self._deliver)

    def _deliver(self) -> None:
        if not self._is_open:
            self.sink.open()
            self._is_open = True
        self.sink.send(self.pending)
        self.pending = []

    def finish(self, files: Sequence[Path]) -> None:
        self.send([], now=True)
        if self._is_open and not self.pending:
            self._try(lambda: self.sink.finish(files))
        if self.num_lost or self.pending:
            self._say(f"{self.num_lost + len(self.pending)} numbers were not delivered; the history has them")

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever a tracker does, the run goes on
            self._next_try = time.monotonic() + SECONDS_BETWEEN_TRIES
            if not self._was_named:
                remedy = INSTALL if isinstance(error, ModuleNotFoundError) else "The run goes on without it"
                self._say(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}. {remedy}")
            self._was_named = True

    def _say(self, what: str) -> None:
        warn(f"{self.sink.name}: {what}")


def warn(what: str) -> None:
    print(f"warning: tracking: {masked(what)}.", file=sys.stderr, flush=True)


class Tracker:
    """Is the watcher of rank 0, and feeds all sinks from a thread of its own."""

    def __init__(self, sinks: Sequence[Sink], system: SystemMetrics, folder: RunFolder) -> None:
        self.tracked, self.system, self.folder = [Tracked(sink) for sink in sinks], system, folder
        self._points: queue.SimpleQueue[Point] = queue.SimpleQueue()
        self._step = 0
        self._wanted, self._idle, self._finished = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def enter(self, phase: str) -> None:
        if phase == "done":
            self._finished.set()
            self._wanted.set()
            self._thread.join(FINISH_SECONDS)
            if self._thread.is_alive():
                warn(f"not finished after {FINISH_SECONDS:.0f} s; the run folder has everything")

    def show(self, record: Mapping[str, Any]) -> None:
        self._step = record["step"]
        for point in points_of(record, time.time()):
            self._points.put(point)

    def pause(self) -> None:
        self._idle.clear()
        self._wanted.set()
        self._idle.wait(PAUSE_SECONDS)

    def _work(self) -> None:
        """Send every few seconds, and at once when asked to, until the run is done."""
        next_sample = 0.0
        while not self._finished.is_set():
            was_asked = self._wanted.wait(SECONDS_BETWEEN_SENDS)
            self._wanted.clear()
            if time.monotonic() >= next_sample:
                next_sample = time.monotonic() + SECONDS_BETWEEN_SAMPLES
                self._sample_system()
            self._send(now=was_asked)
            if was_asked:
                self._idle.set()
        files = [path for path in (self.folder.summary, self.folder.report, self.folder.demo) if path.is_file()]
        for tracked in self.tracked:
            tracked.finish(files)

    def _sample_system(self) -> None:
        for name, value in self.system.of_all_ranks().items():
            self._points.put(Point(f"system/{name}", value, self._step, time.time()))

    def _send(self, *, now: bool) -> None:
        points = [self._points.get() for _ in range(self._points.qsize())]
        for tracked in self.tracked:
            tracked.send(points, now=now)


class SystemReporter:
    """Is the watcher of the other ranks: it lets rank 0 know what they take of their machines."""

    def __init__(self, system: SystemMetrics) -> None:
        self.system = system

    def enter(self, phase: str) -> None:
        pass

    def show(self, record: Mapping[str, Any]) -> None:
        pass

    def pause(self) -> None:
        self.system.stop()


def open_tracker(
    resolved: ResolvedConfig, folder: RunFolder, ranks: Ranks, identity: Mapping[str, Any], first_step: int
) -> list[Tracker | SystemReporter]:
    """Start this rank's part in tracking, and return it."""
    system = SystemMetrics(ranks.topology.rank, ranks.topology.world_size, ranks.store)
    if not ranks.topology.is_main:
        system.start()
        return [SystemReporter(system)]
    description = describe_run(resolved, identity, first_step)
    tracker = Tracker([SINKS[name](folder, description) for name in resolved.config.output.track], system, folder)
    tracker.start()
    return [tracker]


def describe_run(resolved: ResolvedConfig, identity: Mapping[str, Any], first_step: int) -> Description:
    """Describe a run to trackers: parameters are what decides the weights, tags say of what: code, data, model."""
    facts = {"recipe": resolved.recipe, "data": identity["data"], "model": identity["model"], **provenance()}
    return Description(
        name=resolved.config.output.dir.name,
        parameters={name: str(value) for name, value in identity.items() if value is not None},
        tags={f"fieldcraft.{name}": str(value) for name, value in facts.items() if value is not None},
        first_step=first_step,
    )
