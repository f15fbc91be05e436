"""How good answers are: one number per answer and metric, so that means come with intervals. No model here.

A metric is a function of a `Sample`; None where it does not apply. A metric that fails is recorded and the others go
on: an evaluation of an hour is not lost to one of them.
"""

import importlib
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from train.failure import ConfigError

REPEATED_WORDS = 4
"""Length of the word sequences whose second and later occurrences count as repetition."""


@dataclass(frozen=True)
class Sample:
    """One answered question. `reference` is the data set's answer."""

    question: str
    reference: str
    answer: str
    num_tokens: int
    reached_end: bool
    topic: str | None = None


@dataclass(frozen=True)
class Metric:
    """`better`: +1 where higher is better, -1 where lower is, 0 where neither is."""

    name: str
    function: Callable[[Sample], float | None]
    better: int
    unit: str
    meaning: str


@dataclass(frozen=True)
class Scores:
    """A metric's value for every sample, in their order; or why there are none."""

    values: tuple[float | None, ...] = ()
    error: str | None = None

    def summary(self) -> dict[str, Any]:
        """Return the mean over the samples the metric applies to, and their number.

        >>> Scores((1.0, None, 0.0)).summary()
        {'mean': 0.5, 'rows': 2}
        """
        if self.error is not None:
            return {"error": self.error}
        known = [value for value in self.values if value is not None]
        return {"mean": statistics.fmean(known) if known else None, "rows": len(known)}


def rouge_l(sample: Sample) -> float:
    """Return the F1 of the longest common subsequence of words with the reference, 0 to 100 (rouge_score)."""
    return 100 * float(_rouge().score(sample.reference, sample.answer)["rougeL"].fmeasure)


def chrf(sample: Sample) -> float:
    """Return the F2 of character n-grams shared with the reference, 0 to 100 (sacrebleu's sentence chrF)."""
    return float(_chrf().sentence_score(sample.answer, [sample.reference]).score)


def exact_number(sample: Sample) -> float | None:
    """Return 100 if the answer states the conversion the question asks for, else 0; None where it asks for none."""
    from train.generation.unit_conversions import exact_number

    stated = exact_number(sample.question, sample.reference, sample.answer)
    return None if stated is None else 100 * stated


def answer_length(sample: Sample) -> float:
    return float(sample.num_tokens)


def repetition(sample: Sample) -> float:
    """Return the share of the answer's four-word sequences that it has said before, 0 to 100.

    >>> repetition(Sample("", "", "go on and on and on and on", 8, True))
    40.0
    """
    words = sample.answer.lower().split()
    sequences = [tuple(words[start : start + REPEATED_WORDS]) for start in range(len(words) - REPEATED_WORDS + 1)]
    return 100 * (1 - len(set(sequences)) / len(sequences)) if sequences else 0.0


def reached_end(sample: Sample) -> float:
    """Return 100 if the model ended its turn itself, 0 if it was cut off."""
    return 100.0 * sample.reached_end


METRICS = (
    Metric("rouge_l", rouge_l, +1, "%", "ROUGE-L F1: words in common with the reference, in order"),
    Metric("chrf", chrf, +1, "%", "chrF: character n-grams in common with the reference"),
    Metric("exact_number", exact_number, +1, "%", "conversions whose result is stated, to 1 %"),
    Metric("repetition", repetition, -1, "%", "four-word sequences said before in the same answer"),
    Metric("reached_end", reached_end, +1, "%", "answers the model ended itself"),
    Metric("answer_length", answer_length, 0, "tokens", "length of the answer"),
)


def own_metric(import_path: str) -> Metric:
    """Return the metric named `package.module:function`, whose function takes a Sample and returns a number or None.

    Raises:
        ConfigError: there is no such module or function.
    """
    module_name, separator, function_name = import_path.partition(":")
    if not separator:
        raise ConfigError(f"--metric {import_path} is not of the form package.module:function")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"--metric {import_path} cannot be imported: {error}", "Is its folder on PYTHONPATH?"
        ) from None
    if not callable(function):
        raise ConfigError(f"--metric {import_path} is a {type(function).__name__}, not a function")
    meaning = (function.__doc__ or import_path).strip().splitlines()[0]
    return Metric(import_path, function, better=getattr(function, "better", +1), unit="", meaning=meaning)


def score(samples: Sequence[Sample], metrics: Sequence[Metric] = METRICS) -> dict[str, Scores]:
    """Apply every metric to every sample; one that raises, or gives what is no number, has its error recorded.

    >>> score([Sample("", "a b", "a b", 2, True)], [Metric("broken", lambda _: 1 / 0, 1, "", "")])
    {'broken': Scores(values=(), error='ZeroDivisionError: division by zero')}
    """
    found = {}
    for metric in metrics:
        try:
            found[metric.name] = Scores(tuple(_number(metric.function(sample)) for sample in samples))
        except Exception as error:  # whatever a metric of somebody else's does
            found[metric.name] = Scores(error=f"{type(error).__name__}: {error}")
    return found


def _number(value: Any) -> float | None:
    if value is None:
        return None
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"the metric returned {number}")
    return number


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False)


@cache
def _chrf() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()
