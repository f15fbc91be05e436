import subprocess

import pytest

from train.run_folder import provenance as module
from train.run_folder.provenance import provenance


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "REPOSITORY", tmp_path)
    for name in ("FIELDCRAFT_REVISION", "FIELDCRAFT_IMAGE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def git(folder, *arguments):
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", "-C", folder, *who, *arguments], capture_output=True, text=True, check=True).stdout


def test_an_image_says_it_by_its_environment(checkout, monkeypatch):
    monkeypatch.setenv("FIELDCRAFT_REVISION", "abc")
    monkeypatch.setenv("FIELDCRAFT_IMAGE", "registry/fieldcraft:1")
    assert provenance() == {"git_commit": "abc", "image": "registry/fieldcraft:1"}


def test_a_changed_checkout_is_dirty(checkout):
    git(checkout, "init", "--quiet")
    (checkout / "file").write_text("one")
    git(checkout, "add", "file")
    git(checkout, "commit", "--quiet", "-m", "one")
    commit = git(checkout, "rev-parse", "HEAD").strip()
    assert provenance()["git_commit"] == commit
    (checkout / "file").write_text("two")
    assert provenance()["git_commit"] == f"{commit}-dirty"


def test_what_cannot_be_known_is_none(checkout):
    assert provenance() == {"git_commit": None, "image": None}
