"""The container image: what is in it, what is not, and that it works locked down as a cluster locks it down.

`make e2e` builds it and runs these; the others need no container.
"""

import fnmatch
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGE = os.environ.get("FIELDCRAFT_IMAGE", "")
TEST_BASE = "localhost/fieldcraft-test-base:bookworm"
RANDOM_USER = "1000660000:0"
SECONDS = 280

pytestmark = pytest.mark.timeout(600)
needs_image = [pytest.mark.slow, pytest.mark.skipif(not IMAGE, reason="no image: `make e2e` builds one")]


def podman(*arguments: str, seconds: int = SECONDS) -> subprocess.CompletedProcess[str]:
    # runc where it is installed: Debian's crun refuses machines with hybrid cgroups.
    runtime = ["--runtime", "runc"] if shutil.which("runc") else []
    return subprocess.run(["podman", *runtime, *arguments], capture_output=True, text=True, timeout=seconds)


def run_locked_down(*command: str, outputs: Path | None = None, image: str = IMAGE) -> subprocess.CompletedProcess[str]:
    """What OpenShift's restricted-v2 does to a pod without egress, and a read-only root besides."""
    volume = ["--volume", f"{outputs}:/outputs"] if outputs else []
    locks = ["--user", RANDOM_USER, "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096", "--env", "OMP_NUM_THREADS=1"]
    place = ["--network", "none", "--tmpfs", "/tmp"]  # noqa: S108 (in the container)
    return podman("run", "--rm", *locks, *limits, *place, *volume, image, *command)


def copied_by_dockerfile() -> list[str]:
    """Sources of COPY that come from the build context and are not chosen by an argument."""
    instructions = re.findall(r"^COPY (?!--from)(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    return [source for line in instructions for source in line.split()[:-1] if "$" not in source]


def test_what_the_dockerfile_copies_is_let_through():
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = copied_by_dockerfile()
    assert {"data", "train", "inference", "requirements.txt"} <= set(copied)
    assert set(copied) <= let_through


def test_nothing_is_let_through_that_is_not_named():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert next(line for line in ignored if not line.startswith("#")) == "*"
    assert any(fnmatch.fnmatch("__pycache__", pattern.removeprefix("**/")) for pattern in ignored)


@pytest.fixture(scope="module")
def description() -> dict[str, object]:
    return json.loads(podman("image", "inspect", IMAGE).stdout)[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that the locked-down container filled."""
    folder = tmp_path_factory.mktemp("outputs")
    folder.chmod(0o777)  # another user writes it; a cluster gives a volume its group
    finished = run_locked_down("python", "-m", "train", "smoke", outputs=folder)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return folder


class TestBuilt:
    pytestmark = needs_image

    def test_labels_say_what_is_inside(self, description):
        labels = description["Config"]["Labels"]
        data = (ROOT / "data/qa_dataset.parquet").read_bytes()
        assert labels["fieldcraft.data.sha256"] == hashlib.sha256(data).hexdigest()
        assert labels["fieldcraft.base-model"] == "embedded"
        assert re.fullmatch("([0-9a-f]{40}(-dirty)?)?", labels["org.opencontainers.image.revision"])
        assert labels["org.opencontainers.image.version"]

    def test_starts_training_as_an_ordinary_user(self, description):
        config = description["Config"]
        assert (config["Cmd"], config["User"]) == (["python", "-m", "train"], "1001")

    def test_holds_what_runs_and_nothing_else(self):
        listed = run_locked_down("sh", "-c", "ls -A . data && ls -A /tmp && id -u && id -g").stdout.split()
        assert {"train", "inference", "qa_dataset.parquet", "prompts", "1000660000", "0"} <= set(listed)
        assert not {"tests", "deploy", "benchmarks", ".git", ".venv", "qa_dataset.jsonl", "outputs"} & set(listed)

    def test_does_not_tell_where_its_packages_came_from(self):
        settings = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True)
        words = {word.strip("'\"") for line in settings.stdout.splitlines() for word in line.split("=", 1)[1].split()}
        told = podman("image", "history", "--no-trunc", IMAGE).stdout + podman("image", "inspect", IMAGE).stdout
        assert "TORCH=torch" in told
        assert [word for word in words if "/" in word and word in told] == []

    def test_trains_read_only_without_network_as_any_user(self, trained):
        summary = json.loads((trained / "training_summary.json").read_text())
        assert summary
        assert (trained / "best_model/READY").exists()

    def test_answers_from_what_it_trained(self, trained):
        question = ["--run", "/outputs", "--max-new-tokens", "8", "How do I treat a nosebleed?"]
        answered = run_locked_down("python", "-m", "inference.ask_tuned_model", *question, outputs=trained)
        assert answered.returncode == 0, answered.stderr
        assert answered.stdout.strip()

    def test_checks_itself(self, tmp_path):
        tmp_path.chmod(0o777)
        checked = run_locked_down("python", "-m", "train", "smoke", "--preflight", outputs=tmp_path)
        assert checked.returncode == 0, checked.stdout + checked.stderr

    def test_without_a_volume_it_says_so_in_one_line(self):
        refused = run_locked_down("python", "-m", "train", "smoke")
        assert refused.returncode == 204, refused.stderr
        assert "/outputs" in refused.stderr
        assert "Traceback" not in refused.stderr


FAKE_BASE = r"""
FROM {base}
RUN set -eu; packages=$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
    for package in torch-{torch} flash_attn-2.8.3; do \
        facts=$packages/$package.dist-info; mkdir -p $facts; touch $facts/RECORD; echo base > $facts/INSTALLER; \
        printf 'Metadata-Version: 2.1\nName: %s\nVersion: %s\n' ${{package%%-*}} ${{package#*-}} > $facts/METADATA; \
    done
"""


@pytest.mark.slow
@pytest.mark.skipif(not IMAGE, reason="no image: `make e2e` makes its base")
@pytest.mark.parametrize(("torch", "fits"), [("2.8.0+cu128", True), ("2.5.1+cu124", False)])
def test_a_base_keeps_its_own_torch(tmp_path, torch, fits):
    """A base that claims to have torch and flash-attn: they stay, or the build stops; nothing replaces them."""
    base, target = f"localhost/fieldcraft-test-{'fits' if fits else 'old'}", "localhost/fieldcraft-test-packages"
    (tmp_path / "Dockerfile").write_text(FAKE_BASE.format(base=TEST_BASE, torch=torch))
    build = ["nice", "buildah", "build", "--isolation", "chroot"]
    subprocess.run([*build, "--tag", base, str(tmp_path)], check=True, capture_output=True)
    script = [ROOT / "deploy/build-image.sh", "--tool", "buildah", "--base-image", base, "--tag", target]
    environment = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
    options = {"env": environment, "capture_output": True, "text": True, "timeout": 500}
    built = subprocess.run([*script, "--target", "packages"], **options)
    if not fits:
        assert built.returncode != 0
        assert "torch" in built.stderr
        return
    assert built.returncode == 0, built.stderr[-2000:]
    listed = run_locked_down("python", "-m", "pip", "list", "--format=freeze", image=target).stdout
    assert f"torch=={torch}" in listed.split()
    assert re.search(r"^flash.attn==2\.8\.3$", listed, re.MULTILINE)
    assert re.search(r"^transformers==", listed, re.MULTILINE)
