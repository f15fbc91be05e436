"""checkov finds nothing in pods, policies and Dockerfile but what .checkov.yaml justifies.

It needs half of PyPI, so it is run as a program from an environment of its own:
    python -m venv checkov && checkov/bin/pip install checkov && CHECKOV=checkov/bin/checkov make test ARGS="-k checkov"
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from deploy.jobs.manifests import render
from deploy.profile import plan_deployment, profile_names

ROOT = Path(__file__).parents[3]
CHECKOV = os.environ.get("CHECKOV") or shutil.which("checkov")
IMAGE = f"registry.example/fieldcraft@sha256:{'0' * 64}"
SECONDS = 200
needs_checkov = pytest.mark.skipif(CHECKOV is None, reason="checkov is not installed, nor named by $CHECKOV")


def failed_checks(framework: str, *targets: str, cwd: Path) -> tuple[dict[str, str], int]:
    """Names of the checks that failed, by id, and how many passed."""
    command = [CHECKOV, "--config-file", ROOT / ".checkov.yaml", "--framework", framework, *targets]
    finished = subprocess.run(
        [*command, "--output", "json", "--quiet", "--compact"], capture_output=True, text=True, timeout=SECONDS, cwd=cwd
    )
    report = json.loads(finished.stdout)
    failed = {check["check_id"]: check["check_name"] for check in report["results"]["failed_checks"]}
    return failed, report["summary"]["passed"]


def pods_and_policies(profile: str) -> list[dict[str, object]]:
    """What a profile starts, in kinds that checkov knows."""
    manifests = render(plan_deployment(profile, image=IMAGE))
    replicas = next(one for one in manifests if one["kind"] == "PyTorchJob")["spec"]["pytorchReplicaSpecs"]
    pods = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**replica["template"]["metadata"], "name": role.lower(), "namespace": "fieldcraft"},
            "spec": replica["template"]["spec"],
        }
        for role, replica in replicas.items()
    ]
    return [*pods, *(manifest for manifest in manifests if manifest["kind"] == "NetworkPolicy")]


@needs_checkov
def test_checkov_on_what_every_profile_renders(tmp_path):
    for profile in profile_names():
        (tmp_path / f"{profile}.yaml").write_text(yaml.safe_dump_all(pods_and_policies(profile)))
    failed, num_passed = failed_checks("kubernetes", "--directory", str(tmp_path), cwd=tmp_path)
    assert failed == {}
    assert num_passed > 100


@needs_checkov
def test_checkov_on_the_dockerfile(tmp_path):
    failed, num_passed = failed_checks("dockerfile", "--file", str(ROOT / "Dockerfile"), cwd=tmp_path)
    assert failed == {}
    assert num_passed > 50


@needs_checkov
def test_checkov_would_notice(tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM python:3.12\nUSER root\nEXPOSE 22\nRUN sudo true\n")
    failed, _ = failed_checks("dockerfile", "--file", str(tmp_path / "Dockerfile"), cwd=tmp_path)
    assert {"CKV_DOCKER_1", "CKV_DOCKER_8"} <= failed.keys()


def test_every_skipped_check_says_why():
    text = (ROOT / ".checkov.yaml").read_text()
    skipped = yaml.safe_load(text)["skip-check"]
    justified = re.findall(r"^  - (CKV\w+) +# \S.{20,}", text, re.MULTILINE)
    assert justified == skipped


def test_base_image_has_a_version():
    """What CKV_DOCKER_7 is for, and cannot see through the build argument."""
    default = re.search(r"^ARG BASE_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert default
    assert re.fullmatch(r"[\w./-]+:(?!latest$)[\w.-]+", default[1])
