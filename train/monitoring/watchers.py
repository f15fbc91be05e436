"""Who watches a run, beside its own history: `status.json` from the first phase on, Prometheus, trackers.

Also counts how often the run was started. Nothing here takes part in the computation, and nothing may stop it.
"""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.files import read_json
from train.batching.steps import steps_per_epoch
from train.config.run_config import ResolvedConfig
from train.distributed.group import Ranks
from train.fault_tolerance.checkpoints import checkpoint_step
from train.monitoring.display import pick_display
from train.monitoring.recorder import Recorder
from train.monitoring.watcher import Watcher
from train.run_context import Run
from train.run_folder.retries import write_json_if_possible
from train.run_folder.run_folder import RunFolder
from train.units import utc_now


@dataclass(frozen=True)
class Watch:
    """Holds who is told of the run, and writes what `status.json` says until training begins."""

    watchers: Sequence[Watcher]
    folder: RunFolder | None
    num_restarts: int
    resumed: bool

    def enter(self, phase: str) -> None:
        if self.folder is not None:
            status = {**read_json(self.folder.status, {}), "phase": phase, "updated": utc_now()}
            write_json_if_possible(self.folder.status, {**status, "restarts": self.num_restarts})
        for watcher in self.watchers:
            watcher.enter(phase)


def start_watching(
    resolved: ResolvedConfig, folder: RunFolder, ranks: Ranks, identity: dict[str, Any], checkpoint: Path | None
) -> Watch:
    """Let every rank watch itself; rank 0 besides writes the folder and talks to the trackers."""
    topology, output = ranks.topology, resolved.config.output
    first_step = (checkpoint_step(checkpoint) or 0) if checkpoint else 0
    # Rank 0 alone sees the folder, and every rank's exporter counts the restarts.
    num_starts = ranks.tell("starts", record_start(folder, first_step, ranks) if topology.is_main else None)
    num_restarts = max(num_starts - 1, int(checkpoint is not None))  # an older run has no list of its starts
    watchers: list[Watcher] = []
    if output.metrics_port is not None:
        from train.monitoring.prometheus import open_exporter

        watchers += open_exporter(output.metrics_port, topology, num_restarts, identity)
    if output.track:
        from train.monitoring.tracking import open_tracker

        watchers += open_tracker(resolved, folder, ranks, identity, first_step)
    return Watch(watchers, folder if topology.is_main else None, num_restarts, checkpoint is not None)


def record_start(folder: RunFolder, first_step: int, ranks: Ranks) -> int:
    """Note in `starts.json` that the run was started; returns how often it was started so far."""
    start = {
        "at": utc_now(),
        "first_step": first_step,
        "host": platform.node(),
        "world_size": ranks.topology.world_size,
    }
    starts = [*read_json(folder.starts, []), start]
    write_json_if_possible(folder.starts, starts)
    return len(starts)


def make_recorder(run: Run, watch: Watch) -> Recorder:
    """Return the recorder of this rank; only the main one writes and shows."""
    config, num_rows = run.config, len(run.data.train.rows)
    return Recorder(
        num_rows=num_rows,
        num_tokens=run.data.train.num_tokens,
        effective_batch_size=run.effective_batch_size,
        steps_between_evaluations=config.evaluation.every_steps
        or steps_per_epoch(config, world_size=run.world_size, num_train_rows=num_rows),
        folder=run.folder if run.is_main else None,
        display=pick_display(config.output.log_every_steps) if run.is_main else None,
        resumed=watch.resumed,
        num_restarts=watch.num_restarts,
        watchers=watch.watchers,
    )
