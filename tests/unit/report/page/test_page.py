"""report.html and figures/: what they hold, that they need nothing else, and that no text does anything."""

import base64
import dataclasses
import hashlib
import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from records import NO_PRICES, make_predictions, make_run
from report_folder import GIB, HOSTILE, make_hostile, make_sweep, write_results

from bench.report.language.text import LANGUAGES
from bench.report.numbers.evidence import gather
from bench.report.page.details import gather_details
from bench.report.page.figures import draw_all
from bench.report.page.page import render_page, write_report
from bench.results.store import Result, Store

TAGS = {
    *("html", "head", "meta", "title", "style", "script", "body", "header", "nav", "main", "section"),
    *("h1", "h2", "h3", "p", "ul", "li", "a", "div", "span", "strong", "code"),
    *("figure", "figcaption", "details", "summary", "table", "thead", "tbody", "tr", "th", "td"),
    *("button", "label", "input", "select", "option", "output"),
    *("small", "svg", "line", "path", "rect", "text"),
}
VOID = {"meta", "input"}


class Page(HTMLParser):
    """The page as a browser without scripts would see it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.style = ""
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            attributes, body = self.scripts.pop()
            self.scripts.append((attributes, body + data))
        elif self.open[-1:] == ["style"]:
            self.style += data
        elif data.strip():
            self.words.append(" ".join(data.split()))

    @property
    def charts(self) -> dict[str, Any]:
        body = next(body for attributes, body in self.scripts if attributes.get("type") == "application/json")
        found: dict[str, Any] = json.loads(body)
        return found

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def rows_of(self, chart: str) -> list[dict[str, Any]]:
        return [
            row for name in self.charts["specs"]["en"][chart]["datasets"] for row in self.charts["data"][name]
        ]


def render(store: Store, *, lang: str = "en") -> str:
    """The page alone, without its figures as files."""
    evidence = gather(store, NO_PRICES)
    details = gather_details(evidence, store)
    drawn = {code: draw_all(evidence, details, text=text) for code, text in LANGUAGES.items()}
    return render_page(evidence, details, drawn, lang=lang)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, list[Path]]:
    store = write_results(tmp_path_factory.mktemp("report"), make_sweep())
    (store.folder / "figures").mkdir()
    for name in ("old.svg", "notes.txt"):
        (store.folder / "figures" / name).write_text("of before")
    return store, write_report(store, lang="en", report=NO_PRICES)


@pytest.fixture(scope="module")
def text(written: tuple[Store, list[Path]]) -> str:
    return (written[0].folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    return render(write_results(tmp_path_factory.mktemp("hostile"), make_hostile()))


def test_the_page_needs_nothing_else(page: Page, text: str):
    assert len(text.encode()) < 2_000_000
    addresses = [
        value for _, found in page.tags for name, value in found.items() if name in ("href", "src", "action")
    ]
    assert {str(one)[:5] for one in addresses} <= {
        "runs/",
        *(str(one)[:5] for one in addresses if str(one)[0] == "#"),
    }
    assert not re.search(r"url\(|@import", page.style)
    assert {tag for tag, _ in page.tags} <= TAGS


def test_only_the_pages_own_scripts_may_run(page: Page, hostile: str):
    for one in (page, Page(hostile)):
        policy = next(
            found for found in one.named("meta") if found.get("http-equiv") == "Content-Security-Policy"
        )
        rules = dict(rule.split(" ", 1) for rule in str(policy["content"]).split("; "))
        assert rules["default-src"] == "'none'"
        hashes = [
            f"'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'"
            for attributes, body in one.scripts
            if "type" not in attributes
        ]
        assert sorted(rules["script-src"].split()) == sorted(hashes)
        assert "unsafe" not in str(policy["content"])


def test_hostile_texts_are_text(hostile: str):
    page = Page(hostile)
    assert {tag for tag, _ in page.tags} <= TAGS
    names = {name for _, found in page.tags for name in found}
    assert not [name for name in names if name.startswith("on") or name == "style"]
    assert not [
        found["href"] for found in page.named("a") if not str(found["href"]).startswith(("#", "runs/"))
    ]
    assert sum(HOSTILE in words for words in page.words) > 20
    assert "<" not in next(body for found, body in page.scripts if "type" in found)
    assert "{{7*7}}" in hostile
    assert HOSTILE in json.dumps(page.charts, ensure_ascii=False).replace('\\"', '"')


def test_the_same_results_give_the_same_bytes(written: tuple[Store, list[Path]], tmp_path: Path):
    store, paths = written
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_report(store, lang="en", report=NO_PRICES)] == before
    runs = make_sweep()
    random.Random(1).shuffle(runs)
    again = write_results(tmp_path / "elsewhere", runs)
    assert render(again).encode() == (store.folder / "report.html").read_bytes()


def test_the_figures_are_files_that_table_md_shows(written: tuple[Store, list[Path]]):
    store, paths = written
    names = {path.relative_to(store.folder).as_posix() for path in paths}
    shown = re.findall(
        r"^!\[.+\]\((.+)\)$", (store.folder / "table.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {
        "figures/pareto.png",
        "figures/heatmap-lora.png",
        "figures/effect-lr.png",
        "figures/loss.png",
    } <= set(shown)
    assert set(shown) == {name for name in names if name.endswith(".png")}
    for name in shown:
        assert (store.folder / name).read_bytes().startswith(b"\x89PNG")
        assert (store.folder / name).with_suffix(".svg").read_text(encoding="utf-8").startswith("<svg")
    left = {path.name for path in (store.folder / "figures").iterdir()} - {Path(name).name for name in names}
    assert left == {"notes.txt"}  # a figure that is not made any more is removed


def test_table_md_and_the_page_open_with_the_answer_the_table_and_its_figure(
    written: tuple[Store, list[Path]], text: str
):
    markdown = (written[0].folder / "table.md").read_text(encoding="utf-8")
    opening = [line for line in markdown.splitlines() if line][:17]
    assert [opening[0][:3], opening[1][:2], opening[2][:8]] == ["## ", "**", "| Method"]
    rest = [line for line in opening[3:] if not line.startswith("|")]
    assert rest[0] == "![Peak memory against accuracy](figures/pareto.png)"
    assert rest[1] == "- ¹ LoRA: lr=0.003 and r=16 are the largest tried; the best may lie beyond."
    assert [line[:10] for line in rest[2:5]] == ["- ² QLoRA:", "- ³ DoRA: ", "## Key fin"]
    assert markdown.count("figures/pareto.png") == 1
    order = ['class="strong"', "<table>", 'data-chart="pareto"', "³ DoRA", 'id="findings"', 'class="bar']
    places = [text.index(one, text.index("<main>")) for one in order]
    assert places == sorted(places)


def test_every_figure_has_its_words_and_numbers(page: Page, text: str):
    drawn = [found for found in page.named("div") if "data-chart" in found]
    for code in LANGUAGES:
        specs = page.charts["specs"][code]
        assert [found["data-chart"] for found in drawn if found["data-lang"] == code] == sorted(
            specs, key=[found["data-chart"] for found in drawn].index
        )
        assert all(len(spec["description"]) > 20 for spec in specs.values())
    figures = re.findall(r"<figure.*?</figure>", text, re.DOTALL)
    assert len(figures) == len(drawn)
    assert all("<figcaption>" in one and "<summary>" in one and "<td>" in one for one in figures)


def test_a_method_that_never_fitted_stands_at_the_edge(page: Page):
    rows = {row["title"]: row for row in page.rows_of("pareto") if row["kind"] != "front"}
    assert rows["DoRA"]["kind"] == rows["Majority class"]["kind"] == "edge"
    assert rows["DoRA"]["label"] == "DoRA: out of memory"
    assert rows["Majority class"]["label"] == "Majority class: 25.0 %"
    assert (rows["Majority class"]["memory"], rows["Full fine-tuning"]["memory"]) == (0.5, 2.0)
    lora = rows["LoRA"]
    assert (lora["kind"], lora["memory"], lora["seconds"]) == ("point", 1.0, 12.34)
    assert lora["accuracy"] == pytest.approx(100 * (0.87 + 2 * 0.865) / 3, abs=1e-3)
    assert lora["low"] < lora["accuracy"] < lora["high"]
    front = [row["title"] for row in page.rows_of("pareto") if row["kind"] == "front"]
    assert front == ["TF-IDF", "QLoRA", "Full fine-tuning"]  # LoRA needs more memory than QLoRA for less


def test_a_number_that_is_unknown_is_shown_as_unknown(tmp_path: Path):
    packed = make_run("lora", peak=None, train_seconds=None, reasons={"memory.train": "packed with 3 others"})
    page = Page(render(write_results(tmp_path, [packed, make_run("full", test=0.87)])))
    row = next(row for row in page.rows_of("pareto") if row["title"] == "LoRA")
    assert (row["kind"], row["label"], row["accuracy"]) == ("edge", "LoRA: 88.5 %", 88.5)
    assert "LoRA: Peak memory (GiB) is unknown (packed with 3 others)." in " ".join(page.words)


def test_heatmaps_and_effects_have_the_validation_scores(page: Page):
    cells = {(row["lr"], row["r"], row["alpha"]): row["score"] for row in page.rows_of("heatmap-lora")}
    assert cells == {
        ("0.001", "8", "16"): pytest.approx(80.9),
        ("0.001", "16", "16"): pytest.approx(81.7),
        ("0.003", "8", "16"): pytest.approx(81.1),
        ("0.003", "16", "16"): pytest.approx(81.9),
    }
    effects = [(row["title"], row["value"], row["score"]) for row in page.rows_of("effect-r")]
    assert ("QLoRA", "16", pytest.approx(82.9)) in effects
    assert {value for _, value, _ in effects} == {"8", "16"}  # 32 diverged
    assert set(page.charts["specs"]["en"]) >= {"effect-r", "effect-lr", "heatmap-lora", "heatmap-qlora"}


def test_of_many_labels_those_with_the_most_errors_are_drawn(tmp_path: Path):
    run = dataclasses.replace(make_run("lora", test=0.5), labels=[f"label {place:02}" for place in range(30)])
    page = Page(render(write_results(tmp_path, [run])))
    answers = make_predictions(run)
    wrong = answers[answers["label"] != answers["prediction"]]
    errors = pd.concat([wrong["label"], wrong["prediction"]]).value_counts()
    most = sorted(run.labels, key=lambda label: (-errors.get(label, 0), label))[:20]
    assert {row["label"] for row in page.rows_of("confusion-lora")} == set(most)
    assert "Of 30 labels, the 20 with the most errors are drawn." in " ".join(page.words)


def test_curves_are_of_the_chosen_runs_alone(page: Page):
    runs = {(row["title"], row["run"]) for row in page.rows_of("loss")}
    assert [sum(title == one for title, _ in runs) for one in ("Full fine-tuning", "LoRA", "QLoRA")] == [
        3,
        3,
        1,
    ]
    last = [row["value"] for row in page.rows_of("validation") if row["step"] == 300]
    assert last == [pytest.approx(90.0)] * 7


def test_every_run_is_in_the_table_with_a_link_and_what_it_sorts_by(text: str):
    table = text[text.index('id="all-runs"') :]
    for run in make_sweep():
        assert f'href="runs/{run.run_id}/"' in table
    assert len(re.findall(r"<tr data-status=", table)) == len(make_sweep())
    assert '<td data-value="3e-05">' not in table
    assert '<td data-value="0.8775">87.8</td>' in table
    assert "CUDA out of memory" in text
    assert "loss is nan at step 12" in text


def test_both_languages_are_complete(text: str):
    part = r'<div class="say" lang="{}">\n<h2.*?(?=<div class="say"|</section>)'
    shown = {code: re.findall(part.format(code), text, re.DOTALL) for code in LANGUAGES}
    assert len(shown["en"]) == len(shown["zh"]) > 8
    assert not re.search(r"[\u4e00-\u9fff]", "".join(shown["en"]))
    assert all(re.search(r"[\u4e00-\u9fff]", one) for one in shown["zh"])


@pytest.mark.parametrize("code", LANGUAGES)
def test_the_page_opens_in_the_language_that_was_asked_for(tmp_path: Path, code: str):
    page = Page(render(write_results(tmp_path, [make_run()]), lang=code))
    assert page.tags[0] == ("html", {"lang": code})
    assert [found["aria-pressed"] for found in page.named("button") if found.get("data-to") == code] == [
        "true"
    ]


def test_no_runs_no_figures_and_still_a_page(tmp_path: Path):
    store = write_results(tmp_path, [])
    paths = write_report(store, lang="en", report=NO_PRICES)
    assert {path.name for path in paths} == {
        "table.csv",
        "table.md",
        "runs.csv",
        "comparisons.csv",
        "report.html",
    }
    page = Page(paths[-1].read_text(encoding="utf-8"))
    assert "No runs yet:" in page.words
    assert page.charts["data"] == {}


def test_a_run_whose_files_are_gone_is_named(tmp_path: Path):
    store = write_results(tmp_path, [make_run("lora"), make_run("full")])
    lost = make_run("full").run_id
    (store.run_folder(lost) / "predictions.csv").unlink()
    (store.run_folder(lost) / "history.jsonl").write_text("no json\n")
    words = " ".join(Page(render(store)).words)
    assert f"Full fine-tuning: runs/{lost}/predictions.csv: No such file or directory" in words
    assert f"Full fine-tuning: runs/{lost}/history.jsonl: Expecting value" in words


def test_how_verdicts_are_computed_is_a_link_only_where_the_page_is_there(tmp_path: Path):
    store = write_results(tmp_path / "results" / "mine", [make_run("lora"), make_run("full", test=0.87)])
    address = "../../docs/statistics.md"
    assert address not in [found.get("href") for found in Page(render(store)).named("a")]
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "statistics.md").write_text("# Statistics\n")
    assert address in [found.get("href") for found in Page(render(store)).named("a")]


def test_predictions_are_held_against_measurements(tmp_path: Path):
    runs = [
        with_prediction(
            make_run("lora", kind="cuda", peak=10 * GIB, r=r), predicted=r * GIB, measured=10 * GIB
        )
        for r in (8, 16)
    ]
    page = Page(render(write_results(tmp_path, runs)))
    points = {row["predicted"]: row for row in page.rows_of("predicted") if row["kind"] == "point"}
    assert {one: points[one]["error"] for one in points} == {8.0: "-20.0 %", 16.0: "+60.0 %"}
    assert {row["measured"] for row in points.values()} == {10.0}


def with_prediction(run: Result, *, predicted: int, measured: int) -> Result:
    block = {
        "predicted_peak_bytes": predicted,
        "measured_peak_bytes": measured,
        "error": predicted / measured - 1,
    }
    return dataclasses.replace(run, prediction=block)


@pytest.mark.slow
def test_hundreds_of_runs_are_one_page(tmp_path: Path):
    runs = [
        make_run(m, r=r, lr=lr, seed=s)
        for m in ("lora", "qlora")
        for r in range(1, 31)
        for lr in (1e-4, 1e-3)
        for s in range(3)
    ]
    text = render(write_results(tmp_path, runs))
    assert len(re.findall("<tr data-status=", text)) == len(runs) == 360
    assert len(text.encode()) < 2_000_000
