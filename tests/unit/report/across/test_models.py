"""Base models side by side: one table, led by the best on validation, whose comparisons cross the models."""

import csv
import io
import re
from dataclasses import replace

import pandas as pd
import pytest
from records import make_evidence, make_predictions, make_run, render_markdown

from bench.report.across.models import find_front, list_panels
from bench.report.language.text import LANGUAGES
from bench.report.numbers.evidence import Evidence
from bench.report.page.details import Details
from bench.report.page.figures import draw_all
from bench.report.sections.methods import render_comparisons
from bench.report.tabulate import render_csv
from bench.results.store import Result

ENGLISH, CHINESE = LANGUAGES["en"], LANGUAGES["zh"]
GIB = 2**30
MODELS = {"minilm": "m1", "smollm2": "m2"}


def run_on(model: str, method: str = "lora", **more: object) -> Result:
    """A run of a method on one of the two models."""
    return make_run(method, revision=MODELS[model], names={"model": model}, **more)  # type: ignore[arg-type]


def make_study(seeds: int = 3, *, lora: float = 0.85) -> list[Result]:
    """Two methods on two models, of which LoRA on smollm2 is the best on validation; and baselines."""
    runs = [make_run("tfidf", validation=0.7, test=0.72), make_run("majority", validation=0.3, test=0.3)]
    for seed in range(seeds):
        runs += [
            run_on("minilm", "full", seed=seed, validation=0.86, test=0.86, peak=2 * GIB, train_seconds=30),
            run_on("minilm", seed=seed, validation=0.85, test=lora, peak=GIB, train_seconds=10),
            run_on("smollm2", "full", seed=seed, validation=0.88, test=0.875, peak=8 * GIB, train_seconds=90),
            run_on("smollm2", seed=seed, validation=0.9, test=0.9, peak=4 * GIB, train_seconds=60),
        ]
    return runs


def read_table(markdown: str, heading: str) -> list[dict[str, str]]:
    """Read the first table below the heading, its rows by column."""
    lines = markdown.partition(f"## {heading}")[2].splitlines()
    rows = []
    for line in lines:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
        elif rows:
            break
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def read_panel(evidence: Evidence) -> list[dict[str, str]]:
    return read_table(render_markdown(evidence, text=ENGLISH), "headlines, minilm and smollm2")


def test_one_table_has_every_method_of_every_model_and_a_baseline_without_a_model_once() -> None:
    rows = read_panel(make_evidence(make_study()))
    assert [(row["Method"], row["Model"]) for row in rows] == [
        ("LoRA", "smollm2"),
        ("Full fine-tuning", "smollm2"),
        ("Full fine-tuning", "minilm"),
        ("LoRA", "minilm"),
        ("TF-IDF", "–"),
        ("Majority class", "–"),
    ]
    assert rows[0]["Against the leader"] == "leader"
    assert rows[3]["Against the leader"].startswith("-5.0 points")
    assert rows[0]["Seeds"] == "3"
    assert rows[0]["Validation score"] == "90.0 %"


def test_the_tables_of_each_model_stay() -> None:
    both = make_evidence(make_study())
    alone = make_evidence([run for run in make_study() if run.config["model"]["name"] == "minilm"])
    text = render_markdown(both, text=ENGLISH)
    for title in ("headlines, minilm: 400 test texts", "headlines, smollm2: 400 test texts"):
        assert text.count(f"## {title}\n") == 1
    assert read_table(text, "headlines, minilm: 400") == read_table(
        render_markdown(alone, text=ENGLISH), "headlines, minilm: 400"
    )
    rows = list(csv.DictReader(io.StringIO(render_csv(both, text=ENGLISH))))
    assert len(rows) == 8  # four of each model, the baselines twice, and none of the table of both


def test_with_one_model_nothing_is_said_of_several() -> None:
    evidence = make_evidence([run for run in make_study() if run.config["model"]["name"] == "minilm"])
    text = render_markdown(evidence, text=ENGLISH)
    assert "the best on validation" not in text
    assert "Against the leader" not in text
    assert "other_model" not in render_comparisons(evidence.comparisons)


