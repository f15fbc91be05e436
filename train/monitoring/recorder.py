"""What a run says about itself: step records, `training_history.json`, `status.json`, and the stop on NaN."""

import json
import math
import statistics
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import psutil
import torch
from transformers import TrainerCallback

from data.files import write_json
from train.failure import DivergedError
from train.monitoring.display import Display
from train.monitoring.watcher import Watcher
from train.run_folder.retries import write_json_if_possible
from train.run_folder.run_folder import RunFolder
from train.units import utc_now

SECONDS_BETWEEN_WRITES = 5.0
RECENT_STEPS = 50
TOPIC_LOSS = "eval_topic_loss/"


def peak_memory_bytes() -> int:
    """Return the most memory this process held: on the GPU if there is one, else resident on the host."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def perplexity(loss: float) -> float:
    """Return exp(loss), kept finite so that it stays a JSON number.

    >>> round(perplexity(1.0), 3)
    2.718
    """
    return math.exp(min(loss, 700.0))


def loss_by_topic(logs: Mapping[str, float]) -> dict[str, float]:
    """Return the topics' losses among the trainer's logs.

    >>> loss_by_topic({"eval_loss": 2.0, "eval_topic_loss/knots": 1.5})
    {'knots': 1.5}
    """
    return {name.removeprefix(TOPIC_LOSS): loss for name, loss in logs.items() if name.startswith(TOPIC_LOSS)}


class Recorder(TrainerCallback):
    """Turns the trainer's logs into `training_history.json`, `status.json` and a display; stops a diverged run.

    Every rank has one, because every rank must stop at the same step; only rank 0 (`folder` given) writes and shows.
    """

    def __init__(
        self,
        *,
        num_rows: int,
        num_tokens: int,
        effective_batch_size: int,
        steps_between_evaluations: int,
        folder: RunFolder | None,
        display: Display | None,
        resumed: bool = False,
        num_restarts: int = 0,
        watchers: Sequence[Watcher] = (),
    ) -> None:
        self.watchers, self.num_restarts = watchers, num_restarts
        self.rows_per_step = min(effective_batch_size, num_rows)
        self.tokens_per_row = num_tokens / num_rows
        self.steps_between_evaluations = steps_between_evaluations
        self.folder, self.display = folder, display
        self.history: list[dict[str, Any]] = []
        self.resumed = resumed
        self.step_seconds: deque[float] = deque(maxlen=RECENT_STEPS)
        self.evaluation_seconds = 0.0
        self._step_started = self._evaluation_started = time.monotonic()
        self._written = -math.inf

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take up the history of the run that is being resumed, up to the checkpoint's step."""
        if self.resumed and self.folder is not None and self.folder.history.is_file():
            earlier = json.loads(self.folder.history.read_text(encoding="utf-8"))
            self.history = [record for record in earlier if record["step"] <= state.global_step]
            self._complete_epoch(args, state)

    def _complete_epoch(self, args: Any, state: Any) -> None:
        """A checkpoint of an epoch's last step may be older than the epoch's record."""
        steps_per_epoch = state.max_steps // args.num_train_epochs
        last = self.last("epoch") or {"step": 0}
        if state.global_step % steps_per_epoch == 0 and last["step"] != state.global_step:
            self.on_epoch_end(args, state, None)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the history: on the volume it is never behind the newest checkpoint."""
        self.write(force=True)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._step_started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step_seconds.append(time.monotonic() - self._step_started)
        self._evaluation_started = time.monotonic()  # transformers has no event for it; it follows a step

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._append({"kind": "epoch", "step": state.global_step, "epoch": round(state.epoch)})

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any) -> None:
        logs = logs or {}
        if "eval_loss" in logs:
            self._on_evaluation(state, logs)
        elif "loss" in logs:
            self._on_step(state, logs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.write(force=True)
        self._pause()

    def _pause(self) -> None:
        if self.display:
            self.display.close()
        for watcher in self.watchers:
            watcher.pause()

    def _on_step(self, state: Any, logs: Mapping[str, float]) -> None:
        # Before a record is made of it: NaN is no number in JSON.
        self._stop_if_diverged(state.global_step, "training loss", logs["loss"])
        self._stop_if_diverged(state.global_step, "gradient norm", logs["grad_norm"])
        seconds = self.step_seconds[-1]
        record = {
            "kind": "step",
            "step": state.global_step,
            "total_steps": state.max_steps,
            "epoch": round(state.epoch, 4),
            "percent": round(100 * state.global_step / state.max_steps, 2),
            "loss": logs["loss"],
            "perplexity": perplexity(logs["loss"]),
            "token_accuracy": logs["token_accuracy"],
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs["grad_norm"],
            "rows_per_second": self.rows_per_step / seconds,
            "tokens_per_second": self.rows_per_step * self.tokens_per_row / seconds,
            "memory_bytes": self._memory_bytes(),
            "seconds_left": round(self._seconds_left(state), 1),
        }
        self._append(record)

    def _on_evaluation(self, state: Any, logs: Mapping[str, float]) -> None:
        loss = logs["eval_loss"]
        self._stop_if_diverged(state.global_step, "evaluation loss", loss)
        self.evaluation_seconds = time.monotonic() - self._evaluation_started
        self._append(
            {
                "kind": "evaluation",
                "step": state.global_step,
                "total_steps": state.max_steps,
                "epoch": round(state.epoch or 0.0, 4),
                "loss": loss,
                "perplexity": perplexity(loss),
                "loss_by_topic": loss_by_topic(logs),
                "seconds": round(self.evaluation_seconds, 3),
            }
        )

    def _stop_if_diverged(self, step: int, what: str, value: float) -> None:
        if not math.isfinite(value):
            self.write(force=True)
            self._pause()  # transformers' own end of training is not reached
            raise DivergedError(
                f"the {what} became {value} at step {step}",
                "Lower optim.learning_rate, raise optim.warmup_fraction, or look at the rows of this step.",
            )

    def _memory_bytes(self) -> int:
        return torch.cuda.memory_allocated() if torch.cuda.is_available() else psutil.Process().memory_info().rss

    def _seconds_left(self, state: Any) -> float:
        """Remaining steps at the recent pace, and the evaluations between them."""
        steps_left = state.max_steps - state.global_step
        evaluations_left = math.ceil(steps_left / self.steps_between_evaluations)
        return steps_left * self._seconds_per_step() + evaluations_left * self.evaluation_seconds

    def _seconds_per_step(self) -> float:
        return sum(self.step_seconds) / max(1, len(self.step_seconds))

    def _append(self, record: dict[str, Any]) -> None:
        """Add a record; one of the same kind and step, from before a checkpoint was resumed, gives way."""
        key = (record["kind"], record["step"])
        self.history = [known for known in self.history if (known["kind"], known["step"]) != key]
        self.history.append(record)
        if self.display and record["kind"] != "epoch":
            self.display.show(record)
        for watcher in self.watchers:
            watcher.show(record)
        self.write(force=record["kind"] != "step")

    def enter(self, phase: str, **more: Any) -> None:
        """Say in `status.json` what the run is doing now that training is over."""
        if self.folder is not None:
            write_json_if_possible(self.folder.status, {**self.status(), "phase": phase, **more})
        for watcher in self.watchers:
            watcher.enter(phase)

    def write(self, *, force: bool) -> None:
        """Rewrite history and status, at most every few seconds unless forced: the history grows with the run."""
        if self.folder is None or (not force and time.monotonic() - self._written < SECONDS_BETWEEN_WRITES):
            return
        self._written = time.monotonic()
        write_json_if_possible(self.folder.history, self.history)
        write_json_if_possible(self.folder.status, self.status())

    def save(self) -> None:
        """Write the history, or raise: a checkpoint whose history is not on the volume must not count."""
        if self.folder is not None:
            write_json(self.folder.history, self.history)

    def status(self) -> dict[str, Any]:
        """Return what `status.json` holds while training: the latest numbers."""
        step = self.last("step") or {}
        evaluation = self.last("evaluation") or {}
        return {
            "phase": "training",
            "updated": utc_now(),
            "restarts": self.num_restarts,
            "step": step.get("step", 0),
            "total_steps": step.get("total_steps"),
            "percent": step.get("percent", 0.0),
            "seconds_left": step.get("seconds_left"),
            "loss": step.get("loss"),
            "evaluation_loss": evaluation.get("loss"),
            "tokens_per_second": step.get("tokens_per_second"),
            "memory_bytes": step.get("memory_bytes"),
            "seconds_per_step": round(self._seconds_per_step(), 3),
            "seconds_per_evaluation": round(self.evaluation_seconds, 3),
        }

    def last(self, kind: str) -> dict[str, Any] | None:
        return next((record for record in reversed(self.history) if record["kind"] == kind), None)

    def throughput(self) -> dict[str, float]:
        """Return rows and tokens per second of the median step, over all ranks."""
        steps = [record for record in self.history if record["kind"] == "step"]
        return {
            name: statistics.median(record[name] for record in steps)
            for name in ("rows_per_second", "tokens_per_second")
        }

    def losses(self, kind: str) -> list[float]:
        return [record["loss"] for record in self.history if record["kind"] == kind]
