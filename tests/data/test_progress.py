"""Progress in plain lines, on a terminal, and not at all."""

import io

from rich.console import Console

from data import progress
from data.progress import Lines, Silent, followed, progress_on


class Recorded(Silent):
    """What a job told, in order."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def stage(self, title, total):
        self.told.append((title, total))

    def advance(self, position):
        self.told.append(position)


def test_steps_are_told_now_and_then(monkeypatch):
    monkeypatch.setattr(progress, "STEPS_PER_REPORT", 2)
    report = Recorded()
    assert list(followed("abcde", "spelling", report)) == list("abcde")
    assert report.told == [("spelling", 5), 0, 2, 4]


def test_a_line_a_stage_and_one_every_ten_seconds(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    text = io.StringIO()
    lines = Lines(Console(file=text, width=80))
    lines.stage("reading", 100)
    for seconds, position in ((105.0, 10), (110.0, 25), (115.0, 30)):
        now[0] = seconds
        lines.advance(position)
    assert text.getvalue() == "reading ...\nreading: 25 %, 30 s left\n"


def test_a_terminal_gets_a_bar_others_lines():
    text = io.StringIO()
    with progress_on(Console(file=text, force_terminal=True, width=80)) as report:
        report.stage("reading", 2)
        report.advance(1)
    assert "reading" in text.getvalue()
    assert "100%" in text.getvalue()
    with progress_on(Console(file=io.StringIO())) as report:
        assert isinstance(report, Lines)
