"""A real training as a PyTorchJob: pods with the operator's variables, one of them killed on the way."""

import json
import shutil
import subprocess
import sys

import pytest

from train.run_folder.manifest import verify_manifest

NAMESPACE, NAME, CLAIM = "fieldcraft", "fieldcraft-smoke", "fieldcraft-smoke-output"
IMAGE = "localhost/fieldcraft:dev"
SECONDS = 150
MASTER, WORKER = f"{NAME}-master-0", f"{NAME}-worker-0"


def manifests(*settings):
    command = [sys.executable, "-m", "deploy", "render", "cpu-smoke"]
    for setting in settings:
        command += ["--set", setting]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def restart_counts(cluster):
    return [pod["status"]["containerStatuses"][0]["restartCount"] for pod in cluster.pods_of(NAMESPACE, NAME)]


@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("num_pods", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_killed_worker_makes_all_leave_meet_again_and_succeed(cluster, kubectl, num_pods):
    settings = [
        f"pods={num_pods}",
        "data.max_train_rows=8",
        "data.max_validation_rows=4",
        "optim.epochs=2",
        "output.max_new_tokens=4",
    ]
    applied = kubectl("apply", "-f", "-", stdin=manifests(*settings))
    assert applied.returncode == 0, applied.stderr
    cluster.wait_until(lambda: "step 2/" in cluster.log_of(NAMESPACE, MASTER), SECONDS, "for step 2")
    assert cluster.phase_of(NAMESPACE, WORKER) == "Running"
    cluster.kill(NAMESPACE, WORKER)
    assert cluster.wait_for_end(NAMESPACE, NAME, SECONDS) == "Succeeded"
    assert len(restart_counts(cluster)) == num_pods
    assert all(count >= 1 for count in restart_counts(cluster))  # nobody hung, nobody stayed behind
    run = cluster.folder_of(NAMESPACE, CLAIM) / NAME
    assert verify_manifest(run / "best_model")["files"]
    summary = json.loads((run / "training_summary.json").read_text())
    assert summary["world_size"] == num_pods
    assert summary["made_by"]["image"] == IMAGE
