"""A cluster as a fixture, with processes for containers or with podman, and the programs used against it."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.containers import ContainerBackend, why_unavailable
from tests.cluster.local_cluster import LocalCluster
from tests.cluster.processes import ProcessBackend
from tests.forked_commands import Commands

ROOT = Path(__file__).parents[2]
Deploy = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    """A cluster whose containers are processes of this checkout."""
    with LocalCluster(tmp_path / "cluster", ProcessBackend()) as running:
        yield running


@pytest.fixture
def container_cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    """A cluster whose containers are podman's; for tests marked slow."""
    if reason := why_unavailable():
        pytest.skip(reason)
    with LocalCluster(tmp_path / "cluster", ContainerBackend()) as running:
        yield running


class Kubectl:
    """The real kubectl against one cluster."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster

    def __call__(self, *arguments: str, stdin: str = "", timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["kubectl", *arguments],
            input=stdin,
            env=self.cluster.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Leave it running, for commands that follow something."""
        return subprocess.Popen(
            ["kubectl", *arguments],
            env=self.cluster.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def kubectl(cluster: LocalCluster) -> Kubectl:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    return Kubectl(cluster)


def deploy_command(cluster: LocalCluster, *arguments: str) -> dict[str, Any]:
    """How to run `python -m deploy ARGUMENTS` against a cluster, without a terminal to ask on."""
    return {
        "args": [sys.executable, "-m", "deploy", *arguments],
        "cwd": ROOT,
        "env": cluster.environment,
        "stdin": subprocess.DEVNULL,
        "text": True,
    }


@pytest.fixture
def deploy(cluster: LocalCluster, commands: Commands) -> Deploy:
    """Run `python -m deploy ARGUMENTS` to its end, as a fork."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        ended = commands.run("deploy", *arguments, environment=cluster.environment)
        return subprocess.CompletedProcess(arguments, ended.code, ended.stdout, ended.stderr)

    return run


@pytest.fixture
def start(cluster: LocalCluster) -> Iterator[Start]:
    """Like `deploy`, but left running, both outputs in one; what the test leaves is killed."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        started.append(subprocess.Popen(**deploy_command(cluster, *arguments), **pipes))
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
