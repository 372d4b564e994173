"""What table.md says of a method's seeds as one classifier."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from records import make_evidence, make_predictions, make_probabilities, make_run, render_markdown
from sklearn.metrics import f1_score

from bench.report.language.text import LANGUAGES
from bench.report.numbers.calibration import score_brier
from bench.report.numbers.statistics import bound_share
from bench.results.confidence import average, read_split
from bench.results.store import Result

ENGLISH, CHINESE = LANGUAGES["en"], LANGUAGES["zh"]


@pytest.fixture(scope="module")
def results() -> list[Result]:
    """Three seeds of LoRA that err on texts of their own, and one of full fine-tuning."""
    return [make_run("full", test=0.9), *(make_run("lora", seed=seed, test=0.85) for seed in range(3))]


@pytest.fixture(scope="module")
def predictions(results: list[Result]) -> dict[str, pd.DataFrame]:
    return {one.run_id: make_probabilities(one) for one in results}


def read_section(markdown: str, title: str) -> list[list[str]]:
    section = markdown.partition(f"## {title}\n")[2].partition("\n## ")[0]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if "|" in line]


def test_a_row_is_of_the_mean_of_all_seeds_probabilities(
    results: list[Result], predictions: dict[str, pd.DataFrame]
) -> None:
    evidence = make_evidence(results, predictions=predictions)
    header, _, row = read_section(render_markdown(evidence, text=ENGLISH), "Seeds together")
    assert header[:3] == ["Method", "Accuracy (95 % interval)", "Against one seed, points (95 % interval)"]
    each = [read_split(predictions[one.run_id], one.labels, split="test") for one in results[1:]]
    mean = np.mean([one.probabilities for one in each], axis=0)
    right = mean.argmax(axis=1) == each[0].labels
    low, high = bound_share(float(right.mean()), rows=400)
    assert row[0] == "LoRA, 3 seeds together"
    assert row[1] == f"{100 * right.mean():.1f} % ({100 * low:.1f}–{100 * high:.1f} %)"
    assert row[2].startswith(f"{100 * (right.mean() - 0.85):+.1f} (")
    assert right.mean() > 0.87  # or the mean changes nothing
    f1 = f1_score(each[0].labels, mean.argmax(axis=1), average="macro")
    assert row[3] == f"{100 * f1:.1f} %"
    assert row[5].startswith(f"{score_brier(average(each)).mean():.3f} (")
    assert row[7:] == ["not measured", "not measured"]


def test_the_gain_is_paired_over_the_texts(
    results: list[Result], predictions: dict[str, pd.DataFrame]
) -> None:
    [lora] = [row for row in make_evidence(results, predictions=predictions).rows if row.title == "LoRA"]
    assert lora.together is not None
    each = [read_split(predictions[one.run_id], one.labels, split="test") for one in results[1:]]
    differences = average(each).right - np.mean([one.right for one in each], axis=0)
    gain = lora.together.gain
    assert gain.estimate == pytest.approx(differences.mean())
    half = 1.966 * differences.std(ddof=1) / 20  # Student's t of 399 degrees of freedom
    assert gain.low == pytest.approx(differences.mean() - half, abs=1e-4)
    assert gain.high == pytest.approx(differences.mean() + half, abs=1e-4)


def test_its_row_changes_no_other_number(results: list[Result], predictions: dict[str, pd.DataFrame]) -> None:
    """Nor does it take part in a comparison, whose correction it would make stricter."""
    without = make_evidence(results, predictions={one.run_id: make_predictions(one) for one in results})
    evidence = make_evidence(results, predictions=predictions)
    assert [(one.one.title, one.other.title) for one in evidence.comparisons] == [
        (one.one.title, one.other.title) for one in without.comparisons
    ]
    assert [row.together for row in without.rows] == [None, None]
    assert "Seeds together" not in render_markdown(without, text=ENGLISH)


def test_what_was_measured_of_all_adapters_stands_beside_it(
    results: list[Result], predictions: dict[str, pd.DataFrame]
) -> None:
    form = {"batch_size": 1, "p50_ms": 12.345, "p95_ms": 20.0, "texts_per_second": 80.0}
    found = {
        "run_ids": [one.run_id for one in results[1:]],
        "memory": {"kind": "cpu_resident", "peak_bytes": 2**29},
        "forms": [{"form": "base + all adapters", **form}],
    }
    evidence = make_evidence(results, predictions=predictions)
    evidence = replace(evidence, latencies=[(results[1], found)])
    markdown = render_markdown(evidence, text=ENGLISH)
    *_, row = read_section(markdown, "Seeds together")
    assert row[7:] == ["0.50 GiB, CPU resident", "12.35 ms per text"]
    *_, line = read_section(markdown, "Latency")
    assert line[0] == f"LoRA, 3 seeds together ({results[1].run_id})"
    *_, row = read_section(render_markdown(evidence, text=CHINESE), "种子合并")
    assert row[0] == "LoRA，3 个种子合并"
    assert row[7:] == ["0.50 GiB，CPU 进程常驻内存", "每条文本 12.35 毫秒"]
    other = replace(evidence, latencies=[(results[1], {**found, "run_ids": [results[1].run_id]})])
    *_, row = read_section(render_markdown(other, text=ENGLISH), "Seeds together")
    assert row[7:] == ["not measured", "not measured"]


def test_seeds_of_other_texts_do_not_answer_together(
    results: list[Result], predictions: dict[str, pd.DataFrame]
) -> None:
    other = predictions[results[3].run_id].copy()
    other.loc[other["split"] == "validation", "id"] += 1000
    evidence = make_evidence(results, predictions={**predictions, results[3].run_id: other})
    assert [row.together for row in evidence.rows] == [None, None]
    assert evidence.rows[1].calibration is not None
