"""Bringing a run folder back: resume, hashes, corruption, names that lead out; the extractor is a local folder here."""

import json
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate
import pytest

from deploy.errors import DeployError
from deploy.kube.fetch import MAX_ATTEMPTS_WITHOUT_PROGRESS, extractor_pod, fetch_run, with_image_of
from deploy.profile import plan_deployment
from train.run_folder.manifest import READY, verify_manifest, write_manifest


class LocalSource:
    """An extractor that reads a local folder, in small chunks, and may break off."""

    def __init__(self, folder: Path, *, break_after_bytes: int | None = None, dead: bool = False) -> None:
        self.folder, self.break_after_bytes, self.dead = folder, break_after_bytes, dead
        self.offsets: list[tuple[str, int]] = []

    def sizes(self) -> dict[str, int]:
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.folder)): path.stat().st_size for path in files}

    def content(self, path: str) -> bytes:
        return (self.folder / path).read_bytes()

    def stream(self, path: str, offset_bytes: int) -> Iterator[bytes]:
        self.offsets.append((path, offset_bytes))
        rest = b"" if self.dead else self.content(path)[offset_bytes:]
        end = len(rest) if self.break_after_bytes is None else min(len(rest), self.break_after_bytes)
        yield from (rest[start : min(start + 100, end)] for start in range(0, end, 100))


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    folder = tmp_path / "volume"
    model = folder / "best_model"
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(bytes(range(256)) * 10)
    (model / "config.json").write_text("{}")
    write_manifest(model, {})
    (model / READY).touch()
    (folder / "training_summary.json").write_text('{"a": 1}')
    (folder / ".status.json.7").write_text("half")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "step-1").write_text("large")
    return folder


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr("deploy.kube.fetch.time.sleep", lambda _: None)


def fetch(source: LocalSource, target: Path, *, checkpoints: bool = False) -> tuple[int, list[str]]:
    said: list[str] = []
    travelled = fetch_run(
        source,  # type: ignore[arg-type]
        target, checkpoints=checkpoints, say=said.append, advance=lambda _: lambda _: None,
    )  # fmt: skip
    return travelled, said


def test_all_arrives_and_a_second_time_only_what_has_no_hash(volume, tmp_path):
    target = tmp_path / "out"
    travelled, _ = fetch(LocalSource(volume), target)
    assert travelled > 2560
    verify_manifest(target / "best_model")
    assert (target / "best_model" / READY).is_file()
    assert json.loads((target / "training_summary.json").read_text()) == {"a": 1}
    assert not (target / "checkpoints").exists()
    assert not (target / ".status.json.7").exists()
    assert not list(target.rglob("*.part"))
    again = LocalSource(volume)
    fetch(again, target)
    assert "best_model/model.safetensors" not in [path for path, _ in again.offsets]


def test_checkpoints_come_when_asked_for(volume, tmp_path):
    fetch(LocalSource(volume), tmp_path / "out", checkpoints=True)
    assert (tmp_path / "out" / "checkpoints" / "step-1").read_text() == "large"


def test_a_broken_connection_is_taken_up_where_it_broke(volume, tmp_path):
    source = LocalSource(volume, break_after_bytes=1000)
    _, said = fetch(source, tmp_path / "out")
    offsets = [offset for path, offset in source.offsets if path == "best_model/model.safetensors"]
    assert offsets == [0, 1000, 2000]
    assert "best_model/model.safetensors: broke off at 1000 of 2560 bytes; going on from there" in said
    verify_manifest(tmp_path / "out" / "best_model")


def test_an_interrupted_fetch_goes_on_from_its_part(volume, tmp_path):
    part = tmp_path / "out" / "best_model" / "model.safetensors.part"
    part.parent.mkdir(parents=True)
    part.write_bytes((volume / "best_model" / "model.safetensors").read_bytes()[:700])
    source = LocalSource(volume)
    fetch(source, tmp_path / "out")
    assert ("best_model/model.safetensors", 700) in source.offsets
    verify_manifest(tmp_path / "out" / "best_model")


def test_a_part_of_another_file_is_taken_anew(volume, tmp_path):
    part = tmp_path / "out" / "best_model" / "model.safetensors.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 700)
    _, said = fetch(LocalSource(volume), tmp_path / "out")
    assert any("of another file" in line for line in said)
    verify_manifest(tmp_path / "out" / "best_model")


def test_a_dead_connection_ends_in_time(volume, tmp_path):
    source = LocalSource(volume, dead=True)
    with pytest.raises(DeployError, match="goes on where it stopped") as caught:
        fetch(source, tmp_path / "out")
    assert caught.value.exit_code == 15
    assert len(source.offsets) == MAX_ATTEMPTS_WITHOUT_PROGRESS
    assert not (tmp_path / "out" / "best_model" / READY).exists()


def test_a_corrupt_file_on_the_volume_is_named(volume, tmp_path):
    weights = volume / "best_model" / "model.safetensors"
    weights.write_bytes(b"X" + weights.read_bytes()[1:])
    with pytest.raises(DeployError, match=r"best_model/model\.safetensors is corrupt on the volume") as caught:
        fetch(LocalSource(volume), tmp_path / "out")
    assert caught.value.exit_code == 15
    assert not (tmp_path / "out" / "best_model" / READY).exists()


def test_an_unfinished_run_has_nothing_to_fetch(volume, tmp_path):
    (volume / "best_model" / READY).unlink()
    with pytest.raises(DeployError, match="no finished model") as caught:
        fetch(LocalSource(volume), tmp_path / "out")
    assert caught.value.exit_code == 12


def test_a_name_that_leads_out_is_refused(volume, tmp_path):
    source = LocalSource(volume)
    sizes = {**source.sizes(), str(tmp_path / "outside"): 3}
    source.sizes = lambda: sizes  # type: ignore[method-assign]
    with pytest.raises(DeployError, match="would leave the folder"):
        fetch(source, tmp_path / "out")
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("manifest", ["[]", "{", '{"files": {"../up": {"bytes": 1, "sha256": ""}}}'])
def test_a_damaged_manifest_is_said_to_be_one(volume, tmp_path, manifest):
    (volume / "best_model" / "manifest.json").write_text(manifest)
    with pytest.raises(DeployError, match="the model on the volume is damaged") as caught:
        fetch(LocalSource(volume), tmp_path / "out")
    assert caught.value.exit_code == 15
    assert not (tmp_path / "out").exists()


def test_the_reading_pod_has_the_image_of_the_job():
    deployment = plan_deployment("cpu-smoke")
    containers = [{"name": "pytorch", "image": "registry/mine@sha256:1"}]
    job = {"spec": {"pytorchReplicaSpecs": {"Master": {"template": {"spec": {"containers": containers}}}}}}
    assert with_image_of(deployment, job).profile.image == "registry/mine@sha256:1"
    assert with_image_of(deployment, None) == deployment


@pytest.mark.parametrize("node", [None, "gpu-1"])
def test_the_pod_is_strict_locked_down_and_ends_by_itself(node):
    pod = extractor_pod(plan_deployment("openshift-ai").profile, "x", node)
    kubernetes_validate.validate(pod, "1.32", strict=True)
    container = pod["spec"]["containers"][0]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["volumeMounts"][0]["readOnly"]
    assert pod["spec"]["activeDeadlineSeconds"] > 0
    assert ("affinity" in pod["spec"]) == (node is not None)
