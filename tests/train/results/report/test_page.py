"""The page at the end of a run: what it says, that it needs nothing from outside, and that it never costs the run."""

import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from data.files import write_json
from train.failure import ConfigError
from train.results.report.page import render_report, write_report, write_report_or_warn
from train.results.run_files import RunFiles
from train.run_folder.run_folder import RunFolder

CHROMIUM = shutil.which("chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]


def text_of(page):
    """What a reader sees."""
    parts = []

    class Reader(HTMLParser):
        hidden = ""

        def handle_starttag(self, tag, attrs):
            self.hidden = tag if tag in ("style", "script") else self.hidden

        def handle_endtag(self, tag):
            self.hidden = "" if tag == self.hidden else self.hidden

        def handle_data(self, data):
            parts.append("" if self.hidden else data)

    Reader().feed(page)
    return " ".join(" ".join(parts).split())


def test_a_run_ends_with_its_report(smoke_run):
    page = (smoke_run / "report.html").read_text(encoding="utf-8")
    summary = json.loads((smoke_run / "training_summary.json").read_text())
    text = text_of(page)
    loss = summary["evaluation_loss"]
    assert f"Validation loss fell from {loss['original']:.4f} to {loss['best']:.4f}" in text
    for part in ("Before and after", "How do I treat a nosebleed?", "Validation loss by topic", "Gradient norm"):
        assert part in text
    for phase in ("training", "publication", "demo"):
        assert phase in text
    assert "optim.epochs 2 recipe smoke.yaml" in text
    assert "distributed.rendezvous_timeout_seconds 900 default" in text
    assert "Restarts" not in text


def test_nothing_is_fetched(finished):
    page = write_report(finished).read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    assert not re.findall(r"""(?:src|href)\s*=|url\(|@import|https?://""", page)


def test_what_the_run_said_is_escaped(finished):
    demo = json.loads(finished.demo.read_text())
    nasty = "<script>alert(1)</script>'\"&"
    demo["responses"][0].update(question=nasty, tuned=nasty)
    write_json(finished.demo, demo)
    history = json.loads(finished.history.read_text())
    for record in history:
        if record["kind"] == "evaluation":
            record["loss_by_topic"] = {nasty: record["loss"]}
    write_json(finished.history, history)
    page = render_report(RunFiles.read(finished))
    assert page.count("<script>") == 1
    assert html.escape(nasty, quote=False).split("'")[0] in page
    assert nasty in html.unescape(page)


def test_an_unfinished_run_has_a_report_too(finished):
    for path in (finished.summary, finished.demo):
        path.unlink()
    history = json.loads(finished.history.read_text())
    write_json(finished.history, [record for record in history if record["step"] <= 2])
    write_json(finished.status, {"phase": "training", "step": 2, "total_steps": 8})
    text = text_of(write_report(finished).read_text(encoding="utf-8"))
    assert "unfinished" in text
    assert "At step 2 of 8" in text
    assert "Before and after" not in text
    finished.history.unlink()
    assert "Not yet measured" in write_report(finished).read_text(encoding="utf-8")


def test_restarts_are_listed_and_marked(finished):
    again = {"at": "2026-11-21T10:06:10+00:00", "first_step": 4, "host": "master-0", "world_size": 1}
    write_json(finished.starts, [*json.loads(finished.starts.read_text()), again])
    page = write_report(finished).read_text(encoding="utf-8")
    assert "Started 2 times" in page
    assert "2026-11-21 10:06 UTC" in page
    assert page.count('class="mark"') == 6


def test_a_report_that_cannot_be_made_costs_a_warning(finished, capsys):
    finished.history.write_text("[{}]")
    write_report_or_warn(finished)
    assert "warning: no report was made: KeyError" in capsys.readouterr().err


def test_what_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no run"):
        write_report(RunFolder(tmp_path))
    (tmp_path / "config.resolved.json").write_text("{half")
    with pytest.raises(ConfigError, match="is not JSON"):
        write_report(RunFolder(tmp_path))


def test_the_command_makes_it_again(run, finished):
    made = run("train", "report", str(finished.root))
    assert made.returncode == 0, made.stderr
    assert Path(made.stdout.strip()) == finished.report
    refused = run("train", "report", str(finished.root / "nowhere"))
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser_nothing_overflows_fails_or_asks_the_network(finished, width):
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    page_file, complaints = write_report(finished), []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.set_default_timeout(120_000)  # a browser that starts on a busy machine
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url) if request.url[:5] != "file:" else None)
        page.goto(page_file.as_uri())
        too_wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        plot = page.locator(".plot").first
        plot.scroll_into_view_if_needed()
        plot.hover()
        tip = page.locator(".tip").first.inner_text()
        browser.close()
    assert too_wide <= 0
    assert complaints == []
    assert tip.startswith("step ")
    assert "training" in tip
