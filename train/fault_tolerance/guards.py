"""What protects one run: requests to stop, the lock of its folder, the watch over the ranks. No torch here."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from train.config.run_config import RunConfig
from train.distributed.heartbeat import Vigil
from train.failure import ExitCode, Phases, RunError, report_failure
from train.fault_tolerance.run_lock import RunLock
from train.fault_tolerance.stopping import StopRequest
from train.run_folder.run_folder import RunFolder


@dataclass(frozen=True)
class Guards:
    """Holds what a run asks while it is guarded: a request to stop, its lock, its vigil."""

    stop: StopRequest
    lock: RunLock
    vigil: Vigil


@contextmanager
def guarded(config: RunConfig, phases: Phases, rank: int, leave: Callable[[ExitCode], None]) -> Iterator[Guards]:
    """End the run in good order from now on, on SIGTERM and Ctrl-C, a lost peer, or a main thread that hangs.

    `leave` ends the process.
    """
    folder = RunFolder(config.output.dir)

    def leave_from_thread(error: RunError) -> None:
        # The process ends here without leaving its `with` blocks, so what they would do is done by hand.
        vigil.say_farewell(error)
        lock.release()
        leave(report_failure(error, phase=phases.current, rank=rank, run_folder=folder.root))

    stop = StopRequest(
        grace_seconds=config.distributed.grace_seconds,
        stop_file=folder.stop if rank == 0 else None,
        leave=leave_from_thread,
    )
    lock = RunLock(folder.lock, leave_from_thread)
    vigil = Vigil(
        phases,
        rank,
        leave_from_thread,
        silence_timeout_seconds=config.distributed.collective_timeout_seconds,
        stall_timeout_seconds=config.distributed.stall_timeout_seconds,
    )
    stop.listen()
    with lock, vigil:
        yield Guards(stop, lock, vigil)
