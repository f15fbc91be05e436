"""The playground's command line: what it loads, what it refuses, and that Ctrl-C ends it."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from inference.playground.__main__ import app as command
from inference.playground.__main__ import load, wished
from tests.inference.playground.playground_server import SECONDS

ROOT = Path(__file__).parents[3]
EVERYWHERE = "0.0.0.0"  # noqa: S104


def test_the_same_model_twice_is_said(smoke_run):
    folder = smoke_run / "best_model"
    models, notices = load(wished(str(smoke_run), str(folder), verify=False))
    assert [loaded.role for loaded in models] == ["original", "tuned"]
    assert "same weights" in notices[0]


def test_one_model_alone(smoke_run, tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (plain / name).symlink_to(smoke_run / "best_model" / name)
    models, notices = load(wished(str(plain), None, verify=False))
    assert ([loaded.role for loaded in models], notices) == (["original"], [])


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["--host", EVERYWHERE], 2, "no --token protects it"),
        (["--host", "playground.example.org"], 2, "no --token protects it"),
        (["--token", "short"], 2, "has 5 characters; at least 12 are needed"),
        (["--port", "99999"], 2, "--port"),
        (["--questions", "missing.txt"], 2, "missing.txt"),
        ([], 4, "there is no run folder"),
        (["no such model"], 4, "cannot be loaded"),
        (["DAMAGED"], 4, "READY"),
    ],
)
def test_refusals_are_one_line(arguments, code, complaint, tmp_path, monkeypatch):
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path / "no-run"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "damaged" / "best_model").mkdir(parents=True)
    arguments = [text.replace("DAMAGED", str(tmp_path / "damaged")) for text in arguments]
    result = CliRunner().invoke(command, [*arguments, *([] if "--port" in arguments else ["--port", "0"])])
    assert result.exit_code == code, result.stderr
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr


def test_a_port_in_use_is_told_before_anything_is_loaded(smoke_run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(command, [str(smoke_run), "--port", str(port)])
    assert result.exit_code == 2
    assert f"cannot listen on 127.0.0.1:{port}: address already in use" in result.stderr
    assert "weights" not in result.stderr


def test_the_command_serves_until_ctrl_c(smoke_run):
    command = [sys.executable, "-m", "inference.playground", str(smoke_run), "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes)
    try:
        address = process.stdout.readline().split()[4]
        assert httpx.get(address, timeout=SECONDS).status_code == 200
        about = httpx.get(f"{address}api/info", timeout=SECONDS).json()
        assert [model["role"] for model in about["models"]] == ["original", "tuned"]
        assert len(about["questions"]) == 5
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=SECONDS)
        assert process.returncode == 130
        assert "Traceback" not in error
    finally:
        process.kill()
        process.wait()


def test_command_lines_load_no_torch():
    code = (
        "import sys, inference.playground.__main__, inference.serve; "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=SECONDS).returncode == 0


def test_a_server_without_its_packages_says_what_to_install(monkeypatch):
    monkeypatch.setattr("inference.serving.server.importlib.util.find_spec", lambda name: None)
    result = CliRunner().invoke(command, [])
    assert result.exit_code == 2
    assert "pip install -e '.[playground]'" in result.stderr
