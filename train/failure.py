"""How a run fails: exit codes, the exceptions that carry them, and the record of a failure.

Kubernetes' `ExitCode` restart policy treats 1-127 as permanent and 128-255 as worth another try; the codes follow it.
This file imports no torch, so that a bad command line fails in milliseconds.
"""

import enum
import errno
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from data.schema import DataError
from data.tokenizer import TemplateError
from train.masking import masked

TERMINATION_LOG = Path("/dev/termination-log")


class ExitCode(enum.IntEnum):
    DONE = 0
    BUG = 1
    CONFIG = 2
    DATA = 3
    MODEL = 4
    MEMORY = 5
    DIVERGED = 6
    GATE = 7
    INTERRUPTED = 130
    STOPPED = 143
    PEER = 203
    STORAGE = 204


class Phases:
    """Named stretches of a run with their seconds; the one under way is what a failure is reported in."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.current = "configuration"
        self.on_enter: Callable[[str], None] = lambda name: None

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.current = name
        self.on_enter(name)
        start = time.monotonic()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - start, 3)


class RunError(Exception):
    """A failure with a known cause. Subclasses fix the exit code; `remedy` says what to do, in one sentence."""

    exit_code = ExitCode.BUG

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem}. {remedy}" if remedy else problem)
        self.problem, self.remedy = problem, remedy


class ConfigError(RunError):
    exit_code = ExitCode.CONFIG


class FolderTakenError(ConfigError):
    """Another run writes the run folder: nothing of this one may be left in it, not even the record of this."""


class BadDataError(RunError):
    exit_code = ExitCode.DATA


class ModelError(RunError):
    exit_code = ExitCode.MODEL


class MemoryShortError(RunError):
    exit_code = ExitCode.MEMORY


class DivergedError(RunError):
    exit_code = ExitCode.DIVERGED


class GateError(RunError):
    """A judgement that was asked to fail did: a model got worse, or breaks a safety rule."""

    exit_code = ExitCode.GATE


class PeerLostError(RunError):
    exit_code = ExitCode.PEER


class StorageError(RunError):
    exit_code = ExitCode.STORAGE


# Messages of the collective libraries when another rank died or the network between ranks broke.
_PEER_MESSAGES = re.compile(
    r"\[.*gloo|connection (reset|closed|refused) by (remote )?peer|nccl.*(timeout|abort|remote)",
    re.IGNORECASE,
)
_MEMORY_MESSAGES = re.compile(r"out of memory|can't allocate memory|cannot allocate memory", re.IGNORECASE)
_TORCH_SAVE_MESSAGES = re.compile(r"PytorchStreamWriter failed|iostream error|inline_container")
_STORAGE_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENODEV}


def exit_code_of(error: BaseException) -> ExitCode:
    """The exit code of any exception.

    >>> exit_code_of(ConfigError("no such recipe"))
    <ExitCode.CONFIG: 2>
    >>> exit_code_of(OSError(28, "No space left on device"))
    <ExitCode.STORAGE: 204>
    >>> exit_code_of(RuntimeError("[gloo] Connection closed by peer"))
    <ExitCode.PEER: 203>
    """
    if isinstance(error, RunError):
        return error.exit_code
    if isinstance(error, DataError):
        return ExitCode.DATA
    if isinstance(error, TemplateError):
        return ExitCode.MODEL
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _MEMORY_MESSAGES.search(str(error))):
        return ExitCode.MEMORY
    if _is_storage_error(error):
        return ExitCode.STORAGE
    if _is_torch_error(error, "DistError") or (isinstance(error, RuntimeError) and _PEER_MESSAGES.search(str(error))):
        return ExitCode.PEER
    return ExitCode.BUG


def _is_storage_error(error: BaseException) -> bool:
    """OSErrors, and what safetensors and torch.save make of them: texts, where the errno is lost or spelt out.

    >>> _is_storage_error(RuntimeError("PytorchStreamWriter failed writing file data/1: file write failed"))
    True
    """
    if isinstance(error, OSError):
        return error.errno in _STORAGE_ERRNOS
    if isinstance(error, RuntimeError) and _TORCH_SAVE_MESSAGES.search(str(error)):
        return True
    spelt_out = re.search(r"os error (\d+)", str(error)) if _is_torch_error(error, "SafetensorError") else None
    return spelt_out is not None and int(spelt_out[1]) in _STORAGE_ERRNOS


def _is_torch_error(error: BaseException, class_name: str) -> bool:
    """isinstance by name: this file must not import torch."""
    return any(base.__name__ == class_name for base in type(error).__mro__)


ON_REQUEST = (ExitCode.STOPPED, ExitCode.INTERRUPTED)
FREE_SPACE = "Free space on the output volume, or point output.dir at another one."
_REMEDIES = {
    ExitCode.MEMORY: "Lower optim.batch_size (and raise optim.accumulation_steps), or data.max_length_tokens.",
    ExitCode.PEER: "Look at the other ranks' logs: the first one to fail says why.",
    ExitCode.STORAGE: FREE_SPACE,
    ExitCode.BUG: "The traceback above shows where; this is a bug in the program, or an input it should have refused.",
}


@dataclass(frozen=True)
class FailureRecord:
    """What `failure.json` holds."""

    phase: str
    failure_class: str
    exit_code: int
    rank: int
    message: str
    remedy: str

    def line(self) -> str:
        is_said = not self.remedy or self.remedy in self.message
        said = self.message if is_said else f"{self.message.rstrip('.')}. {self.remedy}"
        verdict = f"[exit {self.exit_code}: {self.failure_class}]"
        kind = "stopped" if self.exit_code in ON_REQUEST else "error"
        return f"{kind}: rank {self.rank}, {self.phase}: {said} {verdict}"


def describe_failure(error: BaseException, phase: str, rank: int) -> FailureRecord:
    code = exit_code_of(error)
    message = masked(" ".join(str(error).split())) or type(error).__name__
    return FailureRecord(
        phase=phase,
        failure_class=code.name.lower(),
        exit_code=int(code),
        rank=rank,
        message=message,
        remedy=getattr(error, "remedy", "") or _REMEDIES.get(code, ""),
    )


def report_failure(error: BaseException, *, phase: str, rank: int, run_folder: Path | None) -> ExitCode:
    """Tell people and Kubernetes why the run ended: stderr, `failure.json`, the termination log."""
    record = describe_failure(error, phase, rank)
    if record.exit_code == ExitCode.BUG:
        print(masked("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    print(record.line(), file=sys.stderr, flush=True)
    if os.access(TERMINATION_LOG, os.W_OK):
        TERMINATION_LOG.write_text(record.line()[:4096])
    if run_folder is not None and run_folder.is_dir() and not isinstance(error, FolderTakenError):
        with suppress(OSError):  # the volume may be what failed; stderr has said why
            _write_first_cause(run_folder / "failure.json", record)
    return ExitCode(record.exit_code)


def _write_first_cause(path: Path, record: FailureRecord) -> None:
    """Write the record, unless a record of the cause is there and this rank merely lost that peer or was stopped."""
    if path.exists() and record.exit_code in (ExitCode.PEER, *ON_REQUEST):
        return
    half_written = path.with_name(f".{path.name}.{record.rank}")
    half_written.write_text(json.dumps(asdict(record), indent=2) + "\n")
    half_written.replace(path)
