"""cleanup.sh --images, with the real podman and buildah on a store made for the test: nobody's images are at stake.

What it does to the job is shown in `tests/drills/test_drills.py`.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAME, OTHER_NAME, PROBE = "localhost/fieldcraft:scratch", "registry.example/team/fieldcraft:1", "localhost/probe:1"
SYSTEM = ("bash", "dirname", "env", "sed", "sort", "wc")


@pytest.fixture
def store(tmp_path):
    """The variables that name the store, with an image in it that is none of ours."""
    if shutil.which("podman") is None or shutil.which("buildah") is None:
        pytest.skip("podman and buildah are not both installed")
    folder = tmp_path / "store"
    settings = f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n'
    (tmp_path / "storage.conf").write_text(settings)
    variables = {"CONTAINERS_STORAGE_CONF": str(tmp_path / "storage.conf")}
    built = build(variables, tmp_path, PROBE, title="probe")
    if built.returncode:
        pytest.skip(f"images cannot be built here: {built.stderr.strip()[-200:]}")
    return variables


def call(variables, *command):
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60)


def build(variables, folder, name, **labels):
    """An image of one small file."""
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    options = [word for key, value in labels.items() for word in ("--label", f"org.opencontainers.image.{key}={value}")]
    return call(variables, "buildah", "build", *options, "--tag", name, str(folder))


def names(variables):
    listed = call(variables, "podman", "images", "--format", "{{.Repository}}:{{.Tag}}")
    assert listed.returncode == 0, listed.stderr
    return set(listed.stdout.split())


@pytest.fixture
def cleanup(store, tmp_path):
    """Run the script with these tools alone on the PATH; its `python -m deploy delete` finds nothing to do."""
    shutil.copytree(ROOT / "deploy", tmp_path / "checkout/deploy", ignore=shutil.ignore_patterns("__pycache__"))

    def run(tool, *options):
        programs = tmp_path / f"only-{tool}"
        if not programs.exists():
            programs.mkdir()
            for program in (*SYSTEM, tool):
                (programs / program).symlink_to(shutil.which(program))
            (programs / "python3").write_text("#!/bin/sh\n")
            (programs / "python3").chmod(0o755)
        command = [tmp_path / "checkout/deploy/cleanup.sh", "--images", *options]
        pipes = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
        return subprocess.run(command, env={**store, "PATH": str(programs)}, timeout=60, **pipes)

    return run


@pytest.mark.parametrize("tool", ["podman", "buildah"])
def test_images_built_here_go_and_no_others(tool, cleanup, store, tmp_path):
    """Of one with two names both; and one that lost its name to a later build."""
    for revision in ("one", "two"):
        built = build(store, tmp_path, NAME, title="fieldcraft", revision=revision)
        assert built.returncode == 0, built.stderr
    assert call(store, "buildah", "tag", NAME, OTHER_NAME).returncode == 0
    before = names(store)
    assert before == {NAME, OTHER_NAME, PROBE, "<none>:<none>"}
    unasked = cleanup(tool)
    assert (unasked.returncode, "nobody is there to ask. Add --yes" in unasked.stderr) == (2, True), unasked.stderr
    assert names(store) == before
    cleaned = cleanup(tool, "--yes")
    assert cleaned.returncode == 0, cleaned.stderr
    assert f"{tool}: 3 image(s) removed" in cleaned.stderr
    assert names(store) == {PROBE}
    again = cleanup(tool, "--yes")
    assert (again.returncode, again.stderr) == (0, f"{tool}: no images\n")


def test_an_image_in_use_stays_and_so_does_the_container(cleanup, store, tmp_path):
    assert build(store, tmp_path, NAME, title="fieldcraft").returncode == 0
    assert call(store, "podman", "create", "--name", "user", NAME, "/none").returncode == 0
    refused = cleanup("podman", "--yes")
    assert refused.returncode != 0
    assert "in use by a container" in refused.stderr
    assert names(store) == {NAME, PROBE}
    assert call(store, "podman", "container", "exists", "user").returncode == 0
