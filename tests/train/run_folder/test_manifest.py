import json

import pytest

from train.run_folder.manifest import ManifestError, is_published, published_atomically, verify_manifest, write_manifest

MIB = 2**20


@pytest.fixture
def model_folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_bytes(b"12345")
    write_manifest(folder, {"base_model": "m"})
    return folder


def test_manifest_verifies(model_folder):
    assert verify_manifest(model_folder)["base_model"] == "m"


def test_manifest_finds_a_flipped_byte(model_folder):
    (model_folder / "weights").write_bytes(b"12346")
    with pytest.raises(ManifestError, match="weights is not the file"):
        verify_manifest(model_folder)


def test_manifest_finds_a_missing_file(model_folder):
    (model_folder / "weights").unlink()
    with pytest.raises(ManifestError, match="weights is missing"):
        verify_manifest(model_folder)


def test_manifest_cannot_reach_outside(model_folder):
    manifest = json.loads((model_folder / "manifest.json").read_text())
    manifest["files"]["../secret"] = {"bytes": 1, "sha256": ""}
    (model_folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ManifestError, match="outside"):
        verify_manifest(model_folder)


def test_publication_replaces_the_old_model_only_when_complete(tmp_path):
    target = tmp_path / "best_model"
    with published_atomically(target) as aside:
        (aside / "v").write_text("1")
        assert not target.exists()
    with pytest.raises(RuntimeError), published_atomically(target) as aside:
        (aside / "v").write_text("2")
        raise RuntimeError("the check failed")
    assert (target / "v").read_text() == "1"
    assert is_published(target)
    with published_atomically(target) as aside:
        (aside / "v").write_text("3")
    assert (target / "v").read_text() == "3"
    assert [path.name for path in tmp_path.iterdir()] == ["best_model"]


def test_a_full_volume_keeps_the_published_model(small):
    model = small / "best_model"
    with published_atomically(model) as aside:
        (aside / "weights").write_bytes(b"w" * MIB)
    with pytest.raises(OSError, match="No space left"), published_atomically(model) as aside:
        (aside / "weights").write_bytes(b"w" * 8 * MIB)
    assert (model / "weights").stat().st_size == MIB
    assert [path.name for path in small.iterdir()] == ["best_model"]


def test_a_model_whose_replacement_was_killed_halfway_comes_back(tmp_path):
    model = tmp_path / "best_model"
    with published_atomically(model) as aside:
        (aside / "weights").touch()
    model.rename(tmp_path / ".best_model.previous")  # as between the two renames
    with pytest.raises(ZeroDivisionError), published_atomically(model):
        raise ZeroDivisionError
    assert (model / "weights").exists()
