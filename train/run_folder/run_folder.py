"""Every file name in a run folder; the two that prove a folder whole are in `manifest.py`.

No torch here: `deploy` reads run folders too.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from train.run_folder.manifest import is_published

SYSTEM_PROMPT = "system_prompt.txt"
MODEL_CARD = "README.md"
COMMITTED = "COMMITTED"


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run. Rank 0 writes all of it, but for RNG states of other ranks in checkpoints."""

    root: Path

    @property
    def best_model(self) -> Path:
        return self.root / "best_model"

    @property
    def history(self) -> Path:
        return self.root / "training_history.json"

    @property
    def summary(self) -> Path:
        return self.root / "training_summary.json"

    @property
    def demo(self) -> Path:
        return self.root / "demo_outputs" / "sample_responses.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def status(self) -> Path:
        return self.root / "status.json"

    @property
    def config(self) -> Path:
        return self.root / "config.resolved.json"

    @property
    def answers(self) -> Path:
        """Validation questions answered while training, with their scores (`evaluation.answers_every_epochs`)."""
        return self.root / "answers.json"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def starts(self) -> Path:
        """When, where and from which step the run was started: once, and again for every restart."""
        return self.root / "starts.json"

    @property
    def tracking(self) -> Path:
        """Under which ids trackers know this run, so that a resumed one goes on there."""
        return self.root / "tracking.json"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def mlflow(self) -> Path:
        """MLflow's database and artifacts, where no server was named."""
        return self.root / "mlflow"

    @property
    def aim(self) -> Path:
        """Aim's repository, where no other was named."""
        return self.root / "aim"

    @property
    def stop(self) -> Path:
        """Made by a person: the run saves, removes this file and stops."""
        return self.root / "STOP"

    @property
    def lock(self) -> Path:
        """Held by the run that writes this folder; see `train/fault_tolerance/run_lock.py`."""
        return self.root / "run.lock"

    @property
    def failure(self) -> Path:
        return self.root / "failure.json"

    def is_finished(self) -> bool:
        """Say whether a run ended well here: the summary is the last thing written."""
        return self.summary.is_file() and is_published(self.best_model)

    def clear(self) -> None:
        """Forget an earlier run, all but its published model, which stays until the next one replaces it."""
        for path in (
            *(self.history, self.summary, self.status, self.config, self.failure),
            *(self.report, self.starts, self.tracking, self.answers),
        ):
            path.unlink(missing_ok=True)
        for path in (self.checkpoints, self.demo.parent, self.tensorboard):
            shutil.rmtree(path, ignore_errors=True)
