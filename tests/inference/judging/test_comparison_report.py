"""A comparison in words: a verdict on every number, what was proved, what takes from its worth."""

import io

from rich.console import Console

from inference.judging.comparison_report import proved, verdict_table, warnings_about

INTERVAL = {"estimate": -0.3, "low": -0.4, "high": -0.2}
RESULT = {
    "models": {role: {"name": role, "weights_sha256": role[0] * 20} for role in ("original", "tuned")},
    "prompt_tokens": [10, 20],
    "safety": {"tuned": [{"question": "a"}, {"question": "a"}, {"question": "b"}]},
    "data": {"rows": 0},
    "prompts_sha256": "p" * 20,
    "settings": {"max_new_tokens": 9},
    "weights_differ": True,
    "original_is_recorded_base": True,
}


def test_every_number_has_its_cells():
    verdicts = {
        "loss": {"original": 2.0, "tuned": 1.7, "difference": INTERVAL, "win": 3, "tie": 1, "loss": 0,
                 "verdict": "better"},
        "answer_length": {"original": 50.0, "tuned": 49.7, "difference": INTERVAL},
        "mine": {"error": "OSError: [no] judge"},
        "exact_number": {"rows": 0},
    }  # fmt: skip
    text = io.StringIO()
    Console(file=text, width=160).print(verdict_table(verdicts))
    lines = {line.split()[0]: line.split() for line in text.getvalue().splitlines() if line.split()}
    assert lines["loss"][1:] == ["2.000", "1.700", "-0.400", "to", "-0.200", "3/1/0", "better"]
    assert lines["answer_length"][1:] == ["50.00", "49.70", "-0.40", "to", "-0.20"]
    assert lines["mine"][1:] == ["failed:", "OSError:", "[no]", "judge"]
    assert lines["exact_number"][1:] == ["applies", "to", "no", "row"]


def test_questions_of_rules_are_counted_once():
    lines = proved(RESULT)
    assert lines[0] == "original  original, weights " + "o" * 16
    assert lines[2] == f"prompts   4, each token for token the same for both ({'p' * 16})"
    assert proved({**RESULT, "weights_differ": False})[-1].endswith("a model compared with itself")


def test_a_foreign_original_is_warned_of_unless_it_is_the_tuned_model():
    foreign = {**RESULT, "original_is_recorded_base": False}
    assert warnings_about(RESULT) == []
    assert warnings_about(foreign) == ["the original is not the model the run started from (--any-base)"]
    assert warnings_about({**foreign, "weights_differ": False}) == []
