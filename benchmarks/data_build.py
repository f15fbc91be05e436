"""How fast `python -m data build` is, and how much memory it takes.

    python -m benchmarks.data_build --rows 1000000 --json build.json

Writes synthetic rows into a temporary folder (5 % repeat an earlier row, 5 % nearly so, 10 % ask an earlier
question), builds them in a process of its own, and prints rows per second and that process's peak memory.
"""

import json
import random
import resource
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

VOCABULARY_WORDS = 5000
TOPICS = ("Knots", "First Aid", "Car Maintenance", "Cooking", "Unit Conversions", "Survival")
ROWS_TO_REPEAT = 1000  # how far back repeated rows lie
KIB_PER_MIB = 1024
Row = dict[str, str]


@dataclass(frozen=True)
class Result:
    """One measured build."""

    num_rows_in: int
    num_rows_out: int
    num_near_duplicates: int
    source_mib: float
    seconds: float
    rows_per_second: float
    peak_memory_mib: float


def synthetic_rows(num_rows: int, seed: int) -> Iterator[Row]:
    """Rows that differ as real ones do: common words often, rare words seldom, a share of repeats.

    >>> [row["topic"] for row in synthetic_rows(2, seed=1)]
    ['Survival', 'Cooking']
    """
    chance = random.Random(seed)
    recent = deque([_new_row(chance)], maxlen=ROWS_TO_REPEAT)
    for _ in range(num_rows):
        row = _changed(chance, chance.choice(recent)) if chance.random() < 0.2 else _new_row(chance)
        recent.append(row)
        yield row


def measure(num_rows: int) -> Result:
    """Write rows, build them, and take the time and the memory of the build alone."""
    with TemporaryDirectory(prefix="data-build-") as folder:
        source, output = Path(folder) / "rows.jsonl", Path(folder) / "rows.parquet"
        with source.open("w", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(row)}\n" for row in synthetic_rows(num_rows, seed=1))
        start_seconds = time.monotonic()
        command = [sys.executable, "-m", "data", "build", str(source), "--output", str(output)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - start_seconds
        manifest = json.loads(output.with_suffix(".manifest.json").read_bytes())
        return Result(
            num_rows_in=manifest["rows_in"],
            num_rows_out=manifest["rows_out"],
            num_near_duplicates=manifest["dropped"]["near_duplicate"]["count"],
            source_mib=source.stat().st_size / KIB_PER_MIB**2,
            seconds=seconds,
            rows_per_second=num_rows / seconds,
            peak_memory_mib=resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / KIB_PER_MIB,
        )


def main(
    rows: Annotated[int, typer.Option(min=1000, help="How many rows.")] = 1_000_000,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result here too.")] = None,
) -> None:
    """Measure one build of synthetic rows."""
    result = measure(rows)
    for name, value in asdict(result).items():
        typer.echo(f"{name.replace('_', ' '):20} {value:14,.{1 if isinstance(value, float) else 0}f}")
    if json_file is not None:
        json_file.write_text(json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8")


def _new_row(chance: random.Random) -> Row:
    question = f"How do I {_words(chance, 6)}?"
    return {"topic": chance.choice(TOPICS), "question": question, "answer": f"{_words(chance, 30)}."}


def _words(chance: random.Random, mean_words: int) -> str:
    """Words of a Zipf-like vocabulary.

    >>> _words(random.Random(1), 2)
    'w127x'
    """
    num_words = chance.randint(mean_words // 2, mean_words * 3 // 2)
    return " ".join(f"w{int(VOCABULARY_WORDS ** chance.random())}x" for _ in range(num_words))


def _changed(chance: random.Random, row: Row) -> Row:
    """The same row again, nearly the same row, or another answer to the same question."""
    kind = chance.random()
    if kind < 0.25:
        return row
    if kind < 0.5:
        return row | {"answer": row["answer"].upper() + "!"}
    return row | {"answer": f"{_words(chance, 30)}."}


if __name__ == "__main__":
    typer.run(main)
