"""A published model is opened only where it is complete and undamaged, and says what it was made from."""

import json
import shutil
from pathlib import Path

import pytest

from inference.models import published as published_module
from inference.models.published import (
    PublishedModel,
    default_run,
    named_base,
    needs_no_network,
    open_published,
    run_data_config,
)
from train.config.run_config import ModelConfig, RunConfig
from train.failure import ModelError
from train.run_folder.manifest import MANIFEST, READY

WEIGHTS = "best_model/model.safetensors"


@pytest.fixture
def own_run(smoke_run: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may damage."""
    return Path(shutil.copytree(smoke_run, tmp_path / "run"))


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("removed", "complaint"),
    [
        (".", "there is no run folder"),
        ("best_model", "holds no best_model"),
        (f"best_model/{READY}", "is not published: its READY marker is missing"),
        (f"best_model/{MANIFEST}", "no usable manifest"),
        (WEIGHTS, "is damaged"),
        ("best_model/chat_template.jinja", "is damaged"),
    ],
)
def test_incomplete_model_is_refused(own_run, removed, complaint):
    path = own_run / removed
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ModelError, match=f"{complaint}.*make train"):
        open_published(own_run)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "manifest.json is not JSON"),
        ("[]", "manifest.json lists no files"),
        ("{}", "manifest.json lists no files"),
        ('{"files": {}}', "no usable manifest"),
        ('{"files": {}, "identity": {"seed": 1}}', "no usable manifest"),
    ],
)
def test_unusable_manifest_is_refused(own_run, content, complaint):
    (own_run / "best_model" / MANIFEST).write_text(content)
    with pytest.raises(ModelError, match=complaint):
        open_published(own_run)


def test_one_changed_byte_is_refused(own_run):
    flip_last_byte(own_run / WEIGHTS)
    with pytest.raises(ModelError, match=r"model\.safetensors is not the file the manifest lists"):
        open_published(own_run)


def test_large_folders_are_hashed_only_when_asked(own_run, monkeypatch):
    monkeypatch.setattr(published_module, "HASHED_BYTES", 1000)
    flip_last_byte(own_run / WEIGHTS)
    open_published(own_run)
    with pytest.raises(ModelError, match="sha256 differs"):
        open_published(own_run, verify=True)
    with (own_run / WEIGHTS).open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(ModelError, match="bytes where the manifest lists"):
        open_published(own_run)


def test_default_run_is_output_dir_or_the_recipes(monkeypatch):
    monkeypatch.delenv("OUTPUT_DIR", raising=False)
    monkeypatch.delenv("RECIPE", raising=False)
    assert default_run() == Path("outputs/laptop")
    monkeypatch.setenv("OUTPUT_DIR", "/mnt/run")
    assert default_run() == Path("/mnt/run")


def test_a_hub_base_may_use_the_network_unless_the_run_was_offline():
    hub = ModelConfig(name="someone/model")
    assert not needs_no_network(RunConfig(model=hub))
    assert needs_no_network(RunConfig(model=hub.model_copy(update={"offline": True})))
    assert needs_no_network(named_base("weights.gguf"))


def test_the_runs_own_seed_and_rows_are_those_of_its_manifest():
    identity = {"seed": 7, "data.validation_fraction": 0.2, "data.dataset": "mine.parquet", "optim.epochs": 3}
    config = run_data_config(PublishedModel(Path("model"), {"identity": identity}, RunConfig()))
    assert (config.seed, config.data.validation_fraction, str(config.data.dataset)) == (7, 0.2, "mine.parquet")
    assert config.optim == RunConfig().optim
    assert run_data_config(None) == RunConfig()


def test_config_json_is_what_transformers_reads(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    assert PublishedModel(tmp_path, {}, RunConfig()).config_json == {"architectures": ["LlamaForCausalLM"]}
