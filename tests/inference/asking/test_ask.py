"""Both ask scripts through their command lines: as processes where the process matters, else in this one."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from inference.ask_original_model import app as original_app
from inference.ask_tuned_model import app as tuned_app
from train.generation.settings import GenerationSettings

ROOT = Path(__file__).parents[3]
QUESTION = "How do I treat a nosebleed?"
SHORT = ["--max-new-tokens", "8"]

NO_NETWORK = """
import os, socket
def refuse(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6):
        open(os.environ["NETWORK_ATTEMPTS"], "a").write(f"{address}\\n")
        raise OSError("no network in this test")
    return connect(self, address)
connect = socket.socket.connect
socket.socket.connect = refuse
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """No run by default; every process records and refuses an attempt to reach the network."""
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path / "no-run"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # the scripts must switch it on themselves
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    monkeypatch.setenv("NETWORK_ATTEMPTS", str(tmp_path / "attempts"))
    (tmp_path / "sitecustomize.py").write_text(NO_NETWORK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    yield
    assert not (tmp_path / "attempts").exists(), (tmp_path / "attempts").read_text()


def process(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=120
    )


def invoke(app, *arguments: str, stdin: str = ""):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def test_module_and_script_answer_alike_greedily_and_offline(smoke_run, tmp_path):
    by_module = process("-m", "inference.ask_tuned_model", "--run", str(smoke_run), *SHORT, QUESTION)
    by_script = process("inference/ask_tuned_model.py", "--run", str(smoke_run), *SHORT, "--json", QUESTION)
    assert by_module.returncode == by_script.returncode == 0, by_module.stderr + by_script.stderr
    record = json.loads(by_script.stdout)
    assert record["answer"] == by_module.stdout.strip() != ""
    assert record["model"]["role"] == "tuned"
    assert by_script.stderr == ""
    assert "tuned model" in by_module.stderr
    assert "greedy" in by_module.stderr


def test_original_script_answers_typed_questions(smoke_run):
    done = process(
        "inference/ask_original_model.py", "--run", str(smoke_run), *SHORT, "--json", stdin=f"{QUESTION}\n\nno\n"
    )
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["question"] for record in records] == [QUESTION]
    assert records[0]["model"]["role"] == "original"


