"""A training job that the cluster does its worst to: it ends Succeeded, bit-equal to a job that was left in peace.

The storm of `tests.chaos` in pods: killed containers, a node that is drained, a volume that is full for a while.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.storm import assert_same_run, assert_sound
from tests.cluster.local_cluster import LocalCluster
from tests.small_volume import fill_up, small_volume
from train.run_folder.manifest import verify_manifest
from train.run_folder.run_folder import RunFolder

NAMESPACE, NAME, CLAIM = "fieldcraft", "fieldcraft-smoke", "fieldcraft-smoke-output"
MASTER, WORKER = f"{NAME}-master-0", f"{NAME}-worker-0"
SECONDS = 200
VOLUME_MEGABYTES = 128
SHAPE = (
    "pods=2",
    "adapt.head=frozen",
    "data.max_train_rows=16",
    "data.max_validation_rows=4",
    "evaluation.every_steps=4",
    "optim.epochs=3",
    "output.checkpoint_every_steps=2",
    "output.demo=false",
)
"""24 steps, a checkpoint after every other one."""

pytestmark = [
    pytest.mark.timeout(2 * SECONDS + 60),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed"),
]


def apply_job(cluster: LocalCluster) -> None:
    settings = [word for setting in SHAPE for word in ("--set", setting)]
    render = [sys.executable, "-m", "deploy", "render", "cpu-smoke", *settings]
    rendered = subprocess.run(render, capture_output=True, text=True, timeout=60)
    assert rendered.returncode == 0, rendered.stderr
    use_kubectl(cluster, "apply", "-f", "-", stdin=rendered.stdout)


def use_kubectl(cluster: LocalCluster, *arguments: str, stdin: str = "") -> None:
    command = ["kubectl", *arguments]
    done = subprocess.run(
        command, input=stdin, env=cluster.environment, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr


def run_folder(cluster: LocalCluster) -> RunFolder:
    return RunFolder(cluster.folder_of(NAMESPACE, CLAIM) / NAME)


def await_in_log(cluster: LocalCluster, pattern: str) -> None:
    """Wait until the master's last start has said something."""
    cluster.wait_until(lambda: re.search(pattern, cluster.log_of(NAMESPACE, MASTER)), SECONDS, f"for '{pattern}'")


def node_of(cluster: LocalCluster, name: str) -> str:
    """Where a pod of the job is, once it is there; empty before."""
    pods = {pod["metadata"]["name"]: pod for pod in cluster.pods_of(NAMESPACE, NAME)}
    return str(pods.get(name, {}).get("spec", {}).get("nodeName", ""))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The run folder of a job that nothing happened to."""
    with LocalCluster(tmp_path_factory.mktemp("undisturbed")) as cluster:
        apply_job(cluster)
        assert cluster.wait_for_end(NAMESPACE, NAME, SECONDS) == "Succeeded"
        folder = run_folder(cluster)
    assert first_steps(folder) == [0]
    return folder


def first_steps(folder: RunFolder) -> list[int]:
    """The step each start of a run went on from."""
    return [start["first_step"] for start in json.loads(folder.starts.read_text())]


def assert_ends_as_undisturbed(cluster: LocalCluster, undisturbed: RunFolder) -> None:
    assert cluster.wait_for_end(NAMESPACE, NAME, SECONDS) == "Succeeded", cluster.overview()
    folder = run_folder(cluster)
    assert_sound(folder)
    assert verify_manifest(folder.best_model)["files"]
    assert_same_run(folder, undisturbed)
    assert not folder.failure.exists()


def assert_went_on(cluster: LocalCluster) -> None:
    """It was started again, and not from the beginning."""
    _, *later = first_steps(run_folder(cluster))
    assert later
    assert all(step > 0 for step in later), later


@pytest.mark.parametrize(
    "victims",
    [
        pytest.param((WORKER,), id="worker", marks=pytest.mark.slow),
        pytest.param((MASTER,), id="master", marks=pytest.mark.slow),
        pytest.param((WORKER, MASTER), id="all at once", marks=pytest.mark.slow),
    ],
)
def test_killed_containers(cluster, undisturbed, victims):
    apply_job(cluster)
    await_in_log(cluster, "step 5/")
    for victim in victims:
        cluster.kill(NAMESPACE, victim)
    assert_ends_as_undisturbed(cluster, undisturbed)
    assert_went_on(cluster)


@pytest.mark.parametrize(
    "victims",
    [
        pytest.param((WORKER,), id="worker"),
        pytest.param((MASTER,), id="master", marks=pytest.mark.slow),
        pytest.param((MASTER, WORKER), id="all", marks=pytest.mark.slow),
    ],
)
def test_a_drained_node(cluster, undisturbed, victims):
    """Its pods are asked to leave, as `kubectl drain` does, and are made anew on another node."""
    apply_job(cluster)
    await_in_log(cluster, "step 5/")
    node = node_of(cluster, WORKER)
    use_kubectl(cluster, "cordon", node)
    use_kubectl(cluster, "delete", "pod", "--namespace", NAMESPACE, *victims)
    for victim in victims:
        cluster.wait_until(lambda name=victim: node_of(cluster, name) not in ("", node), SECONDS, f"for {victim}")
    assert_ends_as_undisturbed(cluster, undisturbed)
    assert_went_on(cluster)


@pytest.fixture
def ballast(cluster: LocalCluster) -> Iterator[Path]:
    """The file that fills up a job's volume; for its sake the job has just given up a checkpoint."""
    with small_volume(cluster.folder_of(NAMESPACE, CLAIM), VOLUME_MEGABYTES) as volume:
        volume.chmod(0o777)
        apply_job(cluster)
        await_in_log(cluster, "step 5/")
        file = fill_up(volume)
        await_in_log(cluster, r"checkpoint-\d+ could not be written .*; the run goes on")
        yield file


@pytest.mark.slow
def test_a_volume_that_is_full_for_a_while(cluster, undisturbed, ballast):
    """The next checkpoints are written again."""
    ballast.unlink()
    assert_ends_as_undisturbed(cluster, undisturbed)
    assert first_steps(run_folder(cluster)) == [0]


@pytest.mark.slow
def test_all_killed_while_the_volume_is_full(cluster, undisturbed, ballast):
    """They start again on a full volume."""
    for victim in (MASTER, WORKER):
        cluster.kill(NAMESPACE, victim)
    cluster.wait_until(lambda: num_restarts(cluster, MASTER), SECONDS, "for the master's next start")
    await_in_log(cluster, "be written .*No space left")
    ballast.unlink()
    assert_ends_as_undisturbed(cluster, undisturbed)


def num_restarts(cluster: LocalCluster, name: str) -> int:
    [pod] = [pod for pod in cluster.pods_of(NAMESPACE, NAME) if pod["metadata"]["name"] == name]
    return int(pod["status"]["containerStatuses"][0]["restartCount"])
