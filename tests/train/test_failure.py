import errno
import json

import pytest
import torch

from data.schema import DataError
from data.tokenizer import TemplateError
from train.failure import (
    ConfigError,
    DivergedError,
    ExitCode,
    ModelError,
    PeerLostError,
    Phases,
    exit_code_of,
    report_failure,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (DataError("x"), 3),
        (ModelError("x"), 4),
        (TemplateError("x"), 4),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 5),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"), 5),
        (MemoryError(), 5),
        (DivergedError("x"), 6),
        (PeerLostError("x"), 203),
        (torch.distributed.DistNetworkError("failed to recv, got 0 bytes"), 203),
        (RuntimeError("[/w/gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:1"), 203),
        (OSError(errno.ENOSPC, "No space left on device"), 204),
        (KeyboardInterrupt(), 130),
        (ValueError("x"), 1),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), 1),
    ],
)
def test_exit_codes(error, code):
    assert exit_code_of(error) == code


def test_report_writes_failure_json_and_one_line(tmp_path, capsys):
    code = report_failure(ConfigError("no such thing", "Do that."), phase="data", rank=3, run_folder=tmp_path)
    assert code == ExitCode.CONFIG
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["error: rank 3, data: no such thing. Do that. [exit 2: config]"]
    record = json.loads((tmp_path / "failure.json").read_text())
    assert (record["phase"], record["failure_class"], record["rank"], record["remedy"]) == (
        "data",
        "config",
        3,
        "Do that.",
    )


def test_losing_a_peer_does_not_hide_the_first_cause(tmp_path):
    report_failure(DivergedError("loss became nan"), phase="training", rank=1, run_folder=tmp_path)
    report_failure(PeerLostError("rank 1 is gone"), phase="training", rank=0, run_folder=tmp_path)
    assert json.loads((tmp_path / "failure.json").read_text())["failure_class"] == "diverged"


def test_a_bug_prints_its_traceback(capsys):
    assert report_failure(ZeroDivisionError("oops"), phase="data", rank=0, run_folder=None) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_phases_add_up_and_remember_where_it_stopped():
    phases = Phases()
    with phases("one"):
        pass
    with pytest.raises(ValueError, match="stop"), phases("two"):
        raise ValueError("stop")
    assert phases.current == "two"
    assert list(phases.seconds) == ["one"]
