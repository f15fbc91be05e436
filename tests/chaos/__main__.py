"""Throw faults at runs of the smoke recipe, and print the tally; exit code 1 if anything did not hold.

make chaos                                         # 50 faults, runs of 2, 3 and 4 ranks
python -m tests.chaos --faults 8 --seed 3
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from tests.chaos.storm import Storm


def main(
    faults: Annotated[int, typer.Option(min=1, help="How many, in all.")] = 50,
    seed: Annotated[int, typer.Option(help="Decides which faults, and when.")] = 1,
    minutes: Annotated[float, typer.Option(min=0, help="No new faults after so long.")] = 60,
) -> None:
    """Throw faults at runs of the smoke recipe, and print the tally."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as root:
        storm = Storm(Path(root), seed, say=lambda text: print(text, flush=True))
        try:
            storm.rage(faults, deadline=began + 60 * minutes)
        except AssertionError as error:
            sys.exit(f"FAILED, seed {seed}: {error}")
        print(f"{storm.tally}\nseed {seed}, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    typer.run(main)
