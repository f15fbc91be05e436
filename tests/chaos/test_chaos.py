"""The short form of `make chaos`: a few faults, always the same ones."""

import time

from tests.chaos.storm import Storm
from tests.tiny_runs import CACHED

NUM_FAULTS = 4
SECONDS = 60


def test_a_run_that_is_disturbed_ends_as_if_nothing_had_happened(tmp_path):
    storm = Storm(tmp_path, seed=5)
    tally = storm.rage(NUM_FAULTS, deadline=time.monotonic() + SECONDS, shapes=[(2, CACHED)])
    assert tally.num_faults >= 1
    assert tally.runs >= 1
