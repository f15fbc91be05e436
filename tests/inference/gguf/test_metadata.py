"""What a GGUF file says of itself, and that nothing is missing in one that was written."""

import json
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from inference.gguf.metadata import check_written, gguf_metadata
from inference.models.published import PublishedModel, named_base
from inference.models.template import with_default_system_prompt
from train.failure import ModelError

IDENTITY = {"model": "aaaa", "data.dataset": "data/survival.parquet"}


def test_a_hub_model_is_named_as_the_hub_knows_it():
    manifest = {"identity": IDENTITY, "dataset_sha256": "dddd", "made_by": {"git_commit": "cafe"}, "best_step": 7}
    facts = gguf_metadata(PublishedModel(Path("m"), manifest, named_base("someone/model")))
    assert facts["general.base_models"] == [
        {
            "name": "model",
            "organization": "someone",
            "version": "aaaa",
            "repo_url": "https://huggingface.co/someone/model",
        }
    ]
    assert facts["general.datasets"] == [{"name": "survival", "version": "sha256:dddd"}]
    assert facts["general.version"] == "cafe"
    assert "data: survival, sha256 dddd; git: cafe; best step: 7" in facts["general.description"]


def test_what_the_manifest_does_not_know_is_left_out():
    facts = gguf_metadata(PublishedModel(Path("m"), {"identity": IDENTITY}, named_base("/my/model.gguf")))
    assert facts["general.base_models"] == [{"name": "model.gguf", "version": "aaaa"}]
    assert facts["general.datasets"] == [{"name": "survival"}]
    assert "general.version" not in facts
    assert "None" not in facts["general.description"]


def written(path: Path, *, head: bool, template: str, description: str) -> Path:
    writer = GGUFWriter(path, "llama")
    writer.add_chat_template(template)
    writer.add_description(description)
    if head:
        writer.add_tensor("output.weight", np.zeros((1, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("tied", "head", "missing"), [(True, False, None), (False, True, None), (False, False, "its own LM head")]
)
def test_an_untied_head_must_be_there(tmp_path, tied, head, missing):
    (tmp_path / "config.json").write_text(json.dumps({"tie_word_embeddings": tied}))
    (tmp_path / "system_prompt.txt").write_text("Be brief.")
    published = PublishedModel(tmp_path, {"identity": IDENTITY}, named_base("embedded"))
    template = with_default_system_prompt("{{ messages }}", "Be brief.")
    file = written(tmp_path / "m.gguf", head=head, template=template, description="of aaaa")
    if missing is None:
        check_written(file, published)
    else:
        with pytest.raises(ModelError, match=missing):
            check_written(file, published)
    other = written(tmp_path / "o.gguf", head=True, template="{{ messages }}", description="of bbbb")
    with pytest.raises(ModelError, match="the chat template with the system prompt and the provenance"):
        check_written(other, published)
