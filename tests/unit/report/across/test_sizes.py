"""Runs that differ in train's size are one learning curve, and never tables told apart by a hash."""

import csv
import io
import re
from dataclasses import replace

from records import make_evidence, make_sized_run, render_markdown

from bench.report.language.text import LANGUAGES
from bench.report.tabulate import render_csv
from bench.results.store import Result

ENGLISH, CHINESE = LANGUAGES["en"], LANGUAGES["zh"]


def make_curve() -> list[Result]:
    accuracies = {100: 0.7, 200: 0.75, 400: 0.8, 800: 0.85}
    runs = [
        make_sized_run(size, method, test=accuracy)
        for size, accuracy in accuracies.items()
        for method in ("lora", "full")
    ]
    return [
        *runs,
        make_sized_run(None, rows=1296, test=0.9),
        make_sized_run(None, "full", rows=1296, test=0.89),
    ]


def list_headings(shown: str) -> list[str]:
    return re.findall(r"^#+ (.*)$", shown, re.M)


def test_five_sizes_are_one_table_and_one_curve() -> None:
    evidence = make_evidence(make_curve())
    shown = render_markdown(evidence, text=ENGLISH)
    headings = list_headings(shown)
    assert headings[:3] == [
        "headlines, minilm (1296 train texts): 400 test texts",
        "Accuracy by the number of train texts",
        "headlines, minilm",
    ]
    assert "100 train texts" not in " ".join(headings)
    assert not re.search(r"data size", shown)  # the hash
    columns = ["Method", *(f"{size} train texts" for size in (100, 200, 400, 800, 1296))]
    assert re.search(r"\| " + r" +\| +".join(columns) + r" \|", shown)
    assert re.search(r"\| LoRA +\| 70\.0 % \(\d", shown)
    assert {one.one.task.origin.train_rows for one in evidence.comparisons} == {1296}
    rows = list(csv.DictReader(io.StringIO(render_csv(evidence, text=ENGLISH))))
    assert len(rows) == 10
    assert "1296 条训练文本" in render_markdown(evidence, text=CHINESE)


def test_the_table_is_of_the_size_that_most_methods_have() -> None:
    evidence = make_evidence([*make_curve(), make_sized_run(800, "qlora"), make_sized_run(400, "qlora")])
    assert {row.task.origin.train_rows for row in evidence.rows} == {800}


def test_a_size_at_which_all_runs_failed_is_on_the_curve() -> None:
    runs = [
        *make_curve()[:2],
        make_sized_run(200, status="oom"),
        make_sized_run(200, "full", status="failed"),
    ]
    shown = render_markdown(make_evidence(runs), text=ENGLISH)
    assert re.search(r"\| LoRA +\| 70\.0 % \(.*\) \| +out of memory \|", shown)
    assert list_headings(shown)[0] == "headlines, minilm (100 train texts): 400 test texts"


def test_other_texts_with_the_same_settings_are_no_curve() -> None:
    """A file that was changed in between: two contents with one size, or other test texts."""
    one, other = make_sized_run(100), make_sized_run(100, data="changed")
    assert "Accuracy by the number" not in render_markdown(make_evidence([one, other]), text=ENGLISH)
    other = make_sized_run(200)
    other = replace(other, data={**other.data, "label_counts": {"test": {"a": 100, "b": 300}}})
    evidence = make_evidence([one, other])
    assert "Accuracy by the number" not in render_markdown(evidence, text=ENGLISH)
    assert len(evidence.rows) == 2


def test_each_model_has_its_curve_and_a_table_of_its_largest_size() -> None:
    other = {"revision": "m2", "names": {"model": "smollm2"}}
    evidence = make_evidence([*make_curve(), make_sized_run(100, **other), make_sized_run(200, **other)])
    assert {(row.task.model, row.task.origin.train_rows) for row in evidence.rows} == {
        ("minilm", 1296),
        ("smollm2", 200),
    }
    shown = render_markdown(evidence, text=ENGLISH)
    assert re.search(r"\| LoRA on smollm2 +\| 8.* \| +– \| +– \| +– \|", shown)


def test_other_splits_are_other_tables_that_say_so() -> None:
    seeds = [make_sized_run(100, data=f"s{seed}", split_seed=seed) for seed in (0, 1)]
    assert list_headings(render_markdown(make_evidence(seeds), text=ENGLISH))[:2] == [
        "headlines, minilm (split_seed 0): 400 test texts",
        "headlines, minilm (split_seed 1): 400 test texts",
    ]
