"""What is written on the way to a GGUF file, and in which order it comes to lie where it was asked for."""

import sys

from inference.gguf.llama_cpp import SCRIPT, find_converter
from inference.gguf.tools import Tools
from inference.gguf.write import write_gguf
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
