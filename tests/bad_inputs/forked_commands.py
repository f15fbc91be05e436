"""Runs `python -m MODULE ARGUMENTS` many times in seconds: libraries are imported once, each command is a fork.

Started by `Commands`; it reads one JSON object a line from stdin and answers with one a line. A fork has the exit code,
the outputs and the environment of a process of its own, which no call within the test's process could have.
"""

import contextlib
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 200
IMPORTED_ONCE = ("data.__main__", "data.render", "train.run", "train.preflight.preflight", "inference.compare",
                 "inference.asking.generate", "inference.models.load", "deploy.profile", "datasets")  # fmt: skip


@dataclass(frozen=True)
class Finished:
    code: int
    stdout: str
    stderr: str


class Commands:
    """The process that forks, for the length of a `with`."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, "-m", "tests.bad_inputs.forked_commands"]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)

    def __enter__(self) -> "Commands":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(LIMIT_SECONDS)

    def run(self, module: str, *arguments: str, environment: dict[str, str] | None = None) -> Finished:
        """Run one command; environment variables are added, an empty one is taken away."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {"module": module, "arguments": arguments, "environment": environment or {}}
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        return Finished(**json.loads(self._process.stdout.readline()))


def serve() -> None:
    for module in IMPORTED_ONCE:
        importlib.import_module(module)
    for line in sys.stdin:
        print(json.dumps(vars(run_forked(**json.loads(line)))), flush=True)


def run_forked(module: str, arguments: list[str], environment: dict[str, str]) -> Finished:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
        child = os.fork()
        if child == 0:
            become(module, arguments, environment, out.fileno(), error.fileno())
        _, status = os.waitpid(child, 0)
        texts = []
        for file in (out, error):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
    return Finished(os.waitstatus_to_exitcode(status), *texts)


def become(module: str, arguments: list[str], environment: dict[str, str], out: int, error: int) -> None:
    """Be that command, and end."""
    signal.alarm(LIMIT_SECONDS)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(error, 2)
    os.environ.update(environment)
    for name in [name for name, value in environment.items() if not value]:
        del os.environ[name]
    sys.argv = [module, *arguments]
    sys.modules.pop(f"{module}.__main__", None)  # imported above for what it imports; now it is to run
    code = 1
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve()
