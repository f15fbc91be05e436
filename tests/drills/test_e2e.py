"""From the checkout to the model and back: deploy-script.sh, the real image in four containers, the real kubectl.

`make e2e` builds the image and runs this. It needs root, podman, buildah and debootstrap.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inference.models.published import open_published
from tests.chaos.storm import assert_same_run, assert_sound
from tests.cluster.containers import ContainerBackend, why_unavailable
from tests.cluster.kinds import CLAIM
from tests.cluster.local_cluster import LocalCluster
from train.run_folder.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
IMAGE = os.environ.get("FIELDCRAFT_IMAGE", "")
NAMESPACE, JOB = "fieldcraft", "fieldcraft-smoke"
PODS = {f"{JOB}-{name}" for name in ("master-0", "worker-0", "worker-1", "worker-2")}
RUN = ("--profile", "cpu-smoke", "--set", "optim.epochs=2", "--yes")
SECONDS = 560

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(SECONDS + 200),
    pytest.mark.skipif(not IMAGE, reason="no image: `make e2e` builds one"),
]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    if reason := why_unavailable():
        pytest.skip(reason)
    with LocalCluster(tmp_path / "cluster", ContainerBackend()) as running:
        yield running


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """A registry on this machine, where its program is installed; else the images stay in podman's store."""
    if shutil.which("docker-registry") is None:
        yield "localhost"
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    storage = {"filesystem": {"rootdirectory": str(tmp_path / "registry")}}
    settings = {"version": 0.1, "log": {"level": "error"}, "storage": storage, "http": {"addr": f"127.0.0.1:{port}"}}
    (tmp_path / "registry.json").write_text(json.dumps(settings))
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(["docker-registry", "serve", tmp_path / "registry.json"], **quiet)
    try:
        yield f"localhost:{port}"
    finally:
        server.terminate()
        server.wait(10)
        shutil.rmtree(tmp_path / "registry", ignore_errors=True)


def deploy_script(cluster: LocalCluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    config_home = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")  # pip's settings of this user
    environment = {**cluster.environment, "XDG_CONFIG_HOME": config_home, "BUILDAH_ISOLATION": "chroot"}
    script = [
        ROOT / "deploy/deploy-script.sh",
        "--profile",
        "cpu-smoke",
        "--yes",
        "--set",
        "optim.epochs=2",
        *arguments,
    ]
    options: dict[str, Any] = {"env": environment, "capture_output": True, "text": True, "timeout": SECONDS}
    return subprocess.run(script, stdin=subprocess.DEVNULL, **options)


@pytest.fixture(scope="module")
def earlier_runs() -> list[RunFolder]:
    """What the tests before have trained, on volumes that outlive their clusters."""
    return []


def check_run(cluster: LocalCluster, earlier_runs: list[RunFolder]) -> None:
    """What lies on the volume is whole, and bit for bit what the same job came to before, whatever happened to it."""
    [claim] = cluster.select(CLAIM, NAMESPACE)
    folder = RunFolder(cluster.folder_of(NAMESPACE, claim["metadata"]["name"]) / JOB)
    assert_sound(folder)
    for earlier in earlier_runs:
        assert_same_run(folder, earlier)
    earlier_runs.append(folder)


def restarts(cluster: LocalCluster) -> dict[str, int]:
    return {
        pod["metadata"]["name"]: pod["status"]["containerStatuses"][0]["restartCount"]
        for pod in cluster.pods_of(NAMESPACE, JOB)
    }


def check_fetched(folder: Path) -> None:
    """All hashes are the manifest's, four ranks made it, and it answers."""
    open_published(folder, verify=True)
    assert json.loads((folder / "training_summary.json").read_text())["world_size"] == 4
    question = ["--run", str(folder), "--max-new-tokens", "8", "How do I treat a nosebleed?"]
    command = [sys.executable, "-m", "inference.ask_tuned_model", *question]
    answered = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert answered.returncode == 0, answered.stderr
    assert answered.stdout.strip()


def test_from_checkout_to_model_and_back(cluster, registry, earlier_runs, tmp_path, capsys):
    start = time.monotonic()
    build = ["--base-image", "localhost/fieldcraft-test-base:bookworm", "--base-model", "embedded", "--tool", "buildah"]
    place = ["--registry", registry, "--tag", "e2e", "--fetch", str(tmp_path / "fetched")]
    deployed = deploy_script(cluster, *build, *place)
    assert deployed.returncode == 0, f"{deployed.stdout}\n{deployed.stderr}\n{cluster.overview()}"
    assert cluster.wait_for_end(NAMESPACE, JOB) == "Succeeded"
    pods = cluster.pods_of(NAMESPACE, JOB)
    assert {pod["metadata"]["name"] for pod in pods} == PODS
    images = {pod["spec"]["containers"][0]["image"] for pod in pods}
    assert len(images) == 1
    assert images.pop().startswith(f"{registry}/fieldcraft@sha256:")
    check_fetched(tmp_path / "fetched")
    check_run(cluster, earlier_runs)
    with capsys.disabled():
        print(f"\nfrom checkout to fetched model with 4 pods: {time.monotonic() - start:.0f} s")


def test_a_worker_that_is_killed_does_not_end_the_job(cluster, earlier_runs, tmp_path, capsys):
    """SIGKILL for one container in mid-training: all ranks leave, restart in place, meet again and end bit-equal."""
    start = time.monotonic()
    killed = threading.Event()

    def kill_in_mid_training() -> None:
        cluster.wait_until(lambda: "step 3/" in _log(cluster), 300, "for step 3")
        cluster.kill(NAMESPACE, f"{JOB}-worker-1")
        killed.set()

    killer = threading.Thread(target=kill_in_mid_training, daemon=True)
    killer.start()
    deployed = deploy_script(cluster, "--image", IMAGE, "--fetch", str(tmp_path / "fetched"))
    assert deployed.returncode == 0, f"{deployed.stdout}\n{deployed.stderr}\n{cluster.overview()}"
    assert killed.is_set()
    assert restarts(cluster).keys() == PODS
    assert all(count >= 1 for count in restarts(cluster).values()), restarts(cluster)
    assert cluster.wait_for_end(NAMESPACE, JOB) == "Succeeded"
    check_fetched(tmp_path / "fetched")
    check_run(cluster, earlier_runs)
    with capsys.disabled():
        print(f"\nthe same with a worker killed: {time.monotonic() - start:.0f} s, restarts {restarts(cluster)}")


def _log(cluster: LocalCluster) -> str:
    """The master's log; empty while there is no such pod."""
    if not any(pod["metadata"]["name"] == f"{JOB}-master-0" for pod in cluster.pods_of(NAMESPACE, JOB)):
        return ""
    return cluster.log_of(NAMESPACE, f"{JOB}-master-0")
