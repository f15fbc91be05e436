"""Means of few rows and how far they can be trusted: bootstrap intervals, and a verdict on a difference."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95
SEED = 42

Verdict = Literal["better", "worse", "no difference"]


@dataclass(frozen=True)
class Interval:
    """An interval is an estimate, and the central 95 % of what it is when rows are drawn anew with replacement."""

    estimate: float
    low: float
    high: float

    def dump(self) -> dict[str, float]:
        """Return it as JSON has it."""
        return {"estimate": self.estimate, "low": self.low, "high": self.high}


def mean_interval(values: Sequence[float], weights: Sequence[float] | None = None) -> Interval:
    """Estimate sum(values) / sum(weights), rows drawn together, or the mean. The same rows give the same result.

    >>> mean_interval([1.0, 1.0, 1.0])
    Interval(estimate=1.0, low=1.0, high=1.0)
    """
    numerators = np.asarray(values, dtype=np.float64)
    denominators = np.ones_like(numerators) if weights is None else np.asarray(weights, dtype=np.float64)
    assert len(numerators), "an interval of no rows"
    generator = np.random.default_rng(SEED)
    drawn = np.empty(RESAMPLES)
    for number in range(RESAMPLES):  # a row of draws at a time: all at once would be gigabytes for a large set
        rows = generator.integers(len(numerators), size=len(numerators))
        drawn[number] = numerators[rows].sum() / denominators[rows].sum()
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(float(numerators.sum() / denominators.sum()), float(low), float(high))


def verdict(difference: Interval, better: int) -> Verdict:
    """Judge a difference of tuned minus original; `better` is +1 where higher is better and -1 where lower is.

    >>> verdict(Interval(-0.3, -0.4, -0.2), better=-1), verdict(Interval(0.1, -0.1, 0.3), better=+1)
    ('better', 'no difference')
    """
    if difference.low <= 0 <= difference.high:
        return "no difference"
    return "better" if difference.estimate * better > 0 else "worse"
