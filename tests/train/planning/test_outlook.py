from dataclasses import replace

from train.planning.outlook import human_flops, saving
from train.planning.predict import Job

PLAIN = Job("plain", 100, 2, 10, 4e9, 50, 200, False)


def test_the_saving_counts_what_is_computed_once():
    assert saving(PLAIN, PLAIN) == []
    cached = replace(PLAIN, path="sharing + cache", flops_per_row=0.5e9, once_flops=1e11)
    assert saving(PLAIN, cached) == ["           arithmetic: 200 GFLOP for 800 GFLOP, 4.0 x less (counted)"]


def test_small_amounts_stay_in_the_smallest_unit():
    assert human_flops(5e5) == "0.5 MFLOP"
    assert human_flops(999e9) == "999 GFLOP"
