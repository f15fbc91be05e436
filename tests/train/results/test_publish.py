"""Publication: what is written, and that a model which does not read back as it was is not published."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from data.tokenizer import load_chat_tokenizer
from train.failure import ModelError
from train.results import publish as module
from train.results.publish import Publication, load_published, publish
from train.run_folder.manifest import is_published, verify_manifest
from train.run_folder.run_folder import RunFolder

PUBLICATION = Publication("You are brief.", "Is water wet?", {"base_model": "tiny"}, "# A card")


@pytest.fixture(scope="module")
def tokenizer():
    return load_chat_tokenizer()


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).eval()


def test_a_published_model_is_whole_and_reads_back(tmp_path, model, tokenizer):
    folder = RunFolder(tmp_path)
    publish(model, tokenizer, folder, PUBLICATION, torch.float32)
    assert is_published(folder.best_model)
    manifest = verify_manifest(folder.best_model)
    assert manifest["base_model"] == "tiny"
    assert {"README.md", "system_prompt.txt", "model.safetensors", "tokenizer.json"} <= manifest["files"].keys()
    assert (folder.best_model / "system_prompt.txt").read_text() == "You are brief.\n"
    reloaded, _ = load_published(folder.best_model, model)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), reloaded.parameters(), strict=True))


def test_a_model_that_answers_otherwise_once_saved_is_not_published(tmp_path, model, tokenizer, monkeypatch):
    def damaged(folder, like):
        loaded, its_tokenizer = load_published(folder, like)
        torch.manual_seed(1)
        torch.nn.init.normal_(loaded.get_output_embeddings().weight)
        return loaded, its_tokenizer

    folder = RunFolder(tmp_path)
    monkeypatch.setattr(module, "load_published", damaged)
    with pytest.raises(ModelError, match=r"the saved model answers .* where the trained one answers"):
        publish(model, tokenizer, folder, PUBLICATION, torch.float32)
    assert list(tmp_path.iterdir()) == []