def test_the_leader_is_compared_with_the_methods_of_other_models_in_the_same_correction() -> None:
    evidence = make_evidence(make_study())
    across = [one for one in evidence.comparisons if one.is_across]
    assert {(one.one.method, one.one.task.model) for one in across} == {
        ("lora", "minilm"),
        ("full", "minilm"),
    }
    assert {(one.other.method, one.other.task.model) for one in across} == {("lora", "smollm2")}
    assert len(evidence.comparisons) == 3 + 3 + 2  # two methods and the best baseline in each table
    least = min(evidence.comparisons, key=lambda one: one.p_value)
    assert least.adjusted_p == pytest.approx(min(1.0, 8 * least.p_value))
    written = list(csv.DictReader(io.StringIO(render_comparisons(evidence.comparisons))))
    assert [(row["model"], row["other_model"]) for row in written[-2:]] == [("minilm", "smollm2")] * 2


def test_the_test_split_has_no_part_in_who_leads() -> None:
    runs = [
        replace(run, metrics={**run.metrics, "test": {**run.metrics["test"], "accuracy": 0.99}})
        if (run.config["model"]["name"], run.config["method"]["name"]) == ("minilm", "lora")
        else run
        for run in make_study()
    ]
    panel = next(iter(list_panels(make_evidence(runs), ENGLISH).values()))
    assert panel.leader is not None
    assert panel.leader.title == "LoRA on smollm2"
    shown = render_markdown(make_evidence(runs), text=ENGLISH)
    assert (
        "**Of the trained methods LoRA on smollm2 is the best on validation and has a test accuracy" in shown
    )
    assert re.search(r"LoRA on minilm: more accurate than that", shown)


def test_a_difference_across_models_is_found_and_said() -> None:
    runs = make_study(lora=0.7)
    scores = {run.run_id: run.metrics["test"]["accuracy"] for run in runs}
    alike = {scores[run.run_id]: make_predictions(run) for run in runs}  # of all seeds
    evidence = make_evidence(runs, predictions={run_id: alike[score] for run_id, score in scores.items()})
    (lora,) = [one for one in evidence.comparisons if one.is_across and one.one.method == "lora"]
    assert lora.verdict == "difference"
    assert lora.accuracy.estimate == pytest.approx(-0.2)
    shown = render_markdown(evidence, text=ENGLISH)
    assert re.search(r"\*\*Of the trained methods .*less accurate: .*LoRA on minilm", shown)
    assert "| LoRA on minilm vs LoRA on smollm2 " in shown
    assert re.search(r"LoRA on smollm2 is more accurate +\|", shown)


def test_a_model_whose_runs_all_failed_has_its_rows_and_no_comparison() -> None:
    runs = [run for run in make_study() if run.config["model"]["name"] == "minilm"]
    runs += [run_on("smollm2", status="oom"), run_on("smollm2", "full", status="failed")]
    evidence = make_evidence(runs)
    rows = {(row["Method"], row["Model"]): row for row in read_panel(evidence)}
    assert rows["LoRA", "smollm2"]["Accuracy"] == "out of memory"
    assert rows["Full fine-tuning", "smollm2"]["Against the leader"] == "–"
    assert [one for one in evidence.comparisons if one.is_across] == []


def test_other_test_texts_under_the_same_name_are_not_compared() -> None:
    runs = make_study()
    predictions = {run.run_id: make_predictions(run) for run in runs}
    for run in runs:
        if run.config["model"]["name"] == "smollm2":
            predictions[run.run_id] = predictions[run.run_id].assign(id=lambda rows: rows["id"] + 1000)
    evidence = make_evidence(runs, predictions=predictions)
    assert [one for one in evidence.comparisons if one.is_across] == []
    assert any("test texts are not those" in one.reason for one in evidence.left_out)


