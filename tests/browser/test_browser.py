"""The report in a real Chromium, opened from disk: silent, offline, sortable, and deaf to hostile texts.

``make test-browser`` installs Chromium; CHROMIUM names another than the system's. Screenshots stay in the
test's temporary folder (``pytest --basetemp=build/screenshots`` keeps them in the tree).
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from records import NO_PRICES
from report_folder import make_hostile, make_sweep, write_results

from bench.report.page.page import PAGE, write_report

pytestmark = pytest.mark.browser
WIDTHS = (1280, 390)


class Watched:
    """A page and all that it said and asked for."""

    def __init__(self, page: Page, path: Path) -> None:
        self.page = page
        self.said: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("dialog", lambda dialog: self.said.append(f"dialog: {dialog.message}"))
        page.goto(path.as_uri())
        self.wait_for("en")

    def wait_for(self, lang: str) -> None:
        """Until all charts of the language are drawn."""
        self.page.wait_for_function(f"document.documentElement.dataset.drawn === '{lang}'")

    def column(self, number: int) -> list[str]:
        """The cells of the runs' table that are shown, in order."""
        return self.page.eval_on_selector_all(
            "#all-runs tbody tr:not([hidden])", f"rows => rows.map(row => row.cells[{number}].innerText)"
        )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert path, "no Chromium: make test-browser installs it"
    with sync_playwright() as playwright:
        # root in a container has no user namespaces for the sandbox
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for name, runs in (("sweep", make_sweep()), ("hostile", make_hostile()), ("none", [])):
        store = write_results(tmp_path_factory.mktemp(name), runs)
        write_report(store, lang="en", report=NO_PRICES)
        folders[name] = store.folder / PAGE
    return folders


@pytest.fixture
def sweep(browser: Browser, reports: dict[str, Path]) -> Iterator[Watched]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    yield Watched(page, reports["sweep"])
    page.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["sweep", "hostile", "none"])
def test_the_page_is_silent_offline_and_fits(
    browser: Browser, reports: dict[str, Path], tmp_path: Path, name: str, width: int
):
    page = browser.new_page(viewport={"width": width, "height": 900})
    watched = Watched(page, reports[name])
    for lang in ("en", "zh"):
        page.click(f"[data-to={lang}]")
        watched.wait_for(lang)
        page.screenshot(path=tmp_path / f"{name}-{width}-{lang}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        empty = page.eval_on_selector_all(
            f".chart[data-lang={lang}]", "all => all.filter(one => !one.querySelector('svg'))"
        )
        assert empty == []
    assert watched.said == []
    assert watched.asked == [reports[name].as_uri()]
    assert page.evaluate("window.pwned") is None
    page.close()


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_answer_the_table_and_the_plot_are_seen_first(sweep: Watched, lang: str):
    """On one screen of a laptop, side by side, with the legend over the plot's marks."""
    sweep.page.click(f"[data-to={lang}]")
    sweep.wait_for(lang)
    shown = f"#methods .say[lang={lang}]"
    answer, table, plot = (
        sweep.page.locator(f"{shown} {one}").bounding_box()
        for one in (".strong", ".cards table", ".pareto .chart svg")
    )
    assert answer is not None
    assert table is not None
    assert plot is not None
    assert answer["y"] + answer["height"] <= table["y"]
    assert table["x"] + table["width"] <= plot["x"]
    assert table["y"] < 400
    assert plot["y"] + plot["height"] < 900
    cut = sweep.page.locator(f"{shown} .cards").evaluate("one => one.scrollWidth - one.clientWidth")
    assert cut == 0  # nothing of the table is hidden
    legend, marks = (
        sweep.page.locator(f"{shown} .pareto svg {one}").first.bounding_box()
        for one in (".role-legend", ".mark-symbol.role-mark")
    )
    assert legend is not None
    assert marks is not None
    assert legend["y"] + legend["height"] <= marks["y"]


def test_on_a_phone_each_method_is_a_card_with_all_of_its_numbers(browser: Browser, reports: dict[str, Path]):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    Watched(page, reports["sweep"])
    cards = page.locator("#methods .say[lang=en] .cards tbody tr")
    boxes = [one.bounding_box() for one in cards.all()]
    assert len(boxes) == 6
    assert all(box and box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in boxes)
    full = cards.filter(has_text="Full fine-tuning")
    assert full.inner_text().split("\n")[:2] == ["Full fine-tuning", "lr=5e-5"]
    named = full.locator("td").evaluate_all(
        "all => all.map(one => [getComputedStyle(one, '::before').content, one.innerText])"
    )
    assert named[0] == ['"Peak memory (GiB, CPU resident)"', "2.00"]
    assert dict(named)['"Accuracy (95 % interval)"'].split() == ["87.8", "%", "85.7–89.5", "%"]
    page.close()


