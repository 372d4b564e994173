"""What table.md, table.csv and the report say of probabilities."""

import csv
import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from records import NO_PRICES, make_evidence, make_predictions, make_probabilities, make_run, render_markdown

from bench.report.language.text import LANGUAGES
from bench.report.numbers.calibration import read_run, score_brier
from bench.report.page.charts import Key
from bench.report.page.reliability import draw_reliability
from bench.report.tabulate import EXTRAS, PROBABILITIES, render_csv
from bench.results.confidence import fit_temperature, temper
from bench.results.store import Result

ENGLISH, CHINESE = LANGUAGES["en"], LANGUAGES["zh"]


@pytest.fixture(scope="module")
def results() -> list[Result]:
    """Three seeds of LoRA, one of full fine-tuning, and a baseline."""
    lora = [make_run("lora", seed=seed, test=0.88 + seed / 100) for seed in range(3)]
    return [make_run("tfidf", test=0.745), make_run("full", test=0.9), *lora]


@pytest.fixture(scope="module")
def predictions(results: list[Result]) -> dict[str, pd.DataFrame]:
    return {one.run_id: make_probabilities(one, sureness=2.0) for one in results}


def read_section(markdown: str, title: str) -> str:
    return markdown.partition(f"## {title}\n")[2].partition("\n## ")[0]


def read_lines(section: str) -> dict[str, list[str]]:
    """The cells of each method, those of the section's two tables one after the other."""
    lines: dict[str, list[str]] = {}
    for line in section.splitlines():
        if line.startswith("|"):
            first, *cells = (cell.strip() for cell in line.split("|")[1:-1])
            lines.setdefault(first, []).extend(cells)
    return lines


def test_each_row_has_its_errors_before_and_after_its_temperature(
    results: list[Result], predictions: dict[str, pd.DataFrame]
) -> None:
    evidence = make_evidence(results, predictions=predictions)
    lines = read_lines(read_section(render_markdown(evidence, text=ENGLISH), "Probabilities"))
    assert [*lines] == ["Method", lines_rule(lines), "TF-IDF", "Full fine-tuning", "LoRA"]
    assert lines["Method"] == [
        "ECE (95 % interval)",
        "Brier score (95 % interval)",
        "Temperature",
        "ECE with temperature",
        "Brier score with temperature",
        "Answered at 90 % accuracy (accuracy seen)",
        "Answered at 95 % accuracy (accuracy seen)",
        "Answered at 99 % accuracy (accuracy seen)",
    ]
    runs = [read_run(predictions[one.run_id], one.labels) for one in results[2:]]
    briers = [score_brier(test).mean() for _, test in runs]
    temperatures = [fit_temperature(validation) for validation, _ in runs]
    after = [score_brier(temper(test, by)).mean() for (_, test), by in zip(runs, temperatures, strict=True)]
    assert lines["LoRA"][1].startswith(f"{np.mean(briers):.3f} (")
    assert lines["LoRA"][2] == f"{np.mean(temperatures):.2f}"
    assert lines["LoRA"][4].startswith(f"{np.mean(after):.3f} (")
    assert np.mean(after) < np.mean(briers)


def lines_rule(lines: dict[str, list[str]]) -> str:
    """The line below a table's header."""
    return next(one for one in lines if set(one) <= {"-", ":"})


def test_table_csv_has_them_behind_its_other_columns_and_nothing_without_probabilities(
    results: list[Result], predictions: dict[str, pd.DataFrame]
) -> None:
    without = render_csv(make_evidence(results), text=ENGLISH).splitlines()
    report = replace(NO_PRICES, price_per_hour=1.0)
    for settings in (NO_PRICES, report):
        evidence = make_evidence(results, predictions=predictions, report=settings)
        for text in (ENGLISH, CHINESE):
            header = next(csv.reader(io.StringIO(render_csv(evidence, text=text))))
            names = text.under("csv_columns")
            assert header[-len(PROBABILITIES) :] == [names[name] for name in PROBABILITIES]
    rows = list(
        csv.reader(io.StringIO(render_csv(make_evidence(results, predictions=predictions), text=ENGLISH)))
    )
    assert len(without[0].split(",")) == 10 + len(EXTRAS)
    assert [row[: -len(PROBABILITIES)][-1] for row in rows[1:]] == [
        row[-1] for row in csv.reader(without[1:])
    ]
    cells = dict(zip(PROBABILITIES, rows[3][-len(PROBABILITIES) :], strict=True))
    assert float(cells["ece_low"]) <= float(cells["ece"]) <= float(cells["plain_ece"])
    assert len(cells["temperatures"].split()) == 3
    assert 0 <= float(cells["answered_99"]) <= float(cells["answered_95"]) <= float(cells["answered_90"]) <= 1
    assert float(cells["answered_90_accuracy"]) >= 0.85


def test_predictions_without_probabilities_leave_no_section_or_a_reason(
    results: list[Result], predictions: dict[str, pd.DataFrame]
) -> None:
    assert "## Probabilities" not in render_markdown(make_evidence(results), text=ENGLISH)
    older = {**predictions, results[1].run_id: make_predictions(results[1])}
    section = read_section(
        render_markdown(make_evidence(results, predictions=older), text=ENGLISH), "Probabilities"
    )
    assert "- Full fine-tuning: unknown (its predictions have no column probability_a)." in section
    assert "| Full fine-tuning" not in section


def test_the_section_is_there_in_chinese(results: list[Result], predictions: dict[str, pd.DataFrame]) -> None:
    section = read_section(
        render_markdown(make_evidence(results, predictions=predictions), text=CHINESE), "概率"
    )
    assert "| 方法 " in section
    assert "按 15 个等宽区间取平均，并减去 400 条测试文本上的偶然误差" in section


def test_a_method_whose_answers_show_no_threshold_answers_nothing(
    results: list[Result], predictions: dict[str, pd.DataFrame]
) -> None:
    lines = read_lines(
        read_section(
            render_markdown(make_evidence(results, predictions=predictions), text=ENGLISH), "Probabilities"
        )
    )
    assert lines["TF-IDF"][-1] == "none"


def test_the_diagram_has_every_answer_of_all_seeds_in_its_bins(
    results: list[Result], predictions: dict[str, pd.DataFrame]
) -> None:
    rows = make_evidence(results, predictions=predictions).rows
    key = Key({row.title: row.baseline for row in rows}, ENGLISH)
    drawn = [*draw_reliability(rows, key, ENGLISH, lambda kind, **shown: (kind, shown))]
    assert [kind for kind, _ in drawn] == ["reliability", "tempered"]
    for _, shown in drawn:
        counts = dict.fromkeys(key.titles, 0)
        for title, confidence, accuracy, answers in shown["rows"]:
            counts[title] += int(answers)
            assert 0 <= float(accuracy) <= 100
            assert 33 <= float(confidence) <= 100
        assert counts == {"TF-IDF": 400, "Full fine-tuning": 400, "LoRA": 1200}