def test_random_weights_are_shown_and_lead_nothing() -> None:
    runs = [run for run in make_study() if run.config["model"]["name"] == "minilm"]
    runs.append(run_on("smollm2", validation=0.99, test=0.99, weights="random"))
    panel = next(iter(list_panels(make_evidence(runs), ENGLISH).values()))
    assert panel.leader is not None
    assert panel.leader.title == "Full fine-tuning on minilm"
    assert "LoRA on smollm2" not in {row.title for row in find_front(panel.rows)}


def test_the_front_holds_what_no_other_row_beats_in_all() -> None:
    runs = [*make_study(), run_on("minilm", "qlora", validation=0.8, test=0.84, peak=GIB, train_seconds=11)]
    panel = next(iter(list_panels(make_evidence(runs), ENGLISH).values()))
    assert {row.title for row in find_front(panel.rows)} == {
        *("LoRA on smollm2", "Full fine-tuning on minilm", "LoRA on minilm"),
    }


def test_the_figure_joins_all_models_methods_in_colour_and_models_in_shape() -> None:
    evidence = make_evidence(make_study())
    drawn = draw_all(evidence, Details([], [], {}, []), text=ENGLISH)
    figures = {figure.kind: figure for figure in drawn["d1", "cpu_resident"]}
    assert set(figures) == {"pareto", "speed"}
    rows = next(iter(figures["pareto"].spec["datasets"].values()))
    marks = {(row["method"], row["model"]) for row in rows if row["kind"] != "front"}
    assert ("LoRA", "smollm2") in marks
    assert ("TF-IDF", "no base model") in marks
    front = [row["title"] for row in rows if row["kind"] == "front"]
    assert front[-1] == "LoRA on smollm2"


def test_models_of_one_name_are_told_apart_in_words() -> None:
    runs = [make_run("lora", revision=name, names={"model": "local"}) for name in ("m1", "m2")]
    for run, path in zip(runs, ("/models/bert-base", "/models/bert-tiny"), strict=True):
        run.config["model"]["path"] = path
    shown = render_markdown(make_evidence(runs), text=ENGLISH)
    assert "LoRA on local (bert-base)" in shown
    assert "model m1" not in shown


@pytest.mark.parametrize("seeds", [1, 3])
def test_both_languages_say_the_same_numbers(seeds: int) -> None:
    evidence = make_evidence(make_study(seeds))
    shown = [render_markdown(evidence, text=text) for text in (ENGLISH, CHINESE)]
    numbers = [sorted(re.findall(r"\d+\.\d", one.replace(",", ""))) for one in shown]
    assert numbers[0] == numbers[1]
    assert "LoRA" in shown[1]
    assert isinstance(evidence.comparisons[0].accuracy.estimate, float)


def test_predictions_that_cannot_be_read_leave_the_others() -> None:
    runs = make_study()
    predictions: dict[str, pd.DataFrame] = {
        run.run_id: make_predictions(run)
        for run in runs
        if (run.config["model"]["name"], run.config["method"]["name"]) != ("minilm", "full")
    }
    evidence = make_evidence(runs, predictions=predictions)
    assert [one.one.method for one in evidence.comparisons if one.is_across] == ["lora"]
    assert len(evidence.left_out) == 1


def test_where_nothing_trained_nothing_leads() -> None:
    """Answers of one label alone, which is what a training with a wrong rate leaves."""
    counts = {"label_counts": {"test": {"a": 160, "b": 140, "c": 100}}}
    runs = [make_run("tfidf", test=0.72)]
    for model in MODELS:
        run = run_on(model, test=0.4)
        scores = {"accuracy": 0.4, "f1_macro": 0.19, "loss": 1.1}
        runs.append(replace(run, metrics={**run.metrics, "test": scores}, data={**run.data, **counts}))
    shown = render_markdown(make_evidence(runs), text=ENGLISH)
    assert "**TF-IDF reaches an accuracy of 72.0 %; LoRA on minilm and LoRA on smollm2 did not train" in shown
    assert {row["Against the leader"] for row in read_panel(make_evidence(runs))} == {"–", "did not train"}