def test_terminal_prompts_and_ctrl_c_ends_with_130(smoke_run):
    controller, terminal = pty.openpty()
    asking = subprocess.Popen(
        [sys.executable, "-m", "inference.ask_tuned_model", "--run", str(smoke_run), *SHORT],
        cwd=ROOT, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    try:
        seen = read_until(controller, "question> ", seconds=100)
        assert "Each question stands alone" in seen
        os.write(controller, f"{QUESTION}\n".encode())
        seen = read_until(controller, "question> ", seconds=30)
        assert "cut off after 8 tokens" in seen
        asking.send_signal(signal.SIGINT)
        seen = read_until(controller, "[exit 130: interrupted]", seconds=30)
        assert "Traceback" not in seen
        assert asking.wait(timeout=30) == 130
    finally:
        asking.kill()
        os.close(controller)


def read_until(terminal: int, awaited: str, *, seconds: float) -> str:
    """What a terminal shows up to `awaited` (asserts that it comes)."""
    seen, deadline = "", time.monotonic() + seconds
    os.set_blocking(terminal, False)
    while awaited not in seen and time.monotonic() < deadline:
        try:
            seen += os.read(terminal, 4096).decode(errors="replace")
        except BlockingIOError:
            time.sleep(0.02)
    assert awaited in seen, seen
    return seen


def test_help_and_refusals_load_no_torch():
    code = (
        "import sys, inference.ask_tuned_model, inference.ask_original_model, inference.compare; "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert process("-c", code).returncode == 0


@pytest.mark.parametrize("script", ["ask_tuned_model", "ask_original_model"])
def test_a_script_finds_the_package_gguf_not_the_room(script):
    """transformers imports it to read a GGUF file; Python puts the folder of a script first on the path."""
    code = (
        "import sys, runpy; sys.path[0] = 'inference'; "
        f"runpy.run_path('inference/{script}.py', run_name='imported'); import gguf; gguf.GGUFReader"
    )
    done = process("-c", code)
    assert done.returncode == 0, done.stderr


def test_help_names_the_defaults():
    shown = invoke(tuned_app, "--help").stdout
    assert "--run" in shown
    defaults = GenerationSettings()
    assert all(
        str(value) in shown for value in (defaults.temperature, defaults.top_p, defaults.seed, defaults.max_new_tokens)
    )


def test_missing_model_is_one_line_and_exit_4(tmp_path):
    done = process("-m", "inference.ask_tuned_model", QUESTION)
    assert done.returncode == 4
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "there is no run folder" in done.stderr
    assert "make train" in done.stderr


def test_sampling_is_reproducible_by_seed(smoke_run):
    def sampled(seed: int) -> str:
        options = ("--sample", "--seed", seed, "--temperature", 5, "--top-p", 1.0, "--no-stream")
        return invoke(tuned_app, "--run", smoke_run, *SHORT, *options, QUESTION).stdout

    assert sampled(1) == sampled(1) != sampled(2)


def test_several_questions_from_arguments_and_standard_input(smoke_run):
    result = invoke(tuned_app, "--run", smoke_run, *SHORT, "First?", "-", stdin="Second?\n\n Third? \n")
    assert result.exit_code == 0, result.stderr
    assert [line for line in result.stdout.splitlines() if line.startswith("> ")] == [
        "> First?",
        "> Second?",
        "> Third?",
    ]


def test_streamed_and_whole_answers_are_equal(smoke_run):
    streamed = invoke(tuned_app, "--run", smoke_run, *SHORT, QUESTION).stdout
    assert streamed == invoke(tuned_app, "--run", smoke_run, *SHORT, "--no-stream", QUESTION).stdout


def test_system_prompt_can_be_replaced(smoke_run, tmp_path):
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Be brief.\n")
    own = json.loads(invoke(tuned_app, "--run", smoke_run, *SHORT, "--json", QUESTION).stdout)
    replaced = json.loads(
        invoke(tuned_app, "--run", smoke_run, *SHORT, "--json", "--system-prompt", prompt, QUESTION).stdout
    )
    assert replaced["prompt_tokens"] < own["prompt_tokens"]
    assert replaced["model"]["system_prompt_sha256"] != own["model"]["system_prompt_sha256"]


def test_tuned_takes_a_model_folder_original_a_base(smoke_run):
    folder = smoke_run / "best_model"
    tuned = json.loads(invoke(tuned_app, "--model", folder, *SHORT, "--json", QUESTION).stdout)
    # The tuned model named as "original", alone and as the run's base: the same weights, prompt and answer.
    alone = json.loads(invoke(original_app, "--model", folder, *SHORT, "--json", QUESTION).stdout)
    as_base = json.loads(invoke(original_app, "--run", smoke_run, "--model", folder, *SHORT, "--json", QUESTION).stdout)
    for other in (alone, as_base):
        assert other["model"]["role"] == "original"
        assert other["model"]["weights_sha256"] == tuned["model"]["weights_sha256"]
        assert (other["answer"], other["prompt_tokens"]) == (tuned["answer"], tuned["prompt_tokens"])


def test_default_run_comes_from_output_dir(smoke_run, monkeypatch):
    monkeypatch.setenv("OUTPUT_DIR", str(smoke_run))
    record = json.loads(invoke(original_app, *SHORT, "--json", QUESTION).stdout)
    assert record["model"]["name"] == "random weights of seed 42"


def test_typed_question_that_is_too_long_does_not_end_the_loop(smoke_run):
    typed = f"{'knot ' * 1000}\n{QUESTION}\n/quit\nnot asked\n"
    result = invoke(tuned_app, "--run", smoke_run, *SHORT, "--json", stdin=typed)
    assert result.exit_code == 0
    assert [json.loads(line)["question"] for line in result.stdout.splitlines()] == [QUESTION]
    assert "context of 1024" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--temperature", "0.5", QUESTION], "--temperature counts only with --sample"),
        (["--top-p", "0.5", "--seed", "3", QUESTION], "--top-p, --seed counts only with --sample"),
        (["--sample", "--temperature", "0", QUESTION], "--temperature"),
        (["--sample", "--top-p", "1.5", QUESTION], "--top-p"),
        (["--max-new-tokens", "0", QUESTION], "--max-new-tokens"),
        (["--system-prompt", "missing.txt", QUESTION], "missing.txt"),
        (["--no-such-option"], "--no-such-option"),
        (["--model", "somewhere", QUESTION], "both name a tuned model"),
        (["knot " * 1000], "context of 1024"),
        (["   "], "holds no question"),
        (["-"], "standard input holds no question"),
    ],
)
def test_bad_command_line_is_exit_2(smoke_run, arguments, complaint):
    result = invoke(tuned_app, "--run", smoke_run, *arguments)
    assert result.exit_code == 2, result.stderr
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("name", ["/no/such/folder", "no such model", "missing.gguf", "EMPTY_FOLDER"])
def test_original_that_cannot_be_had_is_exit_4(name, tmp_path):
    (tmp_path / "empty").mkdir()
    result = invoke(original_app, "--model", name.replace("EMPTY_FOLDER", str(tmp_path / "empty")), QUESTION)
    assert result.exit_code == 4, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.strip().startswith("error: model '")


def test_damaged_default_run_is_not_passed_over(smoke_run, tmp_path, monkeypatch):
    run = tmp_path / "run"
    (run / "best_model").mkdir(parents=True)
    (run / "best_model" / "READY").touch()
    monkeypatch.setenv("OUTPUT_DIR", str(run))
    assert invoke(original_app, QUESTION).exit_code == 4


def test_reader_that_goes_away_is_no_error(smoke_run):
    command = f"{sys.executable} -m inference.ask_tuned_model --run {smoke_run} --max-new-tokens 4 a b c d e | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "> a\n"
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


@pytest.mark.slow
def test_without_any_run_the_embedded_model_answers():
    done = process("-m", "inference.ask_original_model", "--json", "--max-new-tokens", "40", QUESTION)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["model"]["name"] == "embedded"
    assert "nose" in record["answer"].lower()
    assert "asking 'embedded'" in done.stderr
