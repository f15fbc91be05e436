"""What all tests share: slow tests on request, the command line as a subprocess, one small finished run."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# A slow machine is no failure. `--hypothesis-profile long`: minutes of fuzzing.
settings.register_profile("suite", deadline=None)
settings.register_profile("long", deadline=None, max_examples=10_000)
settings.load_profile("suite")

# What a shell starts in its background ignores Ctrl-C, and so would all programs whose Ctrl-C is tested here.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]
SECONDS = 240

# The environment of a rank in this very process must not leak into the processes that tests start.
RANK_VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "RECIPE", "OUTPUT_DIR", "DATA_DIR")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")


def pytest_report_header() -> str:
    return f"kubernetes client {version('kubernetes')}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


def clean_environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
    return {**kept, "OMP_NUM_THREADS": "1", **more}


def run_module(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m MODULE ARGUMENTS` from the repository root."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def run_ranks(
    world_size: int, *arguments: str, per_rank: Sequence[Sequence[str]] = ()
) -> list[subprocess.CompletedProcess[str]]:
    """`python -m train ARGUMENTS` as that many ranks, with exactly the variables the training operator injects."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    processes = []
    for rank in range(world_size):
        command = [sys.executable, "-m", "train", *arguments, *(per_rank[rank] if per_rank else ())]
        environment = clean_environment(
            PYTHONUNBUFFERED="1",
            MASTER_ADDR="127.0.0.1",
            PET_MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
            PET_MASTER_PORT=port,
            WORLD_SIZE=str(world_size),
            RANK=str(rank),
            PET_NODE_RANK=str(rank),
            PET_NPROC_PER_NODE="1",
            PET_NNODES=str(world_size),
        )
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, **pipes))
    finished = []
    for process in processes:
        out, error = process.communicate(timeout=SECONDS)
        finished.append(subprocess.CompletedProcess(process.args, process.returncode, out, error))
    return finished


def history_of(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The records of one kind in a run's `training_history.json`; there must be some."""
    records = [r for r in json.loads((folder / "training_history.json").read_text()) if r["kind"] == kind]
    assert records, f"{folder} has no record of kind {kind}"
    return records


@pytest.fixture(scope="session")
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    return run_module


@pytest.fixture(scope="session")
def ranks() -> Callable[..., list[subprocess.CompletedProcess[str]]]:
    return run_ranks


@pytest.fixture(scope="session")
def history() -> Callable[..., list[dict[str, Any]]]:
    return history_of


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of the smoke recipe, made once by the real command line."""
    folder = tmp_path_factory.mktemp("smoke") / "run"
    finished = run_module("train", "smoke", f"output.dir={folder}")
    assert finished.returncode == 0, finished.stderr
    return folder
