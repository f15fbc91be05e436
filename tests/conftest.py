"""What all tests share: how they are dealt to workers, the command line as a subprocess, one small finished run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import settings

from tests.forked_commands import Commands, clean_environment
from tests.forked_ranks import Gang
from tests.turns import Turns

# Workers and ranks share the cores: threads that wait actively for each other slow down all beside them fourfold.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A slow machine is no failure. `--hypothesis-profile long`: minutes of fuzzing.
settings.register_profile("suite", deadline=None)
settings.register_profile("long", deadline=None, max_examples=10_000)
settings.load_profile("suite")

# What a shell starts in its background ignores Ctrl-C, and so would all programs whose Ctrl-C is tested here.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]
SECONDS = 240

MAX_WORKERS = 4
"""Some tests start four ranks."""

LONGEST_FIRST = (
    "tests/drills/test_chaos.py",
    "tests/bad_inputs/test_bad_inputs.py",
    "tests/drills/test_watch.py",
    "tests/parity/test_exact_resume.py",
    "tests/parity/test_losing_a_peer.py",
    "tests/parity/test_fast_paths.py",
    "tests/parity/test_stopping.py",
    "tests/chaos/test_chaos.py",
    "tests/drills/test_drills.py",
    "tests/drills/test_training.py",
    "tests/drills/test_fetch.py",
    "tests/train/test_main.py",
    "tests/train/distributed/test_group.py",
    "tests/train/monitoring/test_tracking.py",
    "tests/inference/test_export.py",
    "tests/inference/test_compare.py",
)
"""Test files that take longest: begun first, none is left over at the end. The others come in their usual order."""

TURNS = pytest.StashKey[Turns]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")


def pytest_report_header() -> str:
    return f"kubernetes client {version('kubernetes')}"


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """`-n auto`: a worker for every core, but none for a single file, whose tests stay together."""
    names_one_file = len(config.args) == 1 and ".py" in config.args[0]
    return 0 if names_one_file else min(len(os.sched_getaffinity(0)), MAX_WORKERS)


def pytest_configure(config: pytest.Config) -> None:
    if is_worker():
        config.stash[TURNS] = Turns(Path(tempfile.gettempdir()) / f"turns{str(ROOT).replace('/', '-')}-{os.getuid()}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))
    if is_worker():
        places = {ROOT / name: place for place, name in enumerate(LONGEST_FIRST)}
        items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outside the test's timeout: it may wait for its turn
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    turns = item.config.stash.get(TURNS, None)
    if turns is None:
        return (yield)
    turns.begin(alone="alone" in item.keywords)
    try:
        return (yield)
    finally:
        turns.end(next_alone=nextitem is not None and "alone" in nextitem.keywords)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many tests were skipped for which reason: `-rs` names them one by one."""
    skipped = [report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.stats.get("skipped", [])]
    if skipped:
        terminalreporter.section(f"{len(skipped)} skipped")
        for reason, number in Counter(skipped).most_common():
            terminalreporter.write_line(f"{number:>5}  {reason}")


def is_worker() -> bool:
    """Whether this process runs tests beside others."""
    return "PYTEST_XDIST_WORKER" in os.environ


def run_module(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m MODULE ARGUMENTS` from the repository root, as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def run_ranks(
    world_size: int, *arguments: str, per_rank: Sequence[Sequence[str]] = (), logs: Path
) -> list[subprocess.CompletedProcess[str]]:
    """`python -m train ARGUMENTS` as that many ranks, with exactly the variables the training operator injects."""
    with Gang(world_size, arguments, logs, per_rank, clean_environment()) as gang:
        codes = gang.await_end(SECONDS)
    assert None not in codes, f"{codes}\n{gang.errors()}"
    return [
        subprocess.CompletedProcess(rank.process.name, code, rank.out, rank.error)
        for rank, code in zip(gang.ranks, codes, strict=True)
        if code is not None
    ]


def history_of(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The records of one kind in a run's `training_history.json`; there must be some."""
    records = [r for r in json.loads((folder / "training_history.json").read_text()) if r["kind"] == kind]
    assert records, f"{folder} has no record of kind {kind}"
    return records


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    with Commands() as started:
        yield started


@pytest.fixture(scope="session")
def run(commands: Commands) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`python -m MODULE ARGUMENTS` from the repository root, forked from a process that has its libraries already.

    The launcher behind `--nproc` is about the start of processes, and gets one of its own.
    """

    def run_command(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        if "--nproc" in arguments:
            return run_module(module, *arguments, **environment)
        finished = commands.run(module, *arguments, environment=clean_environment(**environment))
        return subprocess.CompletedProcess([module, *arguments], finished.code, finished.stdout, finished.stderr)

    return run_command


@pytest.fixture
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[subprocess.CompletedProcess[str]]]:
    return lambda *given, **options: run_ranks(*given, **options, logs=tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="session")
def history() -> Callable[..., list[dict[str, Any]]]:
    return history_of


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of the smoke recipe, made once by the real command line.

    Every worker has a copy: a test that starts the run again takes the folder's lock.
    """
    if not is_worker():
        return finished_smoke_run(tmp_path_factory.mktemp("smoke") / "run")
    shared = tmp_path_factory.getbasetemp().parent / "smoke"
    with FileLock(f"{shared}.lock"):
        if not shared.exists():
            finished_smoke_run(shared.with_name("smoke.making")).rename(shared)
    return Path(shutil.copytree(shared, tmp_path_factory.mktemp("smoke") / "run"))


def finished_smoke_run(folder: Path) -> Path:
    finished = run_module("train", "smoke", f"output.dir={folder}")
    assert finished.returncode == 0, finished.stderr
    return folder
