"""`python -m train diagnose LOGFILE|RUNFOLDER|-`: which known failure is this, what causes it, what cures it.

The known messages stand in `known_failures.yaml`, the more specific before the more general. The earliest line of the
log that matches is shown first: what follows a failure is mostly its consequences. No torch here.
"""

import functools
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from train.failure import ConfigError
from train.run_folder.run_folder import RunFolder

KNOWN_FAILURES = Path(__file__).with_name("known_failures.yaml")
LOG_SUFFIXES = (".log", ".txt", ".out", ".err")
LONGEST_LINE_CHARS = 300
MOST_LINE_CHARS = 10_000
"""Of a line, that are searched: a progress bar's log can be one line of megabytes."""

CONSEQUENCE = "peer lost"
"""Name of the failure that follows from any other one; the cause of a run's end only where nothing else is found."""


@dataclass(frozen=True)
class KnownFailure:
    """Is a message that libraries or Kubernetes print, what it means for a run of this program, and what to do."""

    name: str
    pattern: re.Pattern[str]
    cause: str
    cure: str


@dataclass(frozen=True)
class Diagnosis:
    """Is a known failure found in a log, and the line it was found in, counted from 1."""

    failure: KnownFailure
    line_number: int
    line: str


@functools.cache
def known_failures() -> tuple[KnownFailure, ...]:
    """Read the known failures, the more specific before the more general."""
    entries = yaml.safe_load(KNOWN_FAILURES.read_text(encoding="utf-8"))
    return tuple(
        KnownFailure(
            entry["name"], re.compile(entry["pattern"], re.IGNORECASE), entry["cause"].strip(), entry["cure"].strip()
        )
        for entry in entries
    )


def diagnose(lines: Iterable[str]) -> list[Diagnosis]:
    """Return every known failure in a log once, in order of first appearance; a lost peer last, being a consequence.

    >>> [found.failure.name for found in diagnose(["ok", "OSError: [Errno 28] No space left on device"])]
    ['disk full']
    """
    found: dict[str, Diagnosis] = {}
    for number, line in enumerate(lines, 1):
        failure = next((known for known in known_failures() if known.pattern.search(line[:MOST_LINE_CHARS])), None)
        if failure is not None:
            found.setdefault(failure.name, Diagnosis(failure, number, line.strip()[:LONGEST_LINE_CHARS]))
    return sorted(found.values(), key=lambda diagnosis: diagnosis.failure.name == CONSEQUENCE)


def read_log(source: str) -> Iterator[tuple[str, list[str]]]:
    """Yield names and lines of logs: of a file, of standard input for `-`, or of a run folder's failure and its logs.

    Raises:
        ConfigError: there is no such file, or nothing to read in the folder.
    """
    if source == "-":
        yield "standard input", sys.stdin.read().splitlines()
        return
    path = Path(source)
    if path.is_dir():
        yield from _read_folder(path)
        return
    try:
        yield str(path), path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror})", "Name a log file, a run folder, or -."
        ) from error


def _read_folder(folder: Path) -> Iterator[tuple[str, list[str]]]:
    failure = RunFolder(folder).failure
    logs = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in LOG_SUFFIXES)
    if failure.is_file():
        yield str(failure), _record_lines(failure)
    for log in logs:
        yield from read_log(str(log))
    if not logs and not failure.is_file():
        raise ConfigError(
            f"{folder} holds neither failure.json nor a log", "Save the output of the run to a file, and name that."
        )


def _record_lines(path: Path) -> list[str]:
    """A failure record as lines of a log; as it stands where it is no JSON object."""
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        record = json.loads(text)
    except ValueError:
        record = None
    return [str(value) for value in record.values()] if isinstance(record, dict) else text.splitlines()


def describe(source: str, found: Sequence[Diagnosis]) -> str:
    """Say what to tell a person about one log."""
    if not found:
        return f"{source}: no known failure"
    return "\n".join(
        f"{source}:{one.line_number}: {one.failure.name}\n"
        f"  said   {one.line}\n  cause  {one.failure.cause}\n  cure   {one.failure.cure}"
        for one in found
    )


def diagnose_source(source: str) -> bool:
    """Print what is known about a log or run folder; returns whether anything is."""
    recognised = False
    for name, lines in read_log(source):
        found = diagnose(lines)
        recognised |= bool(found)
        print(describe(name, found))
    return recognised
