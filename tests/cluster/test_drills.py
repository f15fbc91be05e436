"""Failures as a user meets them: `python -m deploy` says the right sentence and leaves with the right exit code."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.kinds import CLAIM, JOB, NODE, POD, QUOTA

ROOT = Path(__file__).parents[2]
NAMESPACE, NAME, MASTER = "fieldcraft", "fieldcraft-smoke", "fieldcraft-smoke-master-0"
SECONDS = 90
CLAIM_NAME, IMAGE = "fieldcraft-smoke-output", "localhost/fieldcraft:dev"
DATA, UNREACHABLE, FORBIDDEN, MISSING, CONFLICT, INCOMPLETE = 3, 10, 11, 12, 13, 15


@pytest.fixture
def deploy(cluster):
    def run(*arguments, timeout=SECONDS):
        return subprocess.run(
            [sys.executable, "-m", "deploy", *arguments],
            cwd=ROOT,
            env=cluster.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture
def start(cluster):
    """Like `deploy`, but left running; what the test leaves is killed."""
    started = []

    def run(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy", *arguments],
            cwd=ROOT,
            env=cluster.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def pending(cluster):
    return cluster.wait_until(lambda: cluster.phase_of(NAMESPACE, MASTER) == "Pending", SECONDS)


def test_no_definition(cluster, deploy):
    cluster.remove_definition()
    ended = deploy("apply", "cpu-smoke")
    assert ended.returncode == MISSING
    assert "the CRD pytorchjobs.kubeflow.org is missing" in ended.stderr


def test_forbidden(cluster, deploy):
    cluster.forbid("create", "pytorchjobs")
    ended = deploy("apply", "cpu-smoke")
    assert ended.returncode == FORBIDDEN
    assert 'cannot create resource "pytorchjobs"' in ended.stderr
    assert not cluster.select(JOB)


def test_api_server_is_not_there(cluster, deploy):
    cluster.go_down()
    ended = deploy("status", "cpu-smoke")
    assert ended.returncode == UNREACHABLE
    assert "cannot be reached" in ended.stderr


def test_two_applies(cluster, deploy):
    assert deploy("apply", "cpu-smoke").returncode == 0
    ended = deploy("apply", "cpu-smoke", "--set", "optim.epochs=9")
    assert ended.returncode == CONFLICT
    assert len(cluster.select(JOB)) == 1


def test_bad_setting_ends_before_the_cluster_is_asked(cluster, deploy):
    ended = deploy("apply", "cpu-smoke", "--set", "optim.epoch=1")
    assert ended.returncode == 2
    assert "epochs" in ended.stderr  # the nearest known key
    assert not cluster.select(JOB)


@pytest.mark.parametrize(
    ("prepare", "sentence"),
    [
        (lambda cluster: cluster.remove_all(NODE), "0/0 nodes are available"),
        (lambda cluster: cluster.backend.missing_images.add(IMAGE), "pull"),
        (
            lambda cluster: cluster.create(
                QUOTA, {"metadata": {"name": "none", "namespace": NAMESPACE}, "spec": {"hard": {"pods": "0"}}}
            ),
            "exceeded quota",
        ),
    ],
    ids=["no node", "no image", "quota"],
)
def test_status_explains_what_keeps_pods_from_running(cluster, deploy, prepare, sentence):
    prepare(cluster)
    assert deploy("apply", "cpu-smoke").returncode == 0
    cluster.wait_until(lambda: cluster.events(NAMESPACE, "FailedScheduling") or cluster.events(NAMESPACE, "Failed")
                       or cluster.events(NAMESPACE, "FailedCreatePod"), SECONDS)  # fmt: skip
    assert sentence in deploy("status", "cpu-smoke").stdout


def test_volume_of_an_unknown_class_keeps_the_job_pending(cluster, deploy):
    settings = ("--set", "output_volume.storage_class=fast")
    assert deploy("apply", "cpu-smoke", *settings).returncode == 0
    pending(cluster)
    cluster.wait_until(lambda: cluster.events(NAMESPACE, "FailedScheduling"), SECONDS)
    assert "fieldcraft-smoke-output" in deploy("status", "cpu-smoke", *settings).stdout


def test_watch_survives_a_lost_api_server_and_passes_the_exit_code_on(cluster, deploy, start):
    settings = ("--set", "restart.policy=supervised", "--set", "data.dataset=/nowhere.parquet", "--set", "pods=2")
    applied = deploy("apply", "cpu-smoke", *settings)
    assert applied.returncode == 0, applied.stderr
    watching = start("watch", "cpu-smoke", *settings)
    cluster.wait_until(lambda: cluster.phase_of(NAMESPACE, MASTER) == "Running", SECONDS)
    cluster.go_down()
    time.sleep(4)
    cluster.come_up()
    output, _ = watching.communicate(timeout=SECONDS)
    assert watching.returncode == DATA, output
    assert "the cluster answers again" in output
    assert "/nowhere.parquet" in output  # the pod's own sentence


@pytest.fixture
def finished_run(cluster, smoke_run):
    """A finished run on the volume, without a job that made it."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed: files are read through it")
    claim = {"metadata": {"name": CLAIM_NAME, "namespace": NAMESPACE}, "spec": {"accessModes": ["ReadWriteOnce"]}}
    claim["spec"]["resources"] = {"requests": {"storage": "1Gi"}}
    cluster.create(CLAIM, claim)
    return shutil.copytree(smoke_run, cluster.folder_of(NAMESPACE, CLAIM_NAME) / NAME)


