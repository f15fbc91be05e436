"""The cluster as a fixture: with processes for containers, or with podman."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.containers import ContainerBackend, why_unavailable
from tests.cluster.local_cluster import LocalCluster
from tests.cluster.processes import ProcessBackend


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
