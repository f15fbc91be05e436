"""Writing to a volume that may be full or away: try again for a bounded time, and go on without where that is possible.

A storage failure is one that `exit_code_of` calls so: disk full, quota, read-only, I/O error, stale handle. Anything
else is a bug and passes.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from data.files import write_json
from train.failure import ExitCode, StorageError, exit_code_of

Written = TypeVar("Written")

RETRY_SECONDS = 13.0
"""Time given to a volume to come back, in all; a full one is often being cleaned up by somebody."""


def pauses(total_seconds: float) -> list[float]:
    """Return growing pauses between attempts, `total_seconds` in all.

    >>> pauses(13)
    [1.0, 3.0, 9.0]
    """
    return [share * total_seconds / 13 for share in (1, 3, 9)]


def retried(
    what: str,
    write: Callable[[], Written],
    waits: Sequence[float] | None = None,
    before_retry: Callable[[], None] = lambda: None,
) -> Written:
    """Do `write`, again after each of `waits` (seconds) while storage fails; the last failure is raised."""
    for wait in pauses(RETRY_SECONDS) if waits is None else waits:
        try:
            return write()
        except Exception as error:
            if not is_storage_failure(error):
                raise
            warn(f"{what} could not be written ({one_line(error)}); trying again in {wait:.1f} s")
        time.sleep(wait)
        before_retry()  # after the wait: somebody else may have made room without our giving anything up
    return write()


def succeeds(what: str, write: Callable[[], object]) -> bool:
    """Do `write` and say whether it was possible; a storage failure is warned of, and the run goes on."""
    try:
        write()
    except Exception as error:
        if not is_storage_failure(error):
            raise
        warn(f"{what} could not be written ({one_line(error)}); the run goes on")
        return False
    return True


def write_json_if_possible(path: Path, content: Any) -> None:
    """Write what is only for people to look at, as `write_json` does; a volume that does not take it is warned of."""
    succeeds(path.name, lambda: write_json(path, content))


def reserve(path: Path, num_bytes: int, remedy: str) -> None:
    """Make a file of this size before it is mapped: a full disk is an error here, a fatal SIGBUS at a mapped page."""
    if not hasattr(os, "posix_fallocate"):
        return  # macOS
    with path.open("wb") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, num_bytes)
        except OSError as error:
            needed = f"{num_bytes / 2**20:.0f} MiB are needed in {path.parent}, but {error.strerror}"
            raise StorageError(needed, remedy) from error


def is_storage_failure(error: BaseException) -> bool:
    """Say whether the volume is to blame, by the exit code that the error stands for."""
    return exit_code_of(error) is ExitCode.STORAGE


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
