"""What is written on the way to a GGUF file, and in which order it comes to lie where it was asked for."""

import sys

import pytest

from inference.gguf.llama_cpp import SCRIPT, find_converter
from inference.gguf.tools import Tools
from inference.gguf.write import beside, put_in_place, scratch_folder, write_gguf
from inference.models.published import open_published

# A converter that knows the architecture of the smoke model and does what a test writes behind it.
STAND_IN = '# "LlamaForCausalLM"\nimport sys, pathlib\noutput = sys.argv[sys.argv.index("--outfile") + 1]\n'


def test_q4_k_m_goes_through_f16(smoke_run, tmp_path):
    """With stand-ins: the converter is asked for f16, llama-quantize for Q4_K_M of that file, which is then removed."""
    checkout = tmp_path / "llama.cpp"
    checkout.mkdir()
    (checkout / SCRIPT).write_text(
        STAND_IN + "pathlib.Path(output).write_text(sys.argv[sys.argv.index('--outtype')+1])"
    )
    quantiser = checkout / "build" / "bin" / "llama-quantize"
    quantiser.parent.mkdir(parents=True)
    quantiser.write_text(
        f"#!{sys.executable}\nimport pathlib, sys\n"
        "source, target, kind, _ = sys.argv[1:]\n"
        "pathlib.Path(target).write_text(pathlib.Path(source).read_text() + ' -> ' + kind)\n"
    )
    quantiser.chmod(0o755)
    tools = Tools(find_converter(checkout), quantiser)
    file = write_gguf(open_published(smoke_run), "q4_k_m", tools, tmp_path)
    assert file.read_text() == "f16 -> Q4_K_M"
    assert not (tmp_path / "f16.gguf").exists()


def test_a_proof_of_an_earlier_file_does_not_stay_beside_an_unproved_one(tmp_path):
    output = tmp_path / "m.gguf"
    for number, result in enumerate(({"weights": "f16"}, None)):
        file = tmp_path / "scratch.gguf"
        file.write_text(f"weights {number}")
        put_in_place(file, output, f"modelfile {number}", result)
        assert output.read_text() == f"weights {number}"
        assert beside(output, "Modelfile").read_text() == f"modelfile {number}"
        assert beside(output, "check.json").exists() is (result is not None)
    assert {path.name for path in tmp_path.iterdir()} == {"m.gguf", "m.gguf.Modelfile"}


def test_what_was_begun_is_cleared_away(tmp_path):
    with pytest.raises(KeyboardInterrupt), scratch_folder(tmp_path / "deep" / "m.gguf") as scratch:
        (scratch / "f16.gguf").write_text("half")
        raise KeyboardInterrupt
    assert list((tmp_path / "deep").iterdir()) == []
