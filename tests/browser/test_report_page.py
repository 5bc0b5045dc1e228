"""The report as a person sees it: opened from the disk, offline, in Chromium; screenshots in .onecopy/screenshots."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.module_utils.onecopy.analysis import reporting
from playwright.sync_api import Browser, Page, sync_playwright

PROJECT = Path(__file__).resolve().parents[2]
GOLDEN = PROJECT / "tests/golden/invented"
SCREENSHOTS = PROJECT / ".onecopy/screenshots"
CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
OPEN_ALL = "document.querySelectorAll('details').forEach(details => { details.open = true })"
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
BEYOND = """() => [...document.querySelectorAll('body *')]
    .filter(element => !element.closest('.table') && element.getBoundingClientRect().right > innerWidth + 1)
    .map(element => element.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    for name in ("plan.json", "manifest.json", "results.jsonl"):
        shutil.copy(GOLDEN / name, directory)
    made = reporting.make(directory, PROJECT / "experiments/claims.yml", PROJECT / "roles/report/templates")
    reporting.store(made)
    return directory / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.skip(f"{CHROMIUM} is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(
    params=[(1280, "light"), (1280, "dark"), (420, "light"), (420, "dark")], ids=lambda case: f"{case[0]}-{case[1]}"
)
def page(request: pytest.FixtureRequest, browser: Browser, report: Path) -> Iterator[Page]:
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith(("file:", "data:")) else complaints.append(asked.url))
    page.goto(report.as_uri())
    yield page
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"report-{width}-{scheme}.png", full_page=True)
    context.close()
    assert complaints == []


def test_nothing_overflows_closed_or_open(page: Page) -> None:
    for prepare in ("", OPEN_ALL):
        page.evaluate(prepare)
        assert page.evaluate(OVERFLOW) <= 0
        assert page.evaluate(BEYOND) == []


def test_every_figure_is_seen_and_has_ink(page: Page) -> None:
    figures = page.locator("figure svg")
    assert figures.count() == 2 + 2 * 2
    for figure in figures.all():
        box = figure.bounding_box()
        assert box is not None
        assert box["width"] > 300
        assert box["height"] > 100
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    fills = page.evaluate("[...document.querySelectorAll('figure text')].map(text => getComputedStyle(text).fill)")
    assert len(fills) > 50
    assert paper not in fills
    assert "rgb(0, 0, 0)" not in fills
    smallest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('figure text')].map(text => text.getBoundingClientRect().height))"
    )
    assert smallest >= 9


def test_labels_do_not_run_into_bars(page: Page) -> None:
    ends = page.evaluate("""() => [...document.querySelectorAll('figure svg')].map(svg => {
        const labels = [...svg.querySelectorAll('text[text-anchor=end]')].map(text => text.getBoundingClientRect())
        const bars = [...svg.querySelectorAll('path')].map(path => path.getBoundingClientRect().left)
        return [Math.min(...labels.map(box => box.left)) - svg.getBoundingClientRect().left,
                Math.min(...bars) - Math.max(...labels.map(box => box.right))]
    })""")
    for room_left, gap in ends:
        assert room_left >= 0
        assert gap >= 1


def test_text_can_be_read_on_its_paper(page: Page) -> None:
    contrasts = page.evaluate("""() => {
        const rgb = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number)
        const light = text => rgb(text).map(part => part / 255)
            .map(part => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
            .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0)
        const behind = element => {
            const colour = getComputedStyle(element).backgroundColor
            return colour === 'rgba(0, 0, 0, 0)' && element.parentElement ? behind(element.parentElement) : colour
        }
        const texts = document.querySelectorAll('p, td, th, dt, dd, h1, h2, h3, small, summary, a')
        return [...texts].map(element => {
            const [one, other] = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => b - a)
            return [(one + 0.05) / (other + 0.05), element.outerHTML.slice(0, 60)]
        })
    }""")
    assert [text for ratio, text in contrasts if ratio < 4.5] == []


def test_the_head_of_a_long_table_stays(page: Page) -> None:
    page.evaluate(OPEN_ALL)
    table = page.locator("#io-path table").last
    wide = page.viewport_size is not None and page.viewport_size["width"] > 960
    table.evaluate("""table => {
        table.closest('.table').scrollTop = 200
        scrollTo(0, scrollY + table.getBoundingClientRect().top + 150)
    }""")
    top = table.locator("th").first.bounding_box()
    row = table.locator("tbody tr").first.bounding_box()
    assert top is not None
    assert row is not None
    assert top["y"] > row["y"]
    assert top["y"] == pytest.approx(0, abs=1) or not wide


def test_a_browser_that_sees_an_overflow_says_so(page: Page) -> None:
    """The negative control of the tests above."""
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<div style=\"width: 3000px\">wide</div>')")
    assert page.evaluate(OVERFLOW) > 0
    assert page.evaluate(BEYOND) != []
    page.evaluate("document.body.lastElementChild.remove()")
