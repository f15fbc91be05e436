"""The playground's page end to end: a real server, a real browser, answers as the command line gives them."""

import shutil
import threading
from contextlib import contextmanager
from dataclasses import replace

import pytest

from inference.asking.generate import ask_model
from inference.models.load import load_original, load_tuned
from inference.models.published import open_published
from tests.inference.playground.playground_server import TOKEN, serving
from train.generation.settings import GenerationSettings

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

QUESTIONS = ["How do I treat a nosebleed?", "What is the easiest loop knot to tie?"]
MILLISECONDS = 60_000
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def models(smoke_run):
    published = open_published(smoke_run)
    return [load_original(published, published.base), load_tuned(published)]


@pytest.fixture(scope="module")
def browser():
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def opened(browser, address, **context):
    """A page in an empty profile. Errors of its script, and requests to anyone but the server, fail the test."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **context})
    page = context.new_page()
    page.set_default_timeout(MILLISECONDS)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    own = (address.partition("#")[0], "data:")
    page.on("request", lambda request: request.url.startswith(own) or problems.append(request.url))
    page.goto(address)
    yield page
    context.close()
    assert not problems


def choose_length(page, tokens):
    page.click("#open-settings")
    page.locator("#max_new_tokens").fill(str(tokens))
    page.keyboard.press("Escape")


def finished(page, round_number=0):
    """The texts of both answers of a round, once neither is being written any more."""
    answers = page.locator(".round").nth(round_number).locator(".answer")
    for number in range(2):
        playwright.expect(answers.nth(number)).to_have_attribute("aria-busy", "false", timeout=MILLISECONDS)
    return [answers.nth(number).locator(".text").text_content() for number in range(2)]


def test_both_models_answer_side_by_side(models, browser):
    expected = [
        [
            ask_model(loaded, question, GenerationSettings(max_new_tokens=16), stream=False).answer.text
            for loaded in models
        ]
        for question in QUESTIONS
    ]
    with serving(models, QUESTIONS) as address, opened(browser, address) as page:
        choose_length(page, 16)
        page.get_by_text(QUESTIONS[0]).click()
        assert finished(page) == expected[0]
        same = page.locator(".same").first.text_content()
        assert "same " in same
        assert " prompt tokens for both" in same
        left, right = (page.locator(".answer").nth(number).bounding_box() for number in range(2))
        assert left["y"] == right["y"]
        assert left["x"] + left["width"] <= right["x"]
        page.fill("#question", QUESTIONS[1])
        page.keyboard.press("Enter")  # the keyboard alone
        assert finished(page, 1) == expected[1]
        assert page.input_value("#question") == ""
        page.click("#clear")
        assert page.locator(".round").count() == 0
        assert page.locator("#intro").is_visible()


def test_stop_ends_the_writing(models, browser, monkeypatch):
    calls, forward = [], models[1].model.forward

    def slowly(*arguments, **options):
        calls.append(None)
        threading.Event().wait(0.05)
        return forward(*arguments, **options)

    monkeypatch.setattr(models[1].model, "forward", slowly)
    with serving(models, QUESTIONS) as address, opened(browser, address) as page:
        page.fill("#question", QUESTIONS[0])
        page.click("#ask")
        tuned = page.locator(".answer.tuned")
        playwright.expect(tuned.locator(".state")).to_have_text("writing …", timeout=MILLISECONDS)
        page.keyboard.press("Escape")
        playwright.expect(tuned.locator(".state")).to_have_text("stopped")
        playwright.expect(page.locator("#ask-label")).to_have_text("Ask")
        page.wait_for_timeout(500)
        written = len(calls)
        page.wait_for_timeout(500)
        assert len(calls) == written < 200


def test_settings_count_and_are_shown(models, browser):
    with serving(models, QUESTIONS) as address, opened(browser, address) as page:
        choose_length(page, 16)
        page.click("#summary")
        assert page.locator("#temperature").is_disabled()
        page.get_by_text("Sampled").click()
        assert page.locator("#temperature").is_enabled()
        page.fill("#seed", "7")
        page.fill("#system_prompt", "Be brief.")
        assert "Not the prompt it was trained with" in page.text_content("#prompt-note")
        page.get_by_role("button", name="Done").click()
        assert page.text_content("#summary") == (
            "sampled at 0.7, top p 0.9, seed 7, at most 16 tokens, own system prompt"
        )
        page.get_by_text(QUESTIONS[0]).click()
        answers = finished(page)  # before asking in this thread: there is one random state
        settings = GenerationSettings(16, sample=True, seed=7)
        assert answers == [
            ask_model(replace(loaded, system_prompt="Be brief."), QUESTIONS[0], settings, stream=False).answer.text
            for loaded in models
        ]
        page.click("#open-settings")
        page.click("#reset")
        assert page.text_content("#summary") == "greedy, at most 256 tokens"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_reads_well(models, browser, scheme):
    with (
        serving(models, QUESTIONS) as address,
        opened(browser, address, viewport={"width": 390, "height": 844}, color_scheme=scheme) as page,
    ):
        choose_length(page, 16)
        page.get_by_text(QUESTIONS[0]).click()
        finished(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        upper, lower = (page.locator(".answer").nth(number).bounding_box() for number in range(2))
        assert upper["y"] + upper["height"] <= lower["y"]
        for selector in (".text", ".state", ".round h2", ".facts .same", ".answer footer .count", "#summary", "#ask"):
            assert contrast(page, selector) >= 4.5, (scheme, selector)
        other = {"light": "dark", "dark": "light"}[scheme]
        page.click("#theme")
        page.reload()
        assert page.evaluate("document.documentElement.dataset.theme") == other


def contrast(page, selector):
    """WCAG's contrast ratio of an element's text and what is painted behind it."""
    return page.locator(selector).first.evaluate(
        """(node) => {
            const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
            const luminance = ([r, g, b]) => [r, g, b].map((v) => v / 255)
                .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
                .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
            const style = getComputedStyle(node);
            let behind = node;
            while (channels(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
            const [light, dark] = [luminance(channels(style.color)),
                luminance(channels(getComputedStyle(behind).backgroundColor))].sort((a, b) => b - a);
            return (light + 0.05) / (dark + 0.05);
        }"""
    )


def test_every_control_has_a_name_and_the_keyboard_reaches_it(models, browser):
    with serving(models, QUESTIONS) as address, opened(browser, address) as page:
        page.wait_for_selector(".sample")
        nameless = page.evaluate(
            """() => [...document.querySelectorAll("button, input, textarea")]
                .filter((node) => !node.labels?.length && !node.ariaLabel && !node.textContent.trim())
                .map((node) => node.outerHTML)"""
        )
        assert nameless == []
        seen = set()
        for _ in range(12):
            page.keyboard.press("Tab")
            seen.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
        assert {"open-settings", "theme", "sample", "question", "summary"} <= seen


def test_copy_gives_the_answer(models, browser):
    with (
        serving(models, QUESTIONS) as address,
        opened(browser, address, permissions=["clipboard-read", "clipboard-write"]) as page,
    ):
        choose_length(page, 16)
        page.get_by_text(QUESTIONS[0]).click()
        answers = finished(page)
        button = page.locator(".answer.tuned .copy")
        button.click()
        playwright.expect(button).to_have_text("Copied")
        assert page.evaluate("navigator.clipboard.readText()") == answers[1] != ""


def test_a_locked_playground_asks_for_its_token(models, browser):
    with serving(models, QUESTIONS, TOKEN) as address:
        with opened(browser, address) as page:
            page.fill("#token", "wrong")
            page.keyboard.press("Enter")
            playwright.expect(page.locator("#gate-problem")).to_have_text("That is not the token.")
            page.fill("#token", TOKEN)
            page.keyboard.press("Enter")
            page.wait_for_selector(".sample")
        with opened(browser, f"{address}#token={TOKEN}") as page:
            page.wait_for_selector(".sample")
            assert TOKEN not in page.url
