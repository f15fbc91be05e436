import json

from data.files import write_json
from train.results.report.facts import page_facts
from train.results.run_files import RunFiles


def test_topics_are_the_evaluations_parts(finished):
    files = RunFiles.read(finished)
    rows = files.summary["data"]["topics"]
    topics = page_facts(files)["topics"]["rows"]
    assert {row["topic"]: row["rows"] for row in topics} == {
        t: n["validation"] for t, n in rows.items() if n["validation"]
    }
    assert sum(row["rows"] for row in topics) == files.summary["data"]["validation_rows"]
    losses = [row["after"] for row in topics]
    assert min(losses) <= files.best["loss"] <= max(losses)
    assert len(topics) > 1


def test_a_model_that_is_no_better_is_called_so(finished):
    history = json.loads(finished.history.read_text())
    for record in history:
        if record["kind"] == "evaluation" and record["step"] > 0:
            record["loss"] += 5
    write_json(finished.history, history)
    assert page_facts(RunFiles.read(finished))["result"].startswith("No better than the original")
