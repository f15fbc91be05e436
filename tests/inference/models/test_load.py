"""Loading: only a published, undamaged model; the original differs from the tuned model in its weights alone."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from data.render import render_prompt
from inference.models import published as published_module
from inference.models.load import (
    LoadedModel,
    inference_device,
    load_by_name,
    load_original,
    load_tuned,
    weights_sha256,
)
from inference.models.published import default_run, model_folder, named_base, needs_no_network, open_published
from train.config.run_config import ModelConfig, RunConfig
from train.failure import ModelError
from train.generation.generate import question_conversation
from train.model.adapt import untie_head
from train.results.publish import Publication, publish
from train.run_folder.manifest import MANIFEST, READY
from train.run_folder.run_folder import RunFolder

WEIGHTS = "best_model/model.safetensors"


@pytest.fixture
def own_run(smoke_run: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may damage."""
    return Path(shutil.copytree(smoke_run, tmp_path / "run"))


@pytest.fixture(scope="module")
def tuned(smoke_run: Path) -> LoadedModel:
    return load_tuned(open_published(smoke_run))


@pytest.fixture(scope="module")
def original(smoke_run: Path) -> LoadedModel:
    published = open_published(smoke_run)
    return load_original(published, published.base)


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 0xFF
    path.write_bytes(content)


def test_tuned_and_original_differ_in_weights_alone(tuned, original):
    conversation = question_conversation("How do I treat a nosebleed?", tuned.system_prompt)
    assert render_prompt(tuned.tokenizer, conversation) == render_prompt(original.tokenizer, conversation)
    differing = {name for name in tuned.facts() if tuned.facts()[name] != original.facts()[name]}
    assert differing == {"role", "name", "weights_sha256"}
    assert tuned.base_model == original.name == "random weights of seed 42"


def test_original_is_made_again_from_its_seed(smoke_run, original):
    published = open_published(smoke_run)
    assert load_original(published, published.base).weights_sha256 == original.weights_sha256
    other_seed = published.base.model_copy(update={"seed": 43})
    assert load_original(published, other_seed).weights_sha256 != original.weights_sha256


def test_prompt_is_the_trained_one(tuned):
    assert tuned.system_prompt == Path("data/prompts/wilderness_expert.txt").read_text().strip()


def test_model_folder_works_without_its_run(smoke_run, tmp_path, tuned):
    alone = shutil.copytree(smoke_run / "best_model", tmp_path / "fetched")
    published = open_published(alone)
    assert published.folder == model_folder(alone) == alone
    assert load_tuned(published).weights_sha256 == tuned.weights_sha256
    assert load_original(published, published.base).system_prompt == tuned.system_prompt


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


def test_both_models_take_the_saved_precision(smoke_run, original, tmp_path):
    manifest = json.loads((smoke_run / "best_model" / MANIFEST).read_text())
    publication = Publication("Be brief.", "Is water wet?", {"identity": manifest["identity"]})
    half = load_original(open_published(smoke_run), open_published(smoke_run).base).model.to(torch.bfloat16)
    publish(half, original.tokenizer, RunFolder(tmp_path), publication, torch.bfloat16)
    published = open_published(tmp_path)
    assert load_tuned(published).facts()["dtype"] == "bfloat16"
    assert load_original(published, published.base).facts()["dtype"] == "bfloat16"


def test_model_by_name_brings_its_own_template(original, tmp_path):
    original.model.save_pretrained(tmp_path)
    original.tokenizer.save_pretrained(tmp_path)
    loaded = load_by_name(named_base(str(tmp_path)))
    assert loaded.weights_sha256 == original.weights_sha256
    assert loaded.tokenizer.chat_template == original.tokenizer.chat_template
    assert loaded.name == str(tmp_path)


def test_folder_without_weights_is_refused(original, tmp_path):
    original.tokenizer.save_pretrained(tmp_path)
    original.model.config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_by_name(named_base(str(tmp_path)))


def test_weights_hash_ignores_tying_but_no_value(smoke_run, original):
    published = open_published(smoke_run)
    model = load_original(published, published.base).model
    untie_head(model)
    assert weights_sha256(model) == original.weights_sha256
    with torch.no_grad():
        model.get_output_embeddings().weight[-1, -1] += 1e-3
    assert weights_sha256(model) != original.weights_sha256


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


def test_device_is_the_best_here(tuned):
    assert tuned.model.device.type == inference_device().type
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        assert inference_device().type == "cpu"
