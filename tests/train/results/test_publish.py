"""Publication: what is written, and that a model which does not read back as it was is not published."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from data.tokenizer import load_chat_tokenizer
from train.failure import ModelError
from train.model.adapt import master_weights_in_fp32
from train.results import publish as module
from train.results.publish import Publication, load_published, publish
from train.run_folder.manifest import is_published, verify_manifest
from train.run_folder.run_folder import RunFolder

PUBLICATION = Publication("You are brief.", "Is water wet?", {"base_model": "tiny"}, answer_tokens=40, card="# A card")


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


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt_neox"])
def test_in_bf16_the_model_in_memory_is_the_saved_one(tmp_path, tokenizer, kind):
    """Rotary frequencies stay fp32, as in training and in any loaded model: rounded to bf16 they turn otherwise."""
    torch.manual_seed(0)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        **(heads if kind != "gpt_neox" else {"num_attention_heads": 2}),
    }
    architecture = AutoConfig.for_model(kind, vocab_size=len(tokenizer), initializer_range=0.5, **sizes)
    model = AutoModelForCausalLM.from_config(architecture, dtype=torch.bfloat16).eval()
    master_weights_in_fp32(model)
    folder = RunFolder(tmp_path)
    publish(model, tokenizer, folder, PUBLICATION, torch.bfloat16)
    reloaded, _ = load_published(folder.best_model, model)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert [name for name, _ in model.named_buffers()] == [name for name, _ in reloaded.named_buffers()]
    for (name, ours), (_, theirs) in zip(model.named_buffers(), reloaded.named_buffers(), strict=True):
        assert ours.dtype == theirs.dtype, name
        assert torch.equal(ours, theirs), name
    ids = torch.arange(300)[None] % 100
    with torch.no_grad():
        assert torch.equal(model(ids).logits, reloaded(ids).logits)


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
