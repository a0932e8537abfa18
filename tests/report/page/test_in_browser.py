"""The page in a real browser: searched, filtered, by keyboard alone, on a narrow screen; and nothing asks a network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builds import small_recipe

import magpie
from magpie.figures.report_figures import report_figures
from magpie.report.page.page import page as html_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytest.importorskip("playwright", reason="Playwright is not installed")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
WAIT = 30_000  # milliseconds, for machines that do much else


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    run = magpie.build(small_recipe(rows=160), out=folder / "small")
    (folder / "report.html").write_text(html_of(report_figures(run, quick=True)))
    return folder / "report.html"


@pytest.fixture
def page(browser: Browser, place: Path) -> Iterator[Page]:
    """The page, opened from its file; in the end it has said nothing on the console and asked for nothing."""
    yield from opened(browser, place, width=1440)


def opened(browser: Browser, place: Path, *, width: int, scheme: str = "light") -> Iterator[Page]:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.set_default_timeout(WAIT)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(place.as_uri())
    page.wait_for_selector("#list > li")
    yield page
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [place.as_uri()]
    context.close()


def count(page: Page) -> int:
    return int((page.text_content("#found") or "0").split()[0].replace("No", "0"))


def test_rows_are_searched_and_filtered_by_two_tags_and_a_rejected_one_says_why(page: Page) -> None:
    every = count(page)
    page.select_option("#by-status", "out")
    out = count(page)
    assert 0 < out < every
    options = page.eval_on_selector_all("#by-difficulty option", "all => all.map(one => one.value)")
    page.select_option("#by-difficulty", options[1])
    assert 0 < count(page) <= out
    page.locator("#list summary").first.click()
    page.locator("#list .reason").wait_for()
    assert (page.text_content("#list .reason") or "").startswith(("filter:", "dedup:"))
    page.click("#clear")
    assert count(page) == every
    page.fill("#search", "no row says this")
    assert count(page) == 0


def test_the_map_changes_its_color_and_lists_rows(page: Page) -> None:
    assert page.get_attribute("#map-canvas", "data-color") == "topic" or page.locator("#map-color").count()
    page.select_option("#map-color", "difficulty")
    assert page.get_attribute("#map-canvas", "data-color") == "difficulty"
    assert "medium" in (page.text_content("#map-legend") or "")
    box = page.locator("#map-canvas").bounding_box()
    assert box is not None
    page.locator("#map-canvas").click(position={"x": box["width"] / 2, "y": box["height"] / 2})
    assert "rows" in (page.text_content("#map-list") or "")


def test_the_keyboard_alone_is_enough(page: Page) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.focus("#map-canvas")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert "rows" in (page.text_content("#map-list") or "")
    page.focus("#search")
    page.keyboard.type("how")
    for _ in range(60):  # past the choices by tag, to the first row
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.localName") == "summary":
            break
    page.keyboard.press("Enter")
    page.locator("#list details[open] .turn").first.wait_for()  # it is filled a moment after it opens
    page.focus("#theme")
    page.keyboard.press("Enter")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


@pytest.mark.parametrize(("width", "scheme"), [(1440, "dark"), (390, "light")])
def test_the_page_is_no_wider_than_its_screen_and_shuts_nobody_out(
    browser: Browser, place: Path, width: int, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed")
    for page in opened(browser, place, width=width, scheme=scheme):
        assert page.evaluate("document.documentElement.scrollWidth") == width
        page.locator("#list summary").first.click()
        # The policy of the page forbids scripts of others, axe-core among them: it comes in by the debugger's door.
        found = axe.Axe().run(page).response["violations"]
        serious = [one for one in found if one["impact"] in {"serious", "critical"}]
        assert [(one["id"], one["nodes"][0]["html"][:200]) for one in serious] == []


def test_hostile_texts_do_nothing(browser: Browser, tmp_path: Path) -> None:
    texts = [
        "<script>document.title = 'taken'</script>", "</script><img src=x onerror=\"document.title = 'taken'\">",
        "[click](javascript:document.title='taken') ![see](https://example.org/a.png)", "</textarea>\x1b[2J\u202eevil",
        "x" * 1_000_000, "```\n<b>code</b>",
    ]  # fmt: skip
    rows = {"id": [f"<i>{at}" for at in range(len(texts))], "instruction": texts, "response": texts[::-1]}
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
    place = tmp_path / "report.html"
    place.write_text(html_of(report_figures(tmp_path / "rows.parquet", quick=True)))
    for page in opened(browser, place, width=390):
        title = page.title()
        for summary in page.locator("#list summary").all():
            summary.click()
        assert page.locator("#list .turn").count() >= len(texts)
        assert page.title() == title
        assert page.locator("#list img, #list script, #list a, #list b").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") == 390