def test_corrupted_file_on_the_volume_is_found_and_a_mended_one_fetched(cluster, deploy, finished_run, tmp_path):
    weights = next((finished_run / "best_model").glob("*.safetensors"))
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    ended = deploy("fetch", "cpu-smoke", "--output", str(tmp_path / "out"))
    assert ended.returncode == INCOMPLETE, ended.stderr
    assert weights.name in ended.stderr
    assert not cluster.select(POD)  # the reading pod is gone
    weights.write_bytes(good)
    ended = deploy("fetch", "cpu-smoke", "--output", str(tmp_path / "out"))
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "out/best_model" / weights.name).read_bytes() == good


def test_ctrl_c_in_fetch_removes_the_reading_pod(cluster, start, finished_run, tmp_path):
    cluster.backend.missing_images.add(IMAGE)  # it waits for its pod
    fetching = start("fetch", "cpu-smoke", "--output", str(tmp_path / "out"))
    cluster.wait_until(lambda: cluster.select(POD), SECONDS)
    fetching.send_signal(signal.SIGINT)
    output, _ = fetching.communicate(timeout=SECONDS)
    assert fetching.returncode == 130, output
    cluster.wait_until(lambda: not cluster.select(POD), SECONDS)


def test_worker_out_of_memory_is_named(cluster, deploy):
    assert deploy("apply", "cpu-smoke", "--set", "pods=2").returncode == 0
    worker = f"{NAME}-worker-0"
    cluster.wait_until(lambda: cluster.phase_of(NAMESPACE, worker) == "Running", SECONDS)
    cluster.kill(NAMESPACE, worker, out_of_memory=True)
    cluster.wait_until(
        lambda: cluster.get(POD, NAMESPACE, worker)["status"]["containerStatuses"][0]["lastState"], SECONDS
    )
    shown = deploy("status", "cpu-smoke").stdout
    assert "OOMKilled" in shown or "out of memory" in shown, shown


def test_ctrl_c_in_watch_leaves_the_job_alone(cluster, deploy, start):
    cluster.remove_all(NODE)
    assert deploy("apply", "cpu-smoke").returncode == 0
    watching = start("watch", "cpu-smoke")
    time.sleep(4)
    watching.send_signal(signal.SIGINT)
    output, _ = watching.communicate(timeout=SECONDS)
    assert watching.returncode == 130, output
    assert "the job goes on" in output
    assert cluster.select(JOB)
    assert cluster.select(POD)
