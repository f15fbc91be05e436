"""Stopping on request: SIGTERM, Ctrl-C, or a file `STOP` in the run folder. No torch here.

A signal is noticed by a thread, because the main one may be inside a collective that only ends with its peers. While
the trainer runs, the request is kept for it: all ranks learn of it in the same step, save and leave together.
Elsewhere there is nothing to save, and the process leaves at once; so it does on a second signal, and when the grace
period is nearly over.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from train.failure import ConfigError, ExitCode, RunError

SIGNALS = {signal.SIGTERM: ExitCode.STOPPED, signal.SIGINT: ExitCode.INTERRUPTED}
GO_ON = "Start again to go on."
FROM_LAST = "Start again to go on from the last checkpoint, if there is one."
GRACE_SHARE = 0.9
"""Of the grace period, after which the process says that it could not save: SIGKILL would leave no word."""

FASTEST_VOLUME_BYTES_PER_SECOND = 10 * 2**30


class StoppedError(RunError):
    """The run was asked to stop and did; the exit code says by what."""

    def __init__(self, problem: str, remedy: str, code: ExitCode) -> None:
        super().__init__(problem, remedy)
        self.exit_code = code


class StopRequest:
    """Knows whether this rank was asked to stop, by a signal or by the stop file."""

    def __init__(
        self,
        *,
        grace_seconds: float = 30.0,
        stop_file: Path | None = None,
        leave: Callable[[StoppedError], None] | None = None,
    ) -> None:
        """`leave` ends the process and reports why; `stop_file` is looked for where it is given: on rank 0."""
        self.grace_seconds, self.stop_file, self._leave = grace_seconds, stop_file, leave
        self._code: ExitCode | None = None
        self._deadline: float | None = None
        self._trainer_saves = False

    @property
    def code(self) -> ExitCode | None:
        """The exit code that was asked for; None while nothing was asked."""
        if self._code is None and self.stop_file is not None and self.stop_file.exists():
            return ExitCode.STOPPED
        return self._code

    def fulfilled(self) -> None:
        """Note that the run has stopped: the stop file has done its work, and must not stop the next run."""
        if self.stop_file is not None:
            self.stop_file.unlink(missing_ok=True)

    @contextmanager
    def left_to_trainer(self) -> Iterator[None]:
        """Let a request wait, within this block, for the trainer to save."""
        self._trainer_saves = True
        yield
        self._trainer_saves = False
        if self._code is not None:
            raise StoppedError("stopped when training was done, before it was published", GO_ON, self._code)

    def listen(self) -> None:
        """Notice signals from now on (main thread only)."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)  # a full pipe must not hold up whatever the signal came into
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)  # the byte in the pipe is what counts
        threading.Thread(target=self._watch, args=(reader,), name="stop requests", daemon=True).start()

    def _watch(self, reader: int) -> None:
        while True:
            seconds = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
            if not select.select([reader], [], [], seconds)[0]:
                self._leave_with(
                    f"could not save within {GRACE_SHARE * self.grace_seconds:.0f} s of being asked to stop"
                )
                return
            for number in os.read(reader, 64):
                self.on_signal(number)

    def on_signal(self, number: int) -> None:
        """Take note of a signal; leaves the process where there is nothing to wait for."""
        code = SIGNALS.get(signal.Signals(number))
        if code is None:
            return
        name, asked_before = signal.Signals(number).name, self._code is not None
        self._code = code
        if asked_before:
            self._leave_with(f"left at once, on a second {name}")
        elif not self._trainer_saves:
            self._leave_with(f"stopped by {name}; there was nothing to save")
        else:
            self._deadline = time.monotonic() + GRACE_SHARE * self.grace_seconds
            print(f"{name}: stopping after this step", flush=True)

    def _leave_with(self, problem: str) -> None:
        assert self._code is not None
        if self._leave is not None:
            self._leave(StoppedError(problem, FROM_LAST, self._code))


def refuse_unsavable(num_bytes: int, grace_seconds: float) -> None:
    """Stop before a run whose checkpoint no volume could take within the grace period (ConfigError)."""
    seconds = num_bytes / FASTEST_VOLUME_BYTES_PER_SECOND
    if seconds > grace_seconds:
        raise ConfigError(
            f"a checkpoint of {num_bytes / 2**30:.1f} GiB cannot be written within distributed.grace_seconds="
            f"{grace_seconds:g}: at 10 GiB/s it takes {seconds:.0f} s",
            "Raise terminationGracePeriodSeconds and distributed.grace_seconds, or train fewer layers.",
        )


def grace_warning(save_seconds: float, step_seconds: float, grace_seconds: float) -> str | None:
    """Return what to say when finishing a step and saving, as measured, does not fit into the grace period; else None.

    >>> grace_warning(save_seconds=2.0, step_seconds=1.0, grace_seconds=30)
    >>> grace_warning(save_seconds=25.0, step_seconds=10.0, grace_seconds=30)[:60]
    'warning: a stopped run could not save: a step takes 10.0 s a'
    """
    if save_seconds + step_seconds <= GRACE_SHARE * grace_seconds:
        return None
    return (
        f"warning: a stopped run could not save: a step takes {step_seconds:.1f} s and a checkpoint "
        f"{save_seconds:.1f} s, but distributed.grace_seconds={grace_seconds:g}. "
        "Raise it together with terminationGracePeriodSeconds."
    )
