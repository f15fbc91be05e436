"""Throw faults at runs of the smoke recipe, and print the tally; exit code 1 if anything did not hold.

make chaos                                         # 50 faults, runs of 2, 3 and 4 ranks
python -m tests.chaos --faults 8 --seed 3
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.storm import Storm

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60, help="no new faults after so long")
    chosen = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as root:
        storm = Storm(Path(root), chosen.seed, say=lambda text: print(text, flush=True))
        try:
            storm.rage(chosen.faults, deadline=began + 60 * chosen.minutes)
        except AssertionError as error:
            sys.exit(f"FAILED, seed {chosen.seed}: {error}")
        print(f"{storm.tally}\nseed {chosen.seed}, {time.monotonic() - began:.0f} s")
