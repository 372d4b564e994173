"""Runs on texts with several labels: accuracy is exact match, tested in pairs as any other, and so called."""

import csv
import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from records import NO_PRICES, make_evidence, make_run, render_markdown
from sklearn import metrics

from bench.report.language.text import LANGUAGES
from bench.report.numbers.collapse import is_untrained
from bench.report.numbers.columns import add_columns
from bench.report.numbers.rows import build_rows
from bench.report.numbers.scores import read_answers
from bench.report.numbers.statistics import bound_share
from bench.report.numbers.traits import read_origin
from bench.report.page.answers import read_answers as read_for_page
from bench.report.page.answers import score_labels
from bench.report.tabulate import render_csv
from bench.results.marks import write_marks
from bench.results.store import Result

COLUMNS = ["f1_micro", "f1_by_label", "mcc", "mean_average_precision"]
REPORT = replace(NO_PRICES, columns=COLUMNS)
TRUTH = np.random.default_rng(0).random((400, 3)) < [0.6, 0.3, 0.1]


def make_several(method: str, seed: int, *, right: float) -> tuple[Result, pd.DataFrame, np.ndarray]:
    """A run whose record says that texts have several labels, with what it predicted."""
    random = np.random.default_rng(seed)
    answers = np.where(random.random(TRUTH.shape) < right, TRUTH, ~TRUTH)
    run = make_run(method, data="several", test=float(metrics.accuracy_score(TRUTH, answers)))
    run.config["data"] |= {"multi_label": True, "label_separator": ";"}
    scores = {
        "f1_macro": metrics.f1_score(TRUTH, answers, average="macro"),
        "mean_average_precision": 0.5,
    }
    run = replace(run, metrics={**run.metrics, "test": {**run.metrics["test"], **scores}})
    cells = {
        name: write_marks(one, run.labels, ";") for name, one in (("label", TRUTH), ("prediction", answers))
    }
    return run, pd.DataFrame({"split": "test", "id": range(400), **cells}), answers


def test_exact_match_is_compared_in_pairs_and_bounded_as_a_share_of_texts() -> None:
    full, lora = make_several("full", 1, right=0.95), make_several("lora", 2, right=0.8)
    runs = [full, lora]
    evidence = make_evidence(
        [run for run, *_ in runs], predictions={run.run_id: rows for run, rows, _ in runs}, report=REPORT
    )
    rows = {row.method: row for row in evidence.rows}
    right = {
        name: (answers == TRUTH).all(axis=1)
        for name, (*_, answers) in zip(("full", "lora"), runs, strict=True)
    }
    for name, own in right.items():
        interval = rows[name].texts_interval
        assert interval is not None
        assert (interval.low, interval.high) == pytest.approx(bound_share(own.mean(), rows=400))
    [pair] = evidence.comparisons
    assert pair.accuracy.estimate == pytest.approx(right["lora"].mean() - right["full"].mean())
    assert pair.told_apart == np.count_nonzero(right["lora"] != right["full"])
    assert pair.verdict == "one_seed"  # a difference, of one seed each


def test_further_scores_are_scikit_learns_and_those_without_meaning_unknown() -> None:
    run, predictions, answers = make_several("full", 1, right=0.9)
    [row] = add_columns(build_rows([run]), COLUMNS, lambda _: predictions)
    assert row.columns["f1_micro"].mean == pytest.approx(metrics.f1_score(TRUTH, answers, average="micro"))
    interval = row.columns["f1_micro"].interval
    assert interval is not None
    assert interval.low < row.columns["f1_micro"].mean < interval.high < interval.low + 0.1
    each = metrics.f1_score(TRUTH, answers, average=None)
    assert [row.columns[f"f1_by_label.{label}"].mean for label in "abc"] == pytest.approx(each)
    assert "mcc" not in row.columns
    assert row.columns["mean_average_precision"].interval is None
    found, _ = read_for_page(build_rows([run]), lambda _: predictions)
    assert score_labels(found[0]) == pytest.approx(each)
    assert read_answers(build_rows([run])[0], lambda _: predictions).multi_label


def test_the_interval_of_macro_f1_is_as_wide_as_other_texts_make_it() -> None:
    """The standard deviation over 4,000 other draws of such texts and answers, times 1.96."""
    run, predictions, answers = make_several("full", 1, right=0.9)
    evidence = make_evidence([run], predictions={run.run_id: predictions}, report=REPORT)
    interval = evidence.rows[0].f1_interval
    assert interval is not None
    random, scores = np.random.default_rng(1), []
    for _ in range(4000):
        drawn = random.integers(400, size=400)
        right = (TRUTH & answers)[drawn].sum(axis=0)
        scores.append((2 * right / (TRUTH[drawn].sum(axis=0) + answers[drawn].sum(axis=0))).mean())
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * np.std(scores), rel=0.1)


