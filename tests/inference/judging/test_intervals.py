"""Intervals hold the mean as often as they say, and what holds 0 is no difference."""

import numpy as np
import pytest

from inference.judging.intervals import Interval, mean_interval, verdict


def test_interval_covers_the_mean_about_as_often_as_it_says():
    """Of 60 samples of a known distribution, around 95 % of the intervals hold its mean."""
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(60):
        found = mean_interval(generator.normal(3.0, 1.0, size=40).tolist())
        inside += found.low <= 3.0 <= found.high
    assert 51 <= inside <= 60


def test_interval_of_weighted_rows_is_one_of_the_ratio():
    found = mean_interval([10.0, 0.0], weights=[10.0, 1000.0])
    assert found.estimate == pytest.approx(10 / 1010)
    assert (found.low, found.high) == pytest.approx((0.0, 1.0))


def test_no_difference_where_the_interval_holds_zero():
    assert verdict(Interval(0.0, 0.0, 0.0), better=+1) == "no difference"
