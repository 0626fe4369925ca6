"""The pages in a real browser: Chromium without a window, driven by Playwright, and axe's rules of accessibility.

Chromium is the system's (Debian's package ``chromium``); where it or Playwright is absent, these tests are skipped.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from specimen import HOSTILE, SECTIONS, crops, hostile, specimen

from compressor.report.html import render_comparison, render_html

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
WIDTHS = (1280, 390)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("Chromium is not installed: apt install chromium")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The file of a page by its name, rendered once."""
    folder = tmp_path_factory.mktemp("pages")

    def file(name: str) -> Path:
        place = folder / f"{name}.html"
        if not place.exists():
            other = specimen(shown=0) | {"passes": [], "stages": []}
            text = {
                "report": lambda: render_html(specimen()),
                "crops": lambda: render_html(other | {"samples": crops(3)}),
                "hostile": lambda: render_html(hostile(specimen(shown=4), HOSTILE)),
                "comparison": lambda: render_comparison([("first", specimen()), ("second", other)]),
            }[name]()
            place.write_text(text, encoding="utf-8")
        return place

    return file


class Seen:
    """What a page did that it should not."""

    def __init__(self, page: Any) -> None:
        self.told: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.told.append(message.text))
        page.on("pageerror", lambda error: self.told.append(str(error)))
        page.on("dialog", lambda dialog: (self.told.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: self.requests.append(request.url))


@contextmanager
def shown(browser: Any, file: Path, width: int = 1280, scheme: str = "light") -> Iterator[tuple[Any, Seen]]:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    seen = Seen(page)
    page.goto(file.as_uri())
    yield page, seen
    context.close()


def test_every_section_is_there_and_nothing_is_fetched(browser: Any, pages: Callable[[str], Path]) -> None:
    with shown(browser, pages("report")) as (page, seen):
        assert page.locator("h2").evaluate_all("all => all.map(each => each.id)") == SECTIONS
        assert all(page.locator(f"#{name}").is_visible() for name in SECTIONS)
        assert seen.told == []
        assert [url for url in seen.requests if not url.startswith("data:")] == [pages("report").as_uri()]


def test_every_chart_is_drawn(browser: Any, pages: Callable[[str], Path]) -> None:
    measure = """all => all.map(svg => [svg.getBoundingClientRect().width, svg.querySelectorAll("path, use").length,
                 [...svg.querySelectorAll("text")].map(t => t.getBoundingClientRect().height)])"""
    with shown(browser, pages("report"), width=390) as (page, _):
        charts = page.locator("svg").evaluate_all(measure)
    assert len(charts) == 10
    for width, shapes, letters in charts:
        assert width > 300
        assert shapes > 5
        assert min(letters) >= 9  # pixels: they can be read on a phone


def test_pictures_are_decoded(browser: Any, pages: Callable[[str], Path]) -> None:
    for name, count in (("report", 24), ("crops", 12)):
        with shown(browser, pages(name)) as (page, _):
            widths = page.locator("img").evaluate_all("all => all.map(image => image.naturalWidth)")
        assert len(widths) == count
        assert min(widths) >= 24


@pytest.mark.slow
@pytest.mark.parametrize("name", ["report", "crops", "comparison", "hostile"])
@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_is_wider_than_its_window(name: str, width: int, browser: Any, pages: Callable[[str], Path]) -> None:
    with shown(browser, pages(name), width) as (page, _):
        page.add_style_tag(content="* { content-visibility: visible !important }")
        page.locator("details").evaluate_all("all => all.forEach(each => each.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_light_and_dark(browser: Any, pages: Callable[[str], Path]) -> None:
    colours = {}
    for scheme in ("light", "dark"):
        with shown(browser, pages("report"), scheme=scheme) as (page, _):
            colours[scheme] = page.evaluate("[getComputedStyle(document.body).backgroundColor, "
                                            "getComputedStyle(document.querySelector('svg text')).fill]")  # fmt: skip
    assert colours["light"][0] == "rgb(255, 255, 255)"
    assert len({*colours["light"], *colours["dark"]}) == 4


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["report", "crops", "comparison"])
def test_axe_finds_nothing(name: str, scheme: str, browser: Any, pages: Callable[[str], Path]) -> None:
    with shown(browser, pages(name), 390 if scheme == "dark" else 1280, scheme) as (page, _):
        page.locator("details").evaluate_all("all => all.forEach(each => each.open = true)")
        found = axe.Axe().run(page).response
    told = [f"{rule['id']}: {node['html'][:200]}" for rule in found["violations"] for node in rule["nodes"]]
    assert told == []
    assert len(found["passes"]) > 15


@pytest.mark.slow
def test_the_keyboard_reaches_everything(browser: Any, pages: Callable[[str], Path]) -> None:
    what = "document.activeElement.tagName + ' ' + (document.activeElement.getAttribute('href') || '')"
    with shown(browser, pages("report")) as (page, _):
        wanted = page.locator("a, summary, [tabindex='0']").count() - page.locator("details [tabindex='0']").count()
        met = []
        page.keyboard.press("Tab")
        while (here := page.evaluate(what)) != "BODY ":
            met.append(here)
            page.keyboard.press("Tab")
            assert len(met) < 200
        assert met[0] == "A #summary"
        assert len(met) == wanted
        page.locator("summary").first.focus()
        page.keyboard.press("Enter")
        assert page.locator("details").first.evaluate("each => each.open")
        assert page.locator("details table").first.is_visible()


def test_hostile_words_stay_words(browser: Any, pages: Callable[[str], Path]) -> None:
    counts = "['script', 'iframe', '[onerror]', 'img'].map(each => document.querySelectorAll(each).length)"
    with shown(browser, pages("hostile")) as (page, seen):
        page.wait_for_load_state("load")
        assert page.evaluate(counts) == [0, 0, 0, 0]
        assert seen.told == []
        assert len(seen.requests) == 1
        assert page.locator("h2").evaluate_all("all => all.map(each => each.id)") == SECTIONS
        assert "</style></svg>" in page.title()
