"""llama.cpp's tools: found where they are, run as programs, and their failures put into words."""

import sys
from pathlib import Path

import pytest

from inference.gguf.llama_cpp import (
    QUANTISER,
    SCRIPT,
    Converter,
    convert,
    find_converter,
    find_quantiser,
    no_quantiser,
    package_folder,
    quantise,
)
from train.failure import ConfigError, ModelError, StorageError


@pytest.fixture
def checkout(tmp_path) -> Path:
    (tmp_path / SCRIPT).write_text("")
    return tmp_path


def program(path: Path, code: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\n{code}\n")
    path.chmod(0o755)
    return path


def test_a_converter_knows_what_its_sources_name(checkout):
    (checkout / "conversion").mkdir()
    (checkout / "conversion" / "llama.py").write_text("@register('LlamaForCausalLM')")
    converter = Converter(checkout / SCRIPT, "x")
    assert converter.knows("LlamaForCausalLM")
    assert not converter.knows("LlamaForCausal")  # a whole name, not its beginning


def test_a_checkout_goes_before_the_package_and_must_be_one(checkout, tmp_path, monkeypatch):
    monkeypatch.setenv("CACHE_DIR", str(tmp_path / "cache"))
    assert find_converter(None) is None
    (package_folder()).mkdir(parents=True)
    (package_folder() / SCRIPT).write_text("")
    assert find_converter(None).script == package_folder() / SCRIPT
    assert find_converter(checkout).script == checkout / SCRIPT
    with pytest.raises(ConfigError, match=r"is no llama\.cpp checkout"):
        find_converter(tmp_path / "cache")


def test_a_quantiser_is_built_or_on_the_path(checkout, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_quantiser(checkout) is None
    assert "cmake -S llama.cpp" in str(no_quantiser(None))
    on_path = program(tmp_path / "bin" / QUANTISER, "")
    assert find_quantiser(checkout) == find_quantiser(None) == on_path
    built = program(checkout / "build" / "bin" / QUANTISER, "")
    assert find_quantiser(checkout) == built


@pytest.mark.parametrize(
    ("said", "error", "complaint"),
    [
        ("Model OddForCausalLM is not supported", ModelError, "it does not know this architecture"),
        ("no tensor type fallback is defined for type q6_K", ModelError, "no multiple of 32 values; take f16 or q8_0"),
        ("[Errno 28] No space left on device", StorageError, "no space is left"),
        ("", ModelError, "it said nothing"),
    ],
)
def test_failures_are_told_in_words(checkout, tmp_path, said, error, complaint):
    (checkout / SCRIPT).write_text(f"import sys; sys.stderr.write({said!r}); sys.exit(1)")
    with pytest.raises(error, match=complaint):
        convert(Converter(checkout / SCRIPT, "x"), tmp_path, tmp_path / "out", "f16", tmp_path / "metadata")


def test_tools_run_without_the_network(tmp_path):
    code = "import os, pathlib, sys; pathlib.Path(sys.argv[2]).write_text(os.environ['HF_HUB_OFFLINE'] + sys.argv[3])"
    quantise(program(tmp_path / "tool", code), tmp_path / "in", tmp_path / "out", "Q4_K_M", 2)
    assert (tmp_path / "out").read_text() == "1Q4_K_M"
