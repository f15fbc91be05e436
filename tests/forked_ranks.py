"""Ranks of `python -m train` that start in a moment: forked from a process that has loaded the libraries already.

What runs is the command line, with the variables that the training operator injects. Tests that start
hundreds of ranks, only to kill them, would otherwise spend nearly all of their time importing torch.
"""

import contextlib
import gc
import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.forkserver import ensure_running
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NoReturn

from kubernetes.config import kube_config

from tests.free_ports import free_port

ROOT = Path(__file__).parents[1]
LIBRARIES = ["data.__main__", "data.render", "train.run", "train.results.summary", "train.preflight.preflight",
             "inference.compare", "inference.asking.generate", "inference.models.load", "deploy.__main__",
             "kubernetes.client", "datasets", "tests.forked_ranks", "tests.forked_commands"]  # fmt: skip
BEFORE_IMPORT = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONPATH": str(ROOT),
}
"""What libraries read when they are loaded: set for the process that ranks are forked from."""

CONTEXT = multiprocessing.get_context("forkserver")


@dataclass
class Rank:
    """One rank under way; what it prints goes to files, which outlive it."""

    number: int
    process: BaseProcess
    log: Path

    def send(self, number: signal.Signals) -> None:
        if self.process.is_alive():
            os.kill(self.process.pid or 0, number)

    def await_end(self, seconds: float) -> int | None:
        """Its exit code as a shell gives it; None if it is still there after so long."""
        self.process.join(seconds)
        code = self.process.exitcode
        return None if code is None else 128 - code if code < 0 else code

    @property
    def out(self) -> str:
        return self.log.with_suffix(".out").read_text() if self.log.with_suffix(".out").exists() else ""

    @property
    def error(self) -> str:
        return self.log.with_suffix(".err").read_text() if self.log.with_suffix(".err").exists() else ""


class Gang:
    """All ranks of one attempt at a run; none outlives the `with` block."""

    def __init__(
        self,
        world_size: int,
        arguments: Sequence[str],
        logs: Path,
        per_rank: Sequence[Sequence[str]] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`environment` is all there is besides the operator's variables; by default, this process's at its start."""
        logs.mkdir(parents=True, exist_ok=True)
        preload()
        self.ranks: list[Rank] = []
        self.seconds = 0.0
        port = free_port()
        for number in range(world_size):
            words = [*arguments, *(per_rank[number] if per_rank else ())]
            log = logs / f"rank-{number}"
            process = CONTEXT.Process(
                target=_be_a_rank, args=(number, world_size, port, words, log, environment), daemon=True
            )
            process.start()
            self.ranks.append(Rank(number, process, log))
        self._began = time.monotonic()

    def __enter__(self) -> "Gang":
        return self

    def __exit__(self, *_: object) -> None:
        for rank in self.ranks:
            rank.process.kill()
            rank.process.join()

    def await_line(self, start: str, seconds: float = 120) -> None:
        """Wait until rank 0 has printed a line that begins so."""
        deadline = time.monotonic() + seconds
        while not any(line.startswith(start) for line in self.ranks[0].out.splitlines()):
            assert time.monotonic() < deadline, f"'{start}' never came: {self.errors()}"
            assert self.ranks[0].process.is_alive(), f"rank 0 ended before '{start}': {self.errors()}"
            time.sleep(0.02)

    def await_end(self, seconds: float = 120) -> list[int | None]:
        """Every rank's exit code; None for one that is still there when the time is over."""
        deadline = time.monotonic() + seconds
        codes = [rank.await_end(max(0.0, deadline - time.monotonic())) for rank in self.ranks]
        self.seconds = time.monotonic() - self._began
        return codes

    def errors(self) -> str:
        return "\n".join(f"rank {rank.number}: {rank.error}" for rank in self.ranks)


def run_gang(
    world_size: int, arguments: Sequence[str], logs: Path, per_rank: Sequence[Sequence[str]] = (), seconds: float = 200
) -> Gang:
    """Run to the end; every rank must end well."""
    with Gang(world_size, arguments, logs, per_rank) as gang:
        codes = gang.await_end(seconds)
    assert codes == [0] * world_size, f"{codes}\n{gang.errors()}"
    return gang


def operators_variables(rank: int, world_size: int, port: int) -> dict[str, str]:
    """What the training operator injects, and nothing else: LOCAL_RANK is not among it."""
    return {
        "PYTHONUNBUFFERED": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(world_size),
        "RANK": str(rank),
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": str(port),
        "PET_NODE_RANK": str(rank),
        "PET_NPROC_PER_NODE": "1",
        "PET_NNODES": str(world_size),
    }


def preload() -> None:
    """Start the process that ranks are forked from, if it does not run yet."""
    CONTEXT.set_forkserver_preload(LIBRARIES)
    before = dict(os.environ)
    os.environ.update(BEFORE_IMPORT)
    try:
        ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


def _be_a_rank(
    rank: int,
    world_size: int,
    port: int,
    arguments: Sequence[str],
    log: Path,
    environment: Mapping[str, str] | None,
) -> None:
    """Runs in the forked process: the operator's environment, output to files, then the command line."""
    os.chdir(ROOT)
    if environment is not None:
        os.environ.clear()
        os.environ.update(environment)
    os.environ.update(BEFORE_IMPORT | (operators_variables(rank, world_size, port) if world_size > 1 else {}))
    for name, stream in (("out", sys.stdout), ("err", sys.stderr)):
        stream.flush()
        with log.with_suffix(f".{name}").open("w") as file:
            os.dup2(file.fileno(), 1 if name == "out" else 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    gc.freeze()  # what the libraries allocated is for good: no collection needs to look through it
    run_and_end("train", arguments)


def run_and_end(module: str, arguments: Sequence[str]) -> NoReturn:
    """Be `python -m MODULE ARGUMENTS` in this process, and end it with the exit code.

    At once: what the libraries of other commands registered for the exit of the process they were loaded in (threads to
    join, pools to close) is not this one's, and has been seen to hang.
    """
    sys.argv = [module, *arguments]
    sys.modules.pop(f"{module}.__main__", None)  # imported before for what it imports; now it is to run
    kube_config.KUBE_CONFIG_DEFAULT_LOCATION = os.environ.get("KUBECONFIG", "~/.kube/config")  # read when imported
    code = 1
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
