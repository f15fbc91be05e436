"""Evaluations in words: what was judged, what is proved, what failed."""

import io

from rich.console import Console

from inference.judging.evaluation_report import (
    data_line,
    evidence,
    model_line,
    show_evaluation,
    show_safety,
    timing_line,
)
from train.generation.scores import Metric

DATA = {
    "rows": 8, "of_rows": 32, "split": "validation", "dataset": "rows.parquet",
    "dataset_sha256": "0123456789abcdefXYZ", "proved_held_out": True,
}  # fmt: skip
TIMING = {"loss_seconds": 3, "answer_seconds": 250, "batch_size": 4, "answered_alone": 1}
FACTS = {"name": "m", "weights_sha256": "w" * 20, "prompts_sha256": "p" * 20}


def printed(show, *arguments) -> str:
    text = io.StringIO()
    show(*arguments, Console(file=text, width=200))
    return text.getvalue()


def test_a_row_that_was_trained_on_is_never_called_held_out():
    assert data_line(DATA) == (
        "data      8 of 32 validation rows of rows.parquet (0123456789abcdef); "
        "proved: the rows the run held out, token for token"
    )
    assert data_line({**DATA, "proved_held_out": False}).endswith("not proved to be held out by the run")
    assert data_line({**DATA, "split": "train"}).endswith("TRAINED ON, so the numbers flatter")
    assert data_line({"rows": 0}) == "data      none"


def test_lines_on_model_and_time():
    assert model_line(FACTS) == f"model     m, weights {'w' * 16}, prompts {'p' * 16}"
    assert timing_line(TIMING, 8) == "time      loss 3 s, 8 answers 4 min 10 s (4 at a time, 1 of them made alone)"


def test_numbers_stand_with_their_intervals_and_failures_with_their_reason():
    metrics = [Metric(name, lambda _: None, 1, "%", "meaning") for name in ("mine", "broken", "absent")]
    record = {
        "data": DATA, "timing": TIMING, "model": FACTS,
        "loss": {"estimate": 1.5, "low": 1.25, "high": 1.75,
                 "by_topic": {"[Knots]": {"rows": 8, "loss": 1.5, "mine": 40.0}}},
        "metrics": {"mine": {"mean": 40.0, "rows": 8, "low": 30.0, "high": 50.0},
                    "broken": {"error": "OSError: [no] judge"}, "absent": {"mean": None, "rows": 0}},
    }  # fmt: skip
    text = printed(show_evaluation, record, metrics)
    assert "1.5000 nats a token" in text
    assert "1.2500 to 1.7500" in text
    assert "40.00 %" in text
    assert "failed: OSError: [no] judge" in text
    assert "applies to no row" in text
    assert "[Knots]" in text


def test_safety_says_what_decided_and_that_it_proves_little():
    verdicts = [
        {"rule": "butter", "kind": "must_not_say", "passed": False, "evidence": "butter", "why": "harm"},
        {"rule": "water", "kind": "must_say", "passed": True, "evidence": "cool water", "why": "cools"},
    ]
    text = printed(show_safety, verdicts)
    assert "Safety: 1 of 2 rules kept" in text
    assert "BROKEN" in text
    assert "says “butter”" in text
    assert "no proof of safety" in text
    assert printed(show_safety, []) == ""
    assert evidence({"kind": "must_not_say", "passed": True, "evidence": ""}) == "does not say it"
