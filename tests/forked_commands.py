"""Runs `python -m MODULE ARGUMENTS` in a moment: libraries are imported once, each command is a fork.

A fork has the exit code, the outputs and the environment of a process of its own, which no call within the test's
process could have. What begins otherwise is the interpreter: a test of that starts a process.
"""

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType

from tests.forked_ranks import BEFORE_IMPORT, CONTEXT, ROOT, preload, run_and_end

LIMIT_SECONDS = 240

# The environment of a rank in this very process must not leak into the processes that tests start.
RANK_VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "RECIPE", "OUTPUT_DIR", "DATA_DIR")


@dataclass(frozen=True)
class Finished:
    code: int
    stdout: str
    stderr: str


def clean_environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
    return {**kept, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **more}


class Commands:
    """The process that forks, for the length of a `with`; it has itself been forked, from one with all libraries.

    In its commands other values stand for some names, such as `train.run_folder.retries.RETRY_SECONDS`.
    """

    def __init__(self, other_values: Mapping[str, object] | None = None) -> None:
        preload()
        self._ours, theirs = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=serve, args=(theirs, other_values or {}))
        self._process.start()
        theirs.close()

    def __enter__(self) -> "Commands":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ours.close()
        self._process.join(1)
        self._process.kill()
        self._process.join()

    def run(self, module: str, *arguments: str, environment: dict[str, str]) -> Finished:
        """Run one command with exactly these environment variables."""
        self._ours.send((module, list(arguments), environment | BEFORE_IMPORT))
        finished = self._ours.recv()
        assert isinstance(finished, Finished)
        return finished


def serve(requests: Connection, other_values: Mapping[str, object]) -> None:
    os.chdir(ROOT)
    for place, value in other_values.items():
        module, _, name = place.rpartition(".")
        assert hasattr(sys.modules[module], name)
        setattr(sys.modules[module], name, value)
    with contextlib.suppress(EOFError):
        while True:
            requests.send(run_forked(*requests.recv()))


def run_forked(module: str, arguments: list[str], environment: dict[str, str]) -> Finished:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
        child = os.fork()
        if child == 0:
            signal.alarm(LIMIT_SECONDS)
            become(module, arguments, environment, out.fileno(), error.fileno())
        _, status = os.waitpid(child, 0)
        texts = []
        for file in (out, error):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
    return Finished(os.waitstatus_to_exitcode(status), *texts)


def become(module: str, arguments: list[str], environment: dict[str, str], out: int, error: int) -> None:
    """Be that command, and end."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(error, 2)
    os.environ.clear()
    os.environ.update(environment)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    run_and_end(module, arguments)


def start_forked(command: Sequence[str], environment: Mapping[str, str]) -> tuple[BaseProcess, int]:
    """Start `python -m MODULE ARGUMENTS` as the leader of a session; returns it, and a file number to read output from.

    It has exactly these environment variables.
    """
    preload()
    readable, writable = os.pipe()
    with Connection(writable, readable=False) as output:
        process = CONTEXT.Process(target=_lead_session, args=(list(command), dict(environment), output), daemon=True)
        process.start()
    with contextlib.suppress(ProcessLookupError):
        while os.getpgid(process.pid or 0) != process.pid:
            time.sleep(0.001)
    return process, readable


def _lead_session(command: list[str], environment: dict[str, str], output: Connection) -> None:
    os.setsid()
    os.chdir(ROOT)
    _, _, module, *arguments = command
    become(module, arguments, environment, output.fileno(), output.fileno())
