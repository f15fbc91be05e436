"""The proof of an exported file catches a file that is another model, or makes other prompts."""

import copy
import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from inference.gguf import proof as gguf_proof
from inference.gguf.llama_cpp import find_converter
from inference.gguf.proof import Agreement, prove, refuse_wide_gaps
from inference.gguf.tools import Tools
from inference.gguf.write import write_gguf
from inference.models.load import LoadedModel, load_tuned
from inference.models.published import open_published
from train.failure import ModelError

QUESTION = "How do I treat a nosebleed?"
NEEDS_LLAMA_CPP = pytest.mark.skipif(
    find_converter(None) is None or not all(map(importlib.util.find_spec, ("sentencepiece", "xllamacpp"))),
    reason="needs pip install -e .[export] and llama.cpp's converter (python -m inference.export --get-converter)",
)


@pytest.fixture(autouse=True)
def short_answers(monkeypatch):
    monkeypatch.setattr(gguf_proof, "CHECK_TOKENS", 4)


@pytest.fixture(scope="module")
def loaded(smoke_run) -> LoadedModel:
    return load_tuned(open_published(smoke_run))


@pytest.fixture(scope="module")
def file(smoke_run, tmp_path_factory) -> Path:
    converter = find_converter(None)
    assert converter is not None
    return write_gguf(open_published(smoke_run), "q8_0", Tools(converter, None), tmp_path_factory.mktemp("gguf"))


@NEEDS_LLAMA_CPP
def test_q8_0_is_the_model(file, loaded):
    proof = prove(file, "q8_0", loaded, [QUESTION])
    assert proof["prompt_token_ids_equal"]
    assert proof["answers"][0]["prompt_tokens"] == 294


@NEEDS_LLAMA_CPP
def test_other_weights_are_caught(file, loaded):
    other = copy.deepcopy(loaded.model)
    with torch.no_grad():
        other.get_output_embeddings().weight.mul_(-3)
    with pytest.raises(ModelError, match=r"as another model would: after 0 equal tokens .* nats less likely"):
        prove(file, "q8_0", replace(loaded, model=other), [QUESTION])


@NEEDS_LLAMA_CPP
def test_other_default_prompt_is_caught(file, loaded):
    with pytest.raises(ModelError, match=r"system prompt left to the file: of .* tokens .* agree"):
        prove(file, "q8_0", replace(loaded, system_prompt="You know nothing."), [QUESTION])


@NEEDS_LLAMA_CPP
def test_other_template_is_caught(file, loaded):
    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant", "helper")
    with pytest.raises(ModelError, match=r"another prompt of .*nosebleed.*system prompt given.*'helper"):
        prove(file, "q8_0", replace(loaded, tokenizer=tokenizer), [QUESTION])


@NEEDS_LLAMA_CPP
def test_truncated_file_is_caught(file, loaded, tmp_path):
    half = tmp_path / "half.gguf"
    half.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ModelError, match="cannot load the exported file"):
        prove(half, "q8_0", loaded, [QUESTION])


def test_near_ties_pass_and_wide_gaps_do_not():
    def with_gap(gap: float | None) -> list[Agreement]:
        return [Agreement(QUESTION, 294, 64, 12, gap, "")]

    refuse_wide_gaps(with_gap(None), "f16")
    refuse_wide_gaps(with_gap(0.09), "f16")
    refuse_wide_gaps(with_gap(0.4), "q8_0")
    refuse_wide_gaps(with_gap(3.0), "q4_k_m")
    with pytest.raises(ModelError, match=r"after 12 equal tokens it takes one that is 0\.40 nats"):
        refuse_wide_gaps(with_gap(0.4), "f16")
