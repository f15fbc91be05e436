"""The model card: its head is what the hub reads, its body says what the summary says."""

import copy
import json

import pytest
from huggingface_hub import ModelCard

from train.results.model_card import model_card
from train.run_folder.manifest import MANIFEST
from train.run_folder.run_folder import MODEL_CARD


@pytest.fixture(scope="module")
def summary(smoke_run):
    return json.loads((smoke_run / "training_summary.json").read_text())


@pytest.fixture
def embedded(summary):
    """The summary as if the embedded model had been tuned, and had become better."""
    changed = copy.deepcopy(summary)
    changed["config"]["model"].update(name="embedded", random_init=None)
    changed["evaluation_loss"].update(original=2.0, best=1.5)
    return changed


def test_published_card_is_listed_with_its_sha256(smoke_run, summary):
    published = (smoke_run / "best_model" / MODEL_CARD).read_text()
    assert MODEL_CARD in json.loads((smoke_run / "best_model" / MANIFEST).read_text())["files"]
    assert f"{summary['evaluation_loss']['best']:.4f}" in published
    assert summary["data"]["dataset_sha256"] in published
    assert "random weights of seed 42" in published


def test_head_survives_the_hubs_own_reader(embedded):
    """The hub's validator is a web service: not verified. This is the same library reading the head it will send."""
    text = model_card(embedded)
    card = ModelCard(text)
    assert card.data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert card.data.license == "apache-2.0"
    assert card.data.language == "en"
    assert card.data.pipeline_tag == "text-generation"
    assert [result.metric_value for result in card.data.eval_results] == [1.5]
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    assert not [line for line in text.splitlines() if "{{" in line or "None" in line]


def test_model_that_became_no_better_says_so(embedded):
    assert "no better than its base model" not in model_card(embedded)
    embedded["evaluation_loss"].update(best=2.1)
    assert "no better than its base model" in model_card(embedded)


@pytest.mark.parametrize(
    ("name", "base_model", "licence"),
    [
        ("HuggingFaceTB/SmolLM3-3B", "HuggingFaceTB/SmolLM3-3B", "apache-2.0"),
        ("someone/their-model", "someone/their-model", "unknown"),
        ("models/my.gguf", None, "unknown"),
        ("my-folder", None, "unknown"),
    ],
)
def test_base_models(embedded, name, base_model, licence):
    embedded["config"]["model"]["name"] = name
    text = model_card(embedded)
    data = ModelCard(text).data
    assert (data.base_model, data.license) == (base_model, licence)
    assert ("Look it up" in text) == (licence == "unknown")


def test_own_data_set_is_not_described_as_ours(embedded):
    embedded["data"]["dataset"] = "/data/mine.parquet"
    text = model_card(embedded)
    assert "data set `mine`" in text
    assert "wilderness" not in text
    assert ModelCard(text).data.language is None
