"""Loading: only a published, undamaged model; the original differs from the tuned model in its weights alone."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from data.render import render_prompt
from inference.models.load import (
    LoadedModel,
    inference_device,
    load_by_name,
    load_original,
    load_tuned,
    weights_sha256,
)
from inference.models.published import model_folder, named_base, open_published
from train.failure import ModelError
from train.generation.generate import question_conversation
from train.model.adapt import untie_head
from train.results.publish import Publication, publish
from train.run_folder.manifest import MANIFEST
from train.run_folder.run_folder import RunFolder


@pytest.fixture(scope="module")
def tuned(smoke_run: Path) -> LoadedModel:
    return load_tuned(open_published(smoke_run))


@pytest.fixture(scope="module")
def original(smoke_run: Path) -> LoadedModel:
    published = open_published(smoke_run)
    return load_original(published, published.base)


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


def test_both_models_take_the_saved_precision(smoke_run, original, tmp_path):
    manifest = json.loads((smoke_run / "best_model" / MANIFEST).read_text())
    publication = Publication("Be brief.", "Is water wet?", {"identity": manifest["identity"]}, answer_tokens=16)
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


def test_device_is_the_best_here(tuned):
    assert tuned.model.device.type == inference_device().type
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        assert inference_device().type == "cpu"
