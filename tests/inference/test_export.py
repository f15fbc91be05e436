"""Export through its command line: a GGUF file that llama.cpp reads, refusals before any work, nothing half-written."""

import importlib.util
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from inference import export
from inference.export import app
from inference.gguf.llama_cpp import PACKAGE, SCRIPT, find_converter, find_quantiser
from inference.models.published import open_published
from train.run_folder.manifest import MANIFEST, READY, verify_manifest, write_manifest

HAS_PACKAGES = all(importlib.util.find_spec(name) for name in ("sentencepiece", "xllamacpp"))
NEEDS_LLAMA_CPP = pytest.mark.skipif(
    not HAS_PACKAGES or find_converter(None) is None,
    reason="needs pip install -e .[export] and llama.cpp's converter (python -m inference.export --get-converter)",
)
REAL_CHECKOUT = Path(os.environ["LLAMA_CPP"]) if os.environ.get("LLAMA_CPP") else None
# A converter that knows the architecture of the smoke model and does what a test writes behind it.
STAND_IN = '# "LlamaForCausalLM"\nimport sys, pathlib\noutput = sys.argv[sys.argv.index("--outfile") + 1]\n'


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"LLAMA_CPP": ""})


def message(result) -> str:
    return " ".join(result.stderr.split())


@pytest.fixture
def own_model(smoke_run, tmp_path) -> Path:
    """A copy of the published folder that a test may damage."""
    return Path(shutil.copytree(smoke_run / "best_model", tmp_path / "model"))


@pytest.fixture
def checkout(tmp_path) -> Path:
    folder = tmp_path / "llama.cpp"
    folder.mkdir()
    (folder / SCRIPT).write_text(STAND_IN)
    return folder


@pytest.fixture(scope="module")
def exported(smoke_run, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("exported") / "smoke-f16.gguf"
    short = pytest.MonkeyPatch()
    short.setattr("inference.gguf.proof.CHECK_TOKENS", 8)
    result = invoke(smoke_run, "--gguf", "f16", "--output", file)
    short.undo()
    assert result.exit_code == 0, result.output
    assert "292, equal" in result.output
    return file


@NEEDS_LLAMA_CPP
def test_llama_cpp_sees_the_prompts_and_answers_of_the_model(exported):
    proof = json.loads((exported.parent / f"{exported.name}.check.json").read_text())
    assert proof["prompt_token_ids_equal"]
    assert proof["default_system_prompt_equal"]
    assert len(proof["answers"]) == 5
    assert proof["reference_tokens"] == 5 * 8
    assert proof["equal_leading_tokens"] > 0
    assert proof["widest_gap_nats"] <= proof["gap_limit_nats"]
    assert proof["bytes"] == exported.stat().st_size


@NEEDS_LLAMA_CPP
def test_file_says_where_it_comes_from(exported, smoke_run):
    from gguf import GGUFReader

    reader = GGUFReader(exported)
    manifest = json.loads((smoke_run / "best_model" / MANIFEST).read_text())
    description = reader.get_field("general.description").contents()
    assert manifest["identity"]["model"] in description
    assert manifest["dataset_sha256"] in description
    assert (manifest["made_by"]["git_commit"] or "") in description
    assert reader.get_field("general.dataset.0.version").contents() == f"sha256:{manifest['dataset_sha256']}"
    assert "You are a seasoned wilderness guide" in reader.get_field("tokenizer.chat_template").contents()
    assert "output.weight" in {tensor.name for tensor in reader.tensors}


@NEEDS_LLAMA_CPP
def test_only_the_finished_files_are_left(exported):
    names = {path.name for path in exported.parent.iterdir()}
    assert names == {exported.name, f"{exported.name}.check.json", f"{exported.name}.Modelfile"}
    modelfile = (exported.parent / f"{exported.name}.Modelfile").read_text()
    assert f"FROM ./{exported.name}\n" in modelfile
    assert 'PARAMETER stop "<|im_end|>"' in modelfile


@NEEDS_LLAMA_CPP
def test_a_file_that_is_there_is_not_replaced(exported, smoke_run):
    before = exported.stat().st_mtime_ns
    result = invoke(smoke_run, "--gguf", "f16", "--output", exported)
    assert result.exit_code == 2
    assert "is there already. Add --force" in message(result)
    assert exported.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "exit_code", "complaint"),
    [
        ((), 2, "nothing to write is named"),
        (("--gguf", "f16"), 2, "--gguf and --output go together"),
        (("--output", "x.gguf", "--safetensors", "y"), 2, "--gguf and --output go together"),
    ],
)
def test_command_lines_that_say_too_little(smoke_run, arguments, exit_code, complaint):
    result = invoke(smoke_run, *arguments)
    assert result.exit_code == exit_code
    assert complaint in message(result)


def damage_ready(model: Path) -> None:
    (model / READY).unlink()


def damage_manifest(model: Path) -> None:
    (model / MANIFEST).write_text("{")


def damage_weights(model: Path) -> None:
    with (model / "model.safetensors").open("r+b") as stream:
        stream.truncate(1000)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (damage_ready, "is not published"),
        (damage_manifest, "is damaged: "),
        (damage_weights, "bytes where the manifest lists"),
        (shutil.rmtree, "there is no run folder"),
    ],
)
def test_models_that_are_not_whole_are_refused(own_model, checkout, tmp_path, damage, complaint):
    damage(own_model)
    result = invoke(own_model, "--gguf", "f16", "--output", tmp_path / "x.gguf", "--llama-cpp", checkout)
    assert result.exit_code == 4
    assert complaint in message(result)


