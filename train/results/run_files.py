"""The JSON files of a run folder, read once, with what they mean: for its status in a terminal and for its report.

Works on a run that is finished, under way or has failed. No torch here.
"""

from dataclasses import dataclass
from typing import Any

from data.files import read_json
from train.failure import ConfigError
from train.run_folder.run_folder import RunFolder

Record = dict[str, Any]

_ON_REQUEST = ("stopped", "interrupted")


@dataclass(frozen=True)
class RunFiles:
    """Holds what a run folder says; parts that are not there yet are empty."""

    config: Record
    history: list[Record]
    summary: Record
    demo: Record
    starts: list[Record]
    status: Record
    failure: Record

    @classmethod
    def read(cls, folder: RunFolder) -> "RunFiles":
        """Read the folder; raises ConfigError where it holds no run, or a file that is not JSON."""
        if not folder.config.is_file():
            raise ConfigError(f"{folder.root} holds no run", "Name the folder a run wrote to (its output.dir).")
        try:
            return cls(
                config=read_json(folder.config, {}),
                history=read_json(folder.history, []),
                summary=read_json(folder.summary, {}),
                demo=read_json(folder.demo, {}),
                starts=read_json(folder.starts, []),
                status=read_json(folder.status, {}),
                failure=read_json(folder.failure, {}),
            )
        except ValueError as error:
            raise ConfigError(f"a file in {folder.root} is not JSON ({error})", "Look at it, or train again.") from None

    def of_kind(self, kind: str) -> list[Record]:
        return [record for record in self.history if record["kind"] == kind]

    @property
    def evaluations(self) -> list[Record]:
        return self.of_kind("evaluation")

    @property
    def original(self) -> Record | None:
        """The evaluation of the model as it was before step 1."""
        return next((record for record in self.evaluations if record["step"] == 0), None)

    @property
    def best(self) -> Record | None:
        """The evaluation of the weights that are (or would now be) published."""
        trained = [record for record in self.evaluations if record["step"] > 0]
        return min(trained, key=lambda record: record["loss"], default=None)

    @property
    def was_asked_to_stop(self) -> bool:
        """Whether the run ended early because somebody wanted it to; to people that is no failure."""
        return self.failure.get("failure_class") in _ON_REQUEST

    @property
    def num_restarts(self) -> int:
        return int(self.summary.get("restarts", max(0, len(self.starts) - 1)))
