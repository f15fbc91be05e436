"""Which server serves what, and what it would let in."""

import importlib.util

import pytest

from inference.serving import engines
from inference.serving.engines import Engine, check_engine, choose_engine
from train.failure import ConfigError, ModelError


@pytest.fixture
def file(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    return tmp_path / "model.gguf"


@pytest.mark.parametrize(("has_vllm", "expected"), [(True, Engine.vllm), (False, Engine.transformers)])
def test_auto_is_by_the_kind_of_model_and_what_is_installed(file, monkeypatch, has_vllm, expected):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if has_vllm else None)
    assert choose_engine(Engine.auto, file) is Engine.llama_cpp
    assert choose_engine(Engine.auto, file.parent) is expected


@pytest.mark.parametrize("wanted", [Engine.transformers, Engine.vllm])
def test_a_server_is_not_given_what_it_cannot_serve(file, wanted):
    assert choose_engine(wanted, file.parent) is wanted
    assert choose_engine(Engine.llama_cpp, file) is Engine.llama_cpp
    with pytest.raises(ConfigError, match=f"{wanted} does not serve a .gguf file"):
        choose_engine(wanted, file)
    with pytest.raises(ConfigError, match=r"llama\.cpp does not serve a model folder"):
        choose_engine(Engine.llama_cpp, file.parent)
    with pytest.raises(ModelError, match="there is no file"):
        choose_engine(Engine.auto, file.with_name("other.gguf"))


def test_each_server_needs_its_packages_and_one_checks_no_key(monkeypatch):
    asked = []
    monkeypatch.setattr(engines, "missing_packages", lambda names, extra: asked.append((names, extra)))
    check_engine(Engine.vllm, "a-key-of-some-length")
    check_engine(Engine.llama_cpp, None)
    check_engine(Engine.transformers, None)
    assert asked == [(("vllm",), "serve"), (("xllamacpp",), "serve"), (("fastapi", "uvicorn", "openai"), "serve")]
    with pytest.raises(ConfigError, match="transformers serve checks no key"):
        check_engine(Engine.transformers, "a-key-of-some-length")