@pytest.mark.skipif(not HAS_PACKAGES, reason="needs pip install -e .[export]")
class TestBeforeAnyWork:
    """Every refusal leaves the folder of the output as it was."""

    @pytest.fixture(autouse=True)
    def nothing_is_written(self, tmp_path, monkeypatch):
        self.output = tmp_path / "out" / "x.gguf"
        monkeypatch.setenv("CACHE_DIR", str(tmp_path / "cache"))
        monkeypatch.setattr(export, "load_reference", lambda _: pytest.fail("loaded a model before it refused"))
        yield
        assert not self.output.parent.exists() or not list(self.output.parent.iterdir())

    def refused(self, model: Path, *arguments: object, weights: str = "f16") -> tuple[int, str]:
        result = invoke(model, "--gguf", weights, "--output", self.output, *arguments)
        return result.exit_code, message(result)

    def test_no_converter(self, smoke_run):
        code, said = self.refused(smoke_run)
        assert code == 2
        assert "Add --get-converter" in said

    def test_converter_that_cannot_be_fetched(self, smoke_run, monkeypatch):
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        code, said = self.refused(smoke_run, "--get-converter")
        assert code == 2
        assert f"{PACKAGE} 0.1.1 cannot be fetched" in said
        assert "Without a network:" in said

    def test_folder_that_is_no_checkout(self, smoke_run, tmp_path):
        code, said = self.refused(smoke_run, "--llama-cpp", tmp_path)
        assert code == 2
        assert "is no llama.cpp checkout" in said

    def test_unknown_architecture(self, own_model, checkout):
        config = json.loads((own_model / "config.json").read_text())
        (own_model / "config.json").write_text(json.dumps({**config, "architectures": ["OddForCausalLM"]}))
        manifest = json.loads((own_model / MANIFEST).read_text())
        facts = {name: value for name, value in manifest.items() if name != "files"}
        write_manifest(own_model, facts)
        code, said = self.refused(own_model, "--llama-cpp", checkout)
        assert code == 4
        assert "does not know the architecture OddForCausalLM" in said

    def test_no_quantiser(self, smoke_run, checkout, monkeypatch):
        monkeypatch.setenv("PATH", "")
        code, said = self.refused(smoke_run, "--llama-cpp", checkout, weights="q4_k_m")
        assert code == 2
        assert "cmake --build" in said

    def test_missing_package(self, smoke_run, checkout, monkeypatch):
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "xllamacpp" else find(name))
        code, said = self.refused(smoke_run, "--llama-cpp", checkout)
        assert code == 2
        assert "not installed: xllamacpp" in said
        assert "--no-check" in said

    def test_full_disk(self, smoke_run, checkout, monkeypatch):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000_000))
        code, said = self.refused(smoke_run, "--llama-cpp", checkout)
        assert code == 204
        assert "0.01 GB free" in said

    @pytest.mark.parametrize(
        ("behind", "exit_code", "complaint"),
        [
            ("BPE pre-tokenizer was not recognized", 4, "does not know this tokenizer"),
            ("ValueError: odd weights", 4, "failed: ValueError: odd weights"),
            ("OSError: [Errno 28] No space left on device", 204, "no space is left. Free space"),
        ],
    )
    def test_converter_that_fails(self, smoke_run, checkout, behind, exit_code, complaint):
        (checkout / SCRIPT).write_text(f"{STAND_IN}sys.exit({behind!r})")
        code, said = self.refused(smoke_run, "--llama-cpp", checkout)
        assert code == exit_code
        assert complaint in said

    def test_converter_that_leaves_things_out(self, smoke_run, checkout):
        (checkout / SCRIPT).write_text(
            STAND_IN + "from gguf import GGUFWriter\nwriter = GGUFWriter(output, 'llama')\n"
            "writer.add_description('nothing')\n"
            "writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file()\n"
        )
        code, said = self.refused(smoke_run, "--llama-cpp", checkout)
        assert code == 4
        assert "left out its own LM head" in said
        assert "the chat template with the system prompt and the provenance" in said


@NEEDS_LLAMA_CPP
@pytest.mark.skipif(
    find_quantiser(REAL_CHECKOUT) is None, reason="llama-quantize is neither on the PATH nor built in $LLAMA_CPP"
)
def test_the_real_llama_quantize_refuses_rows_of_48_values(smoke_run, tmp_path):
    """Those of the smoke model. What it makes of a model that it can take is in docs/export.md."""
    output = tmp_path / "out" / "smoke-q4_k_m.gguf"
    checkout = ["--llama-cpp", REAL_CHECKOUT] if REAL_CHECKOUT else []
    result = invoke(smoke_run, "--gguf", "q4_k_m", "--output", output, *checkout)
    assert result.exit_code == 4
    assert "llama-quantize failed: rows of the weights are no multiple of 32 values; take f16" in message(result)
    assert list(output.parent.iterdir()) == []


def test_safetensors_are_a_published_model_again(smoke_run, tmp_path):
    copied = tmp_path / "deep" / "survival"
    copied.parent.mkdir()
    assert invoke(smoke_run, "--safetensors", copied).exit_code == 0
    verify_manifest(copied)
    assert open_published(copied).system_prompt == open_published(smoke_run).system_prompt
    again = invoke(smoke_run, "--safetensors", copied)
    assert again.exit_code == 2
    assert "is there already" in message(again)
