"""What an export needs is there, or the reason why not is told first."""

import importlib.util
import json

import pytest

from inference.gguf.llama_cpp import SCRIPT, Converter
from inference.gguf.tools import Tools, prepare, refuse_unknown
from inference.models.published import PublishedModel
from train.config.run_config import RunConfig
from train.failure import ConfigError, ModelError


@pytest.fixture
def published(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    return PublishedModel(tmp_path, {}, RunConfig())


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / SCRIPT).write_text('"LlamaForCausalLM"')
    return tmp_path


@pytest.fixture
def installed(monkeypatch):
    """The packages that are found; a test takes away what it wants missing."""
    names = {"sentencepiece", "xllamacpp"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in names else None)
    return names


def test_an_unproved_export_needs_no_llama_cpp_in_python(published, checkout, installed):
    installed.discard("xllamacpp")
    with pytest.raises(ConfigError, match=r"not installed: xllamacpp \(the proof .*, or add --no-check"):
        prepare(published, "f16", checkout, get_converter=False, check=True)
    tools = prepare(published, "f16", checkout, get_converter=False, check=False)
    assert tools == Tools(Converter(checkout / SCRIPT, f"llama.cpp checkout {checkout}"), None)


def test_q4_k_m_needs_the_quantiser_the_others_do_not(published, checkout, installed, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert prepare(published, "q8_0", checkout, get_converter=False, check=True).quantiser is None
    with pytest.raises(ConfigError, match="llama-quantize"):
        prepare(published, "q4_k_m", checkout, get_converter=False, check=True)


def test_an_architecture_that_the_converter_does_not_name_is_refused(published, checkout):
    (checkout / SCRIPT).write_text('"OddForCausalLM"')
    with pytest.raises(ModelError, match="does not know the architecture LlamaForCausalLM"):
        refuse_unknown(Converter(checkout / SCRIPT, "x"), published)
