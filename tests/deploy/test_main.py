"""The commands against the local cluster, with the real client: what they print, how they exit. No pod trains here."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.kinds import JOB
from tests.cluster.local_cluster import LocalCluster

ROOT = Path(__file__).parents[2]
IMAGE = "localhost/fieldcraft:absent"
Deploy = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("cluster")) as running:
        running.backend.missing_images.add(IMAGE)
        yield running


@pytest.fixture
def deploy(shared_cluster: LocalCluster) -> Deploy:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "deploy", *arguments],
            cwd=ROOT, env=shared_cluster.environment, capture_output=True, text=True, timeout=100,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    return run


def test_preflight_of_every_profile(deploy):
    assert deploy("preflight", "cpu-smoke").returncode == 0
    flagship = deploy("preflight", "openshift-ai", "--context", "local")
    assert flagship.returncode == 0, flagship.stdout
    assert "4 pod(s) of 1 nvidia.com/gpu, 6 CPU, 20Gi fit on 4 node(s)" in flagship.stdout
    example = deploy("preflight", "generic-gpu")
    assert (example.returncode, "is only an example" in example.stdout) == (2, True)
    elsewhere = deploy("preflight", "cpu-smoke", "--namespace", "nowhere")
    assert (elsewhere.returncode, "nowhere does not exist" in elsewhere.stdout) == (12, True)


def test_a_job_from_apply_to_delete(deploy, shared_cluster):
    checked = deploy("apply", "cpu-smoke", "--image", IMAGE, "--dry-run", "server")
    assert checked.returncode == 0, checked.stderr
    assert "would create PyTorchJob/fieldcraft-smoke: accepted" in checked.stderr
    assert shared_cluster.select(JOB, "fieldcraft") == []

    first = deploy("apply", "cpu-smoke", "--image", IMAGE)
    assert first.returncode == 0, first.stderr
    again = deploy("apply", "cpu-smoke", "--image", IMAGE)
    assert again.returncode == 0, again.stderr
    assert "keep     PyTorchJob/fieldcraft-smoke  (already there, unchanged" in again.stderr
    other = deploy("apply", "cpu-smoke", "--image", IMAGE, "--set", "optim.epochs=1")
    assert other.returncode == 13
    assert "apply --replace" in other.stderr
    unasked = deploy("apply", "cpu-smoke", "--image", IMAGE, "--replace")
    assert (unasked.returncode, "Add --yes" in unasked.stderr) == (2, True)
    replaced = deploy("apply", "cpu-smoke", "--image", IMAGE, "--set", "optim.epochs=1", "--replace", "--yes")
    assert replaced.returncode == 0, replaced.stderr

    shared_cluster.wait_until(lambda: len(shared_cluster.pods_of("fieldcraft", "fieldcraft-smoke")) == 4, 20)
    shared_cluster.wait_until(lambda: "cannot be pulled" in deploy("status", "cpu-smoke").stdout, 30)
    status = json.loads(deploy("status", "cpu-smoke", "--json").stdout)
    assert [pod["rank"] for pod in status["pods"]] == [0, 1, 2, 3]
    assert status["exit_code"] is None

    deleted = deploy("delete", "cpu-smoke", "--yes")
    assert (deleted.returncode, "is deleted; its volumes stay" in deleted.stderr) == (0, True)
    assert shared_cluster.pods_of("fieldcraft", "fieldcraft-smoke") == []
    assert deploy("status", "cpu-smoke").returncode == 12
    gone = deploy("watch", "cpu-smoke")
    assert (gone.returncode, "Start it: python -m deploy apply cpu-smoke" in gone.stderr) == (12, True)


def test_what_is_wrong_is_one_line_on_stderr(deploy):
    refused = deploy("render", "cpu-smoke", "--image", "registry/a:latest")
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert len(refused.stderr.splitlines()) == 1
    assert deploy("apply", "cpu-smoke", "--context", "elsewhere").returncode == 10
    assert deploy("fetch", "cpu-smoke", "--namespace", "default").returncode == 12


def test_without_rights_and_without_the_operator(deploy, shared_cluster):
    shared_cluster.forbid("create", "pytorchjobs")
    looked = deploy("preflight", "cpu-smoke")
    assert (looked.returncode, "we may not create pytorchjobs" in looked.stdout) == (11, True)
    tried = deploy("apply", "cpu-smoke", "--image", IMAGE)
    assert (tried.returncode, "role `edit`" in tried.stderr) == (11, True)
    shared_cluster.remove_definition()
    for command in ("preflight", "apply"):
        finished = deploy(command, "cpu-smoke")
        assert finished.returncode == 12
        assert "CRD pytorchjobs.kubeflow.org is missing" in finished.stdout + finished.stderr