def test_samples_f1_and_mean_average_precision_have_the_intervals_of_other_texts() -> None:
    """Both as scikit-learn has them; the widths by other draws of the texts."""
    run, predictions, answers = make_several("full", 1, right=0.9)
    truth = TRUTH & (np.arange(400) >= 20)[:, None]
    answers[:20] = False  # as the truth there
    cells = {
        name: write_marks(one, run.labels, ";") for name, one in (("label", truth), ("prediction", answers))
    }
    likely = np.random.default_rng(5).normal(loc=truth).round(1)  # in steps, so that many are equal
    predictions = predictions.assign(
        **cells, **{f"probability_{one}": likely[:, n] for n, one in enumerate("abc")}
    )
    run.metrics["test"]["accuracy"] = float(metrics.accuracy_score(truth, answers))
    [row] = add_columns(
        build_rows([run]),
        ["f1_samples", "mean_average_precision"],
        lambda _: predictions.sample(frac=1, random_state=0),
    )
    measures = {
        "f1_samples": lambda rows: metrics.f1_score(
            truth[rows], answers[rows], average="samples", zero_division=1
        ),
        "mean_average_precision": lambda rows: metrics.average_precision_score(truth[rows], likely[rows]),
    }
    random = np.random.default_rng(1)
    draws = [random.integers(400, size=400) for _ in range(500)]
    for name, score in measures.items():
        found = row.columns[name]
        assert found.mean == pytest.approx(score(np.arange(400)))
        assert found.interval is not None
        width = found.interval.high - found.interval.low
        assert width == pytest.approx(2 * 1.96 * np.std([score(rows) for rows in draws]), rel=0.12)


@pytest.mark.parametrize(
    ("lang", "title", "header", "note"),
    [
        (
            "en",
            "several labels per text (accuracy is exact match): 400 test texts",
            "Exact match",
            "the label's F1",
        ),
        ("zh", "每条文本可有多个标签（准确率指完全匹配）：400 条测试文本", "完全匹配率", "概率达到标签阈值"),
    ],
)
def test_tables_say_that_accuracy_is_exact_match(lang: str, title: str, header: str, note: str) -> None:
    run, predictions, _ = make_several("full", 1, right=0.9)
    several = make_evidence([run], predictions={run.run_id: predictions}, report=REPORT)
    shown = render_markdown(several, text=LANGUAGES[lang])
    assert title in shown
    assert f"| {header} |" in shown
    assert note in shown
    usual = render_markdown(make_evidence([make_run()]), text=LANGUAGES[lang])
    assert header not in usual
    assert note not in usual
    [row] = csv.DictReader(io.StringIO(render_csv(several, text=LANGUAGES["en"])))
    assert row["MCC"] == ""
    assert float(row["mAP"]) == 0.5


def test_a_record_from_before_a_setting_was_there_is_of_the_same_data_set() -> None:
    old, new, several = make_run(), make_run(), make_run()
    new.config["data"] |= {"multi_label": False, "label_columns": None, "label_separator": "|"}
    several.config["data"] |= {"multi_label": True}
    origins = [read_origin([run]).data_set for run in (old, new, several)]
    assert origins[0] == origins[1] != origins[2]


@pytest.mark.parametrize(
    ("accuracy", "f1_macro", "untrained"),
    [
        (
            0.30,
            0.50,
            True,
        ),  # the most frequent combination, or all labels: 2 s / (1 + s) is 0.75, 0.46 and 0.18
        (0.30, 0.56, False),
        (0.45, 0.45, False),
    ],
)
def test_a_run_trained_if_it_is_above_the_most_frequent_combination_or_all_labels(
    accuracy: float, f1_macro: float, untrained: bool
) -> None:
    run, *_ = make_several("lora", 1, right=0.9)
    data = {
        "sizes": {"test": 400},
        "label_counts": {"test": {"a": 240, "b": 120, "c": 40}},
        "label_sets": {"test": {"most_frequent": 120}},
    }
    scores = {"accuracy": accuracy, "f1_macro": f1_macro}
    planted = replace(run, data=data, metrics={"validation": scores, "test": scores})
    assert is_untrained(planted) is untrained
