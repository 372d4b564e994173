"""Further scores of the main table: from predictions with intervals, else from records; and by choice."""

import csv
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from records import NO_PRICES, make_evidence, make_run, render_markdown
from scipy.stats import binomtest
from sklearn import metrics

from bench.config import checks
from bench.report.language.text import LANGUAGES
from bench.report.tabulate import render_csv
from bench.results.store import Result

COLUMNS = replace(NO_PRICES, columns=["balanced_accuracy", "mcc", "f1_by_label"])
ENGLISH = LANGUAGES["en"]
LABELS = np.repeat([0, 1, 2], [300, 80, 20])


def answer(seed: int, *, right: float = 0.9) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.where(random.random(400) < right, LABELS, random.integers(3, size=400))


def make_rows(answers: np.ndarray) -> pd.DataFrame:
    names = np.array(["a", "b", "c"])
    rows = {"split": "test", "id": range(400), "label": names[LABELS], "prediction": names[answers]}
    return pd.DataFrame(rows)


def with_answers(run: Result, answers: np.ndarray) -> tuple[Result, pd.DataFrame]:
    share = float((answers == LABELS).mean())
    run.metrics["test"]["accuracy"] = share
    return run, make_rows(answers)


def tabulate(runs: list[tuple[Result, pd.DataFrame]], **more: Any) -> tuple[list[dict[str, str]], str]:
    predictions = {run.run_id: rows for run, rows in runs if rows is not None}
    evidence = make_evidence(
        [run for run, _ in runs], predictions=predictions, report=more.get("report", COLUMNS)
    )
    table = render_csv(evidence, text=ENGLISH)
    return list(csv.DictReader(io.StringIO(table))), render_markdown(evidence, text=ENGLISH)


def test_scores_of_old_records_come_from_their_predictions() -> None:
    answers = answer(1)
    [row], markdown = tabulate([with_answers(make_run(), answers)])
    balanced = metrics.balanced_accuracy_score(LABELS, answers)
    assert float(row["Balanced accuracy"]) == pytest.approx(balanced, abs=1e-6)
    assert float(row["MCC"]) == pytest.approx(metrics.matthews_corrcoef(LABELS, answers), abs=1e-6)
    each = metrics.f1_score(LABELS, answers, average=None)
    assert [float(row[f"F1 of {label}"]) for label in "abc"] == pytest.approx(each, abs=1e-6)
    for name in ("Balanced accuracy", "MCC", "F1 of a", "F1 of c"):
        low, high = (float(row[f"{name}: interval {end}"]) for end in ("low", "high"))
        assert low < float(row[name]) < high
    low, high = (100 * float(row[f"Balanced accuracy: interval {end}"]) for end in ("low", "high"))
    assert f"| {100 * balanced:.1f} % ({low:.1f}–{high:.1f}) |" in markdown


def test_a_labels_interval_is_that_of_the_texts_that_have_it_or_got_it() -> None:
    """One trained model; and a rare label that is always right is still not certain."""
    answers = answer(1)
    answers[LABELS == 2] = 2
    answers[(LABELS != 2) & (answers == 2)] = 0
    [row], _ = tabulate([with_answers(make_run(), answers)])
    ends = binomtest(20, 20).proportion_ci(method="wilson")
    assert float(row["F1 of c"]) == 1
    assert float(row["F1 of c: interval low"]) == pytest.approx(2 * ends.low / (1 + ends.low), abs=1e-6)
    assert float(row["F1 of c: interval high"]) == pytest.approx(1)


def test_seeds_count_in_the_intervals_of_further_scores() -> None:
    """Three seeds that vary more than chance make a wider interval than three that answer alike."""
    wide = [with_answers(make_run(seed=seed), answer(7, right=0.95 - seed / 10)) for seed in range(3)]
    alike = [with_answers(make_run(seed=seed), answer(7, right=0.85)) for seed in range(3)]
    widths = []
    for runs in (wide, alike):
        [row], _ = tabulate(runs)
        low, high = (float(row[f"Balanced accuracy: interval {end}"]) for end in ("low", "high"))
        widths.append(high - low)
        each = [
            metrics.balanced_accuracy_score(LABELS, rows["prediction"].map({"a": 0, "b": 1, "c": 2}))
            for _, rows in runs
        ]
        assert float(row["Balanced accuracy"]) == pytest.approx(np.mean(each), abs=1e-6)
    assert widths[0] > 1.5 * widths[1]


def test_without_predictions_the_records_say_the_scores_if_they_have_them() -> None:
    run = make_run()
    run.metrics["test"] |= {"mcc": 0.5, "f1_by_label": {"b": {"f1": 0.25, "low": 0.1, "high": 0.4}}}
    evidence = make_evidence([run], predictions={}, report=COLUMNS)
    [row] = csv.DictReader(io.StringIO(render_csv(evidence, text=ENGLISH)))
    assert (row["MCC"], row["MCC: interval low"], row["Balanced accuracy"]) == ("0.5", "", "")
    assert row["F1 of b"] == "0.25"
    assert "F1 of a" not in row


def test_a_table_without_further_columns_stays_as_it_was() -> None:
    [row], markdown = tabulate([with_answers(make_run(), answer(1))], report=NO_PRICES)
    assert "MCC" not in row
    assert "MCC" not in markdown


def test_a_column_that_there_is_not_is_refused_with_those_there_are(compose: Any) -> None:
    config = compose("report.columns=[balanced_acuracy,accuracy]")
    several = "f1_micro, f1_samples, mean_average_precision"
    message = f"must be one of balanced_accuracy, mcc, {several}, loss, f1_by_label"
    first, second = checks.check(config)
    assert first == f"report.columns=balanced_acuracy: {message}; did you mean balanced_accuracy?"
    assert second.startswith(f"report.columns=accuracy: {message}")
    assert checks.check(compose("report.columns=[mcc,f1_by_label]")) == []


def make_loss(loss: str, *, validation: float, lr: float = 1e-3) -> Result:
    run = make_run(validation=validation, lr=lr)
    run.config["train"]["loss"] = loss
    if loss != "cross_entropy":
        run.canonical_config["train"] = {**run.canonical_config["train"], "loss": loss}
    return replace(run, run_id=f"{abs(hash((loss, lr))) % 16**12:012x}")


def test_each_loss_has_its_best_configuration_beside_the_others() -> None:
    runs = [
        with_answers(make_loss("weighted", validation=0.9), answer(3)),
        with_answers(make_loss("cross_entropy", validation=0.8), answer(1, right=0.7)),
        with_answers(make_loss("cross_entropy", validation=0.85, lr=2e-3), answer(2, right=0.8)),
    ]
    [row], markdown = tabulate(runs, report=NO_PRICES)
    assert row["Chosen hyperparameters"].endswith("loss=weighted")
    section = markdown.partition("## What each choice brings")[2]
    lines = [line for line in section.splitlines() if line.startswith("| ")][:4]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [line[:4] for line in cells[2:]] == [
        ["cross_entropy", "2/0", "1", "85.0 %"],
        ["weighted", "1/0", "1", "90.0 %"],
    ]
    assert cells[3][-1].startswith(f"{metrics.matthews_corrcoef(LABELS, answer(3)):.3f} (")
    assert cells[2][4] == f"{100 * (answer(2, right=0.8) == LABELS).mean():.1f} %"
    assert (
        "loss=cross_entropy"
        in tabulate([*runs[1:], with_answers(make_loss("focal", validation=0.1), answer(4))])[1]
    )
