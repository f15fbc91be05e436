from dataclasses import replace

from rich.console import Console

from tests.tiny_runs import run_of
from train.config.run_config import resolve_config
from train.results.summary import comparison_table, describe_batch


def test_the_batch_of_a_step_and_what_it_is_made_of():
    resolved = resolve_config("smollm3-l40s-x4", [], {})
    assert describe_batch(run_of(resolved, world_size=4), was_measured=False) == (
        "batch      8 x 2 accumulation x 4 rank(s) = 64 rows a step"
    )
    found = replace(resolved, config=resolved.config.with_batch_size(4, 4))
    assert describe_batch(run_of(found, world_size=4), was_measured=True) == (
        "batch      4 (the most that fit on every rank) x 4 accumulation x 4 rank(s) = 64 rows a step"
    )


def test_answers_are_shown_as_they_are():
    table = comparison_table({"responses": [{"question": "Why?", "original": "[bold]no", "tuned": "yes"}]})
    console = Console(width=80, file=open("/dev/null", "w"), record=True)  # noqa: SIM115
    console.print(table)
    text = console.export_text()
    assert "[bold]no" in text
    assert "yes" in text
