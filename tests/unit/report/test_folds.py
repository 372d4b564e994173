"""A cross-validation in the tables: its folds are a row, as seeds are, and not tasks of their own."""

import csv
import io
from dataclasses import replace

import pytest
from records import make_evidence, make_run, render_markdown

from bench.config.identity import hash_canonical
from bench.report.language.text import LANGUAGES
from bench.report.runs import render_runs
from bench.results.store import Result

ENGLISH = LANGUAGES["en"]
SCORES = (0.80, 0.84, 0.86, 0.90)


def make_fold(method: str, fold: int, score: float) -> Result:
    run = make_run(method, validation=score, test=score)
    data = {**run.canonical_config["data"], "fold": fold}
    canonical = {**run.canonical_config, "data": data}
    return replace(run, canonical_config=canonical, run_id=hash_canonical(canonical))


RUNS = [make_fold(method, fold, score) for method in ("tfidf", "lora") for fold, score in enumerate(SCORES)]


def test_the_folds_of_a_configuration_are_one_row() -> None:
    evidence = make_evidence(RUNS)
    assert [row.method for row in evidence.rows] == ["tfidf", "lora"]
    for row in evidence.rows:
        assert row.accuracy is not None
        assert row.interval is not None
        assert (row.accuracy.mean, row.accuracy.n) == (pytest.approx(0.85), 4)
        assert row.interval.over == "seeds_and_texts"  # also of a method that has no other randomness
        assert row.validation == pytest.approx(0.85)
        assert "fold" not in row.hyperparameters


def test_the_tables_count_folds_and_say_what_their_spread_is() -> None:
    markdown = render_markdown(make_evidence(RUNS), text=ENGLISH)
    cells = [[cell.strip() for cell in line.split("|")] for line in markdown.splitlines()]
    assert [line[7] for line in cells if "1 × 4 folds" in line] == ["1 × 4 folds"] * 2
    assert "Bengio and Grandvalet" in markdown
    assert "Bengio" not in render_markdown(make_evidence([make_run()]), text=ENGLISH)


def test_runs_csv_has_the_fold_and_the_teacher_where_there_is_one() -> None:
    rows = list(csv.DictReader(io.StringIO(render_runs(RUNS))))
    assert sorted(row["fold"] for row in rows) == [*"00112233"]
    student = make_run()
    taught = {"teacher": "0" * 12, "distillation": {"weight": 0.5, "temperature": 4.0}}
    student.canonical_config.update(taught)
    plain, student_row = (
        next(csv.DictReader(io.StringIO(render_runs([one])))) for one in (make_run(), student)
    )
    assert not {"fold", "teacher", "teacher_weight"} & plain.keys()
    assert tuple(student_row[f"teacher{name}"] for name in ("", "_weight", "_temperature")) == (
        "0" * 12,
        "0.5",
        "4.0",
    )