def test_the_language_switches_and_switches_back(sweep: Watched):
    for lang, title, status in (
        ("zh", "微调对比报告", "全部状态"),
        ("en", "Fine-tuning report", "every status"),
    ):
        sweep.page.click(f"[data-to={lang}]")
        sweep.wait_for(lang)
        assert sweep.page.title() == sweep.page.inner_text("h1:visible") == title
        assert sweep.page.locator("html").get_attribute("lang") == lang
        assert sweep.page.locator("#status option").first.inner_text() == status
        pressed = sweep.page.locator("[data-to][aria-pressed=true]")
        assert pressed.get_attribute("data-to") == lang
        description = sweep.page.locator("#methods .chart:visible").first.get_attribute("aria-label")
        assert description is not None
        assert ("显存占用" in description) == (lang == "zh")


def test_a_column_sorts_both_ways_by_number_with_the_unknown_last(sweep: Watched):
    for number, name in ((3, "Accuracy"), (6, "Train")):
        heading = sweep.page.locator("#all-runs th").nth(number)
        assert name in heading.inner_text()
        for way in ("ascending", "descending"):
            heading.locator("button").press("Enter")
            assert heading.get_attribute("aria-sort") == way
            cells = sweep.column(number)
            known = [float(cell) for cell in cells if cell != "–"]
            assert known == sorted(known, reverse=way == "descending")
            assert len(known) > 10
            assert cells[len(known) :] == ["–"] * (len(cells) - len(known)) != []
    assert len(sweep.page.query_selector_all("#all-runs th[aria-sort=descending]")) == 1


def test_the_runs_can_be_filtered(sweep: Watched):
    everything = sweep.column(0)
    sweep.page.select_option("#method", "QLoRA")
    assert set(sweep.column(2)) == {"QLoRA"}
    sweep.page.select_option("#status", "diverged")
    assert sweep.column(1) == ["diverged"]
    assert sweep.page.inner_text("output:visible").strip() == f"1 of {len(everything)} runs"
    sweep.page.select_option("#status", "")
    sweep.page.select_option("#method", "")
    sweep.page.fill("#find", everything[3].upper())
    assert sweep.column(0) == [everything[3]]
    sweep.page.fill("#find", "no such run")
    assert sweep.column(0) == []
    sweep.page.fill("#find", "")
    assert sweep.column(0) == everything


def test_a_mark_has_a_tooltip(browser: Browser, reports: dict[str, Path], sweep: Watched):
    assert "Full fine-tuning" in show_tooltip(sweep.page, "#methods", "[aria-label*='Full fine-tuning']")
    assert "87.8" in sweep.page.inner_text("#vg-tooltip-element")
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    hostile = Watched(page, reports["hostile"])
    assert "<script>window.pwned=1</script>" in show_tooltip(page, "#answers")
    assert (
        page.evaluate("document.querySelector('#vg-tooltip-element img, #vg-tooltip-element script')") is None
    )
    assert (page.evaluate("window.pwned"), hostile.said) == (None, [])
    page.close()


def show_tooltip(page: Page, section: str, which: str = "") -> str:
    """What the tooltip of the last such mark of the section's first chart says."""
    chart = page.locator(f"{section} .say[lang=en] .chart svg").first
    mark = chart.locator(f".mark-symbol.role-mark path{which}").last
    mark.scroll_into_view_if_needed()
    mark.hover(force=True)
    page.wait_for_selector("#vg-tooltip-element.visible")
    return page.inner_text("#vg-tooltip-element")


def test_the_page_can_be_used_by_keyboard_and_read_without_its_script(
    browser: Browser, reports: dict[str, Path]
):
    page = browser.new_page(java_script_enabled=False)
    page.goto(reports["sweep"].as_uri())
    page.keyboard.press("Tab")
    assert page.locator(":focus").get_attribute("class") == "skip"
    assert page.locator("h1:visible").all_inner_texts() == ["Fine-tuning report"]
    assert page.locator("#methods table:visible").count() == 1
    page.close()


def test_the_page_prints(sweep: Watched, tmp_path: Path):
    sweep.page.emulate_media(media="print")
    sweep.page.set_viewport_size({"width": 760, "height": 900})  # A4 without its margins
    sweep.page.wait_for_function("document.querySelector('#methods svg').clientWidth <= 760")
    assert sweep.page.evaluate("document.documentElement.scrollWidth") == 760
    assert not sweep.page.locator(".switch").is_visible()
    assert sweep.page.locator("#methods svg:visible").count() == 1
    printed: Any = sweep.page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert printed.startswith(b"%PDF")
