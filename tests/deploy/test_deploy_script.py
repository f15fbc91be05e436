"""The shell scripts: what they accept, refuse and would do; stand-ins take the place of podman and oc."""

import os
import shutil
import signal
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml

from deploy.profile import profile_names

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy/deploy-script.sh"
SCRIPTS = sorted([*(ROOT / "deploy").glob("*.sh"), *(ROOT / "tests/cluster").glob("*.sh"), ROOT / ".ci/run"])
RUNNABLE = [path for path in (ROOT / "deploy").glob("*.sh") if path.name != "common.sh"]
DIGEST = "sha256:" + "ab" * 32


def script(
    path: Path, *arguments: str, cwd: Path = ROOT, programs: Path | None = None
) -> subprocess.CompletedProcess[str]:
    search = f"{programs}:{os.environ['PATH']}" if programs else os.environ["PATH"]
    environment = {**os.environ, "PATH": search}
    return subprocess.run([path, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def stand_in(folder: Path, name: str, body: str) -> Path:
    """A program that writes down its arguments, then does `body`."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f'#!/bin/bash\necho "$0 $*" >> {folder}/calls\n{body}\n')
    path.chmod(0o755)
    return folder


def test_shellcheck():
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    assert len(SCRIPTS) > 5
    checked = subprocess.run(["shellcheck", "-x", *SCRIPTS], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.name)
def test_help(path, tmp_path):
    helped = script(path, "--help", cwd=tmp_path)
    assert helped.returncode == 0
    assert helped.stdout.startswith("Usage:")


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.name)
def test_unknown_option_and_missing_value(path):
    unknown = script(path, "--no-such-option")
    assert (unknown.returncode, unknown.stderr) == (2, "error: unknown option '--no-such-option'; --help lists all\n")
    # Every script takes one of these two.
    option = "--context" if "--context" in path.read_text() else "--tag"
    missing = script(path, option)
    assert (missing.returncode, missing.stderr) == (2, f"error: {option} needs a value\n")


@pytest.mark.parametrize("profile", profile_names())
def test_dry_run_changes_nothing_and_prints_the_manifests(profile, tmp_path):
    programs = stand_in(tmp_path / "bin", "podman", "exit 1")
    for name in ("oc", "kubectl", "buildah", "docker"):
        stand_in(programs, name, "exit 1")
    arguments = ["--dry-run", "--profile", profile, "--tag", "1", "--registry", "registry.example/team"]
    planned = script(DEPLOY, *arguments, cwd=tmp_path, programs=programs)
    assert planned.returncode == 0, planned.stderr
    job = next(item for item in yaml.safe_load_all(planned.stdout) if item["kind"] == "PyTorchJob")
    container = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]
    assert container["image"] == "registry.example/team/fieldcraft:1"
    steps = [line.split()[5] for line in planned.stderr.splitlines() if " -m deploy " in line and "would" in line]
    assert steps == ["preflight", "apply", "watch"]
    assert not (programs / "calls").exists()


def test_unknown_profile_names_the_nearest():
    refused = script(DEPLOY, "--dry-run", "--profile", "cpu-smok")
    assert refused.returncode == 2
    assert "Did you mean 'cpu-smoke'?" in refused.stderr


def test_the_clusters_own_registry_is_built_in_the_cluster():
    planned = script(DEPLOY, "--dry-run", "--profile", "openshift-ai", "--tag", "1")
    assert (
        "would run: deploy/build-in-cluster.sh --name image-registry.openshift-image-registry.svc:5000"
        in planned.stderr
    )


def test_paths_are_the_callers(tmp_path):
    planned = script(DEPLOY, "--dry-run", "--skip-build", "--fetch", "model", cwd=tmp_path)
    assert f"--output {tmp_path}/model" in planned.stderr


def test_image_is_pushed_and_pinned_by_the_digest_the_registry_gave(tmp_path):
    push = f'while (($#)); do [[ $1 == --digestfile ]] && printf %s {DIGEST} > "$2"; shift; done'
    programs = stand_in(tmp_path / "bin", "podman", f"[[ $1 != push ]] || {{ {push}; }}")
    name = "registry.example:8443/team/fieldcraft:1"
    built = script(ROOT / "deploy/build-image.sh", "--tool", "podman", "--tag", name, "--push", programs=programs)
    assert built.returncode == 0, built.stderr
    assert built.stdout == f"registry.example:8443/team/fieldcraft@{DIGEST}\n"
    calls = (programs / "calls").read_text()
    assert "push --tls-verify=true" in calls
    assert "--build-arg DATA_SHA256=" in calls


def test_failed_build_stops_everything(tmp_path):
    programs = stand_in(tmp_path / "bin", "podman", "exit 125")
    built = script(ROOT / "deploy/build-image.sh", "--tool", "podman", "--push", programs=programs)
    assert (built.returncode, built.stdout) == (125, "")


def test_build_in_cluster_sends_what_the_dockerfile_takes_and_no_more(tmp_path):
    keep = f'while (($#)); do [[ $1 == --from-archive ]] && cp "$2" {tmp_path}/sent.tar.gz; shift; done; true'
    answer = f'[[ $* != *imagestreamtag* ]] || echo "registry.svc:5000/team/fieldcraft@{DIGEST}"; {keep}'
    programs = stand_in(tmp_path / "bin", "oc", answer)
    arguments = ["--name", "registry.svc:5000/team/fieldcraft:1", "--base-model", "embedded"]
    built = script(ROOT / "deploy/build-in-cluster.sh", *arguments, programs=programs)
    assert (built.returncode, built.stdout) == (0, f"registry.svc:5000/team/fieldcraft@{DIGEST}\n"), built.stderr
    with tarfile.open(tmp_path / "sent.tar.gz") as archive:
        sent = set(archive.getnames())
    assert {"Dockerfile", ".dockerignore", "data/qa_dataset.parquet", "train/run.py"} <= sent
    assert not [name for name in sent if name.split("/")[0] in (".venv", ".git", "outputs", "tests")]
    calls = (programs / "calls").read_text()
    assert "--namespace team" in calls
    assert "--build-arg BASE_MODEL=embedded" in calls


def test_ctrl_c_in_a_build_says_that_nothing_was_started(tmp_path):
    programs = stand_in(tmp_path / "bin", "podman", f"touch {tmp_path}/building; exec sleep 60")
    stub = stand_in(programs, "python3", "exit 0")
    fake_root = tmp_path / "checkout"
    shutil.copytree(ROOT / "deploy", fake_root / "deploy", ignore=shutil.ignore_patterns("__pycache__"))
    (fake_root / "data").mkdir()
    (fake_root / "data/qa_dataset.parquet").touch()
    environment = {**os.environ, "PATH": f"{stub}:{os.environ['PATH']}"}
    command = [fake_root / "deploy/deploy-script.sh", "--registry", "registry.example", "--tool", "podman"]
    options = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    running = subprocess.Popen(command, start_new_session=True, **options)
    for _ in range(200):
        if (tmp_path / "building").exists():
            break
        try:
            running.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        break
    assert (tmp_path / "building").exists(), running.communicate()[1]
    os.killpg(running.pid, signal.SIGINT)
    told = running.communicate(timeout=20)[1]
    assert running.returncode == 130
    assert told.endswith("stopped: nothing was started in the cluster\n")
