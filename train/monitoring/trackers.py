"""The trackers themselves: TensorBoard's event files, MLflow's client (`pip install .[tracking]`), Aim (`.[aim]`)."""

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.files import read_json, write_json
from train.masking import masked
from train.monitoring.sink import Description, Point, Sink
from train.run_folder.run_folder import RunFolder

EXPERIMENT = "fieldcraft"
# MLflow's limits for one request, and for one value.
POINTS_PER_REQUEST = 1000
PARAMETERS_PER_REQUEST = 100
LONGEST_PARAMETER = 6000
MLFLOW_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""Set where the user has not: MLflow would wait minutes for a server that is down, and report its own use."""


class TensorBoardSink:
    """Writes event files in `tensorboard/`; a resumed run hides what was written after its checkpoint."""

    name = "tensorboard"

    def __init__(self, folder: RunFolder, description: Description) -> None:
        self.folder, self.description = folder, description
        self.writer: Any = None

    def open(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        first_step = self.description.first_step
        self.writer = SummaryWriter(str(self.folder.tensorboard), purge_step=first_step + 1 if first_step else None)
        if not first_step:
            self.writer.add_text("settings", _table(self.description.parameters), 0)
            self.writer.add_text("made from", _table(self.description.tags), 0)

    def send(self, points: Sequence[Point]) -> None:
        for point in points:
            self.writer.add_scalar(point.name, point.value, point.step, walltime=point.seconds)
        self.writer.flush()

    def finish(self, files: Sequence[Path]) -> None:
        self.writer.close()


def _table(facts: Mapping[str, str]) -> str:
    rows = [f"| {name} | {value} |" for name, value in facts.items()]
    return "\n".join(["| what | value |", "|---|---|", *rows])


class MlflowSink:
    """Keeps a run on the server MLFLOW_TRACKING_URI, or in `mlflow/` of the run folder; a resumed one goes on in it."""

    name = "mlflow"

    def __init__(self, folder: RunFolder, description: Description) -> None:
        self.folder, self.description = folder, description
        self.client: Any = None
        self.run_id = ""

    def open(self) -> None:
        for name, value in MLFLOW_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from mlflow.tracking import MlflowClient

        address = os.environ.get("MLFLOW_TRACKING_URI") or self._own_database()
        self.client = MlflowClient(tracking_uri=address)
        known = known_run(self.folder, self.name, address)
        if known:
            self.run_id = known
            self.client.update_run(self.run_id, status="RUNNING")
        else:
            self.run_id = self._create_run()
            remember_run(self.folder, self.name, address, self.run_id)

    def _own_database(self) -> str:
        self.folder.mlflow.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{(self.folder.mlflow / 'mlflow.db').resolve()}"

    def _create_run(self) -> str:
        experiment_name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        experiment = self.client.get_experiment_by_name(experiment_name)
        experiment_id = experiment.experiment_id if experiment else self._create_experiment(experiment_name)
        run = self.client.create_run(experiment_id, tags=self.description.tags, run_name=self.description.name)
        self._log_parameters(run.info.run_id)
        return str(run.info.run_id)

    def _create_experiment(self, name: str) -> str:
        is_remote = bool(os.environ.get("MLFLOW_TRACKING_URI"))
        artifacts = None if is_remote else (self.folder.mlflow / "artifacts").resolve().as_uri()
        return str(self.client.create_experiment(name, artifact_location=artifacts))

    def _log_parameters(self, run_id: str) -> None:
        from mlflow.entities import Param

        parameters = [
            Param(mlflow_name(name), value[:LONGEST_PARAMETER]) for name, value in self.description.parameters.items()
        ]
        for start in range(0, len(parameters), PARAMETERS_PER_REQUEST):
            self.client.log_batch(run_id, params=parameters[start : start + PARAMETERS_PER_REQUEST])

    def send(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(mlflow_name(point.name), point.value, round(1000 * point.seconds), point.step) for point in points
        ]
        for start in range(0, len(metrics), POINTS_PER_REQUEST):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + POINTS_PER_REQUEST])

    def finish(self, files: Sequence[Path]) -> None:
        for path in files:
            self.client.log_artifact(self.run_id, str(path))
        self.client.set_terminated(self.run_id, status="FINISHED")


class AimSink:
    """Keeps a run in Aim's repository, the folder AIM_REPO or `aim/` of the run folder; a resumed one goes on in it.

    No `aim://` server: the client would go on trying to reach one that is gone when the run ends, and hold up its exit.
    Aim stamps numbers with the time at which they reach it.
    """

    name = "aim"

    def __init__(self, folder: RunFolder, description: Description) -> None:
        self.folder, self.description = folder, description
        self.run: Any = None

    def open(self) -> None:
        address = os.environ.get("AIM_REPO") or str(self.folder.aim.resolve())
        if "://" in address:
            raise ValueError(f"AIM_REPO must be a folder, not {address}")
        logging.getLogger("aim").setLevel(logging.ERROR)  # it warns of the lock that a killed run has left
        from aim import Run

        Path(address).mkdir(parents=True, exist_ok=True)
        known = known_run(self.folder, self.name, address)
        quiet = {"system_tracking_interval": None, "capture_terminal_logs": False}
        self.run = Run(known, repo=address, experiment=EXPERIMENT, force_resume=bool(known), **quiet)
        if not known:
            self.run.name = self.description.name
            self.run["settings"], self.run["made_from"] = dict(self.description.parameters), dict(self.description.tags)
            self.run.set_artifacts_uri(Path(address, "artifacts").resolve().as_uri())
            remember_run(self.folder, self.name, address, self.run.hash)

    def send(self, points: Sequence[Point]) -> None:
        for point in points:
            self.run.track(point.value, name=point.name, step=point.step)

    def finish(self, files: Sequence[Path]) -> None:
        for path in files:
            self.run.log_artifact(str(path), block=True)
        self.run.close()


def known_run(folder: RunFolder, tracker: str, address: str) -> str | None:
    """Return the id under which a tracker at this address knows the run of this folder; None if it does not."""
    known = read_json(folder.tracking, {}).get(tracker, {})
    return known["run_id"] if known.get("address") == masked(address) else None


def remember_run(folder: RunFolder, tracker: str, address: str, run_id: str) -> None:
    """Note in `tracking.json` under which id a tracker at this address knows the run; the address is masked."""
    known = read_json(folder.tracking, {})
    write_json(folder.tracking, {**known, tracker: {"address": masked(address), "run_id": run_id}})


def mlflow_name(name: str) -> str:
    """Return a name as MLflow takes it: letters, digits and `_-. :/`.

    >>> mlflow_name("validation/topic/Knots & uses (basic)")
    'validation/topic/Knots _ uses _basic_'
    """
    return re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)


SINKS: Mapping[str, Callable[[RunFolder, Description], Sink]] = {
    "tensorboard": TensorBoardSink,
    "mlflow": MlflowSink,
    "aim": AimSink,
}
