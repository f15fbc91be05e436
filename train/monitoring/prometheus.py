"""A run as Prometheus metrics, served by every rank at `output.metrics_port` plus its local rank.

    curl localhost:8080/metrics

The port is open on all addresses, because Prometheus comes from outside the pod; what it tells are numbers and names,
no data. A port that is taken costs the metrics, not the run.
"""

import sys
from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Enum, Gauge, Info, ProcessCollector, start_http_server

from train.distributed.topology import Topology

PREFIX = "fieldcraft"
PHASES = ("model", "speed", "training", "publication", "demo", "done")

STEP_GAUGES = {
    "step": ("step", "Optimizer steps done."),
    "total_steps": ("steps_planned", "Optimizer steps of the whole run."),
    "epoch": ("epoch", "Epochs done, with their fraction."),
    "loss": ("train_loss", "Mean loss of the last step, in nats per label token."),
    "token_accuracy": ("train_token_accuracy", "Share of the last step's label tokens predicted right."),
    "learning_rate": ("learning_rate", "Learning rate of the last step."),
    "grad_norm": ("gradient_norm", "Gradient norm of the last step, before clipping."),
    "rows_per_second": ("rows_per_second", "Rows of the last step per second, over all ranks."),
    "tokens_per_second": ("tokens_per_second", "Tokens of the last step per second, over all ranks."),
    "memory_bytes": ("memory_bytes", "Memory of this rank: on the GPU if there is one, else resident on the host."),
    "seconds_left": ("seconds_left", "Estimated time until training ends, in seconds."),
}
"""Fields of a step record, and the gauges they go to."""


class Exporter:
    """Keeps the latest numbers of the run where Prometheus can ask for them."""

    def __init__(self, topology: Topology, num_restarts: int, identity: Mapping[str, Any]) -> None:
        self.registry = CollectorRegistry()
        self.gauges = {field: self._gauge(name, text) for field, (name, text) in STEP_GAUGES.items()}
        self.evaluation_loss = self._gauge("evaluation_loss", "Validation loss, in nats per label token.")
        self._gauge("restarts", "How often the run was started again.").set(num_restarts)
        self.phase = Enum(f"{PREFIX}_phase", "What the run is doing.", states=[*PHASES], registry=self.registry)
        facts = {"model": identity["model.name"], "model_sha256": identity["model"], "data_sha256": identity["data"]}
        place = {"rank": topology.rank, "world_size": topology.world_size}
        described = {name: str(value) for name, value in {**facts, **place}.items()}
        Info(f"{PREFIX}_run", "What is trained, and which rank says so.", registry=self.registry).info(described)
        ProcessCollector(registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", text, registry=self.registry)

    def enter(self, phase: str) -> None:
        if phase in PHASES:
            self.phase.state(phase)

    def show(self, record: Mapping[str, Any]) -> None:
        if record["kind"] == "evaluation":
            self.evaluation_loss.set(record["loss"])
        elif record["kind"] == "step":
            for field, gauge in self.gauges.items():
                gauge.set(record[field])

    def pause(self) -> None:
        """Do nothing: the last numbers stay up for as long as the process does."""


def open_exporter(port: int, topology: Topology, num_restarts: int, identity: Mapping[str, Any]) -> list[Exporter]:
    """Return this rank's exporter, serving; none, after a warning, where the port cannot be had."""
    exporter, own_port = Exporter(topology, num_restarts, identity), port + topology.local_rank
    try:
        start_http_server(own_port, addr="0.0.0.0", registry=exporter.registry)  # noqa: S104  see above
    except (OSError, OverflowError) as error:
        print(
            f"warning: rank {topology.rank} has no metrics: port {own_port} cannot be opened ({error}). "
            "Set output.metrics_port to a free one.",
            file=sys.stderr,
            flush=True,
        )
        return []
    return [exporter]
