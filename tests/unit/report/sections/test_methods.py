"""The sections below the tables, as a reader sees them."""

import csv
import io
import re
from dataclasses import replace
from typing import Any

import pytest
from records import NO_PRICES, make_evidence, make_predictions, make_run, render_markdown

from bench.config.pack import describe_pack
from bench.report.language.text import LANGUAGES
from bench.report.numbers.budget import count_budget
from bench.report.numbers.evidence import price_training
from bench.report.sections.methods import _choose_ticks, render_comparisons
from bench.report.tabulate import render_csv
from bench.results.selection import select_best
from bench.results.store import Result

ENGLISH, CHINESE = LANGUAGES["en"], LANGUAGES["zh"]


def read_section(results: list[Result], title: str, **more: Any) -> str:
    markdown = render_markdown(make_evidence(results, **more), text=ENGLISH)
    return markdown.partition(f"## {title}\n")[2].partition("\n## ")[0]


def read_cells(section: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if "|" in line]


def test_a_comparison_has_its_difference_and_its_verdict_in_both_languages() -> None:
    results = [make_run("full", test=0.75), make_run("lora", test=0.9)]
    header, _, (pair, points, verdict) = read_cells(read_section(results, "Comparisons"))
    assert header == ["Methods", "Difference in accuracy, points (95 % interval)", "Verdict"]
    assert pair == "LoRA vs Full fine-tuning"
    assert re.fullmatch(r"\+15\.0 \(\+\d+\.\d to \+\d+\.\d\)", points)
    assert verdict == "a difference of these trained models; one seed cannot show more"
    chinese = render_markdown(make_evidence(results), text=CHINESE)
    assert re.search(r"\| LoRA 对比 Full fine-tuning \| \+15\.0（\+[\d.]+ 至 \+[\d.]+）", chinese)
    same = [make_run("full", test=0.885), make_run("lora", test=0.88)]
    *_, (_, points, verdict) = read_cells(read_section(same, "Comparisons"))
    assert re.fullmatch(r"-0\.5 \(-\d\.\d to \+\d\.\d\)", points)
    assert verdict == (
        "undecided: it takes at least 3 seeds of each, as one does not show how much a method varies"
    )


def test_the_verdict_names_the_method_that_is_more_accurate() -> None:
    worse = [make_run("lora", seed=seed, test=0.7) for seed in range(3)]
    results = [*(make_run("full", seed=seed, test=0.9) for seed in range(3)), *worse]
    *_, (pair, points, verdict) = read_cells(read_section(results, "Comparisons"))
    assert (pair, points[:5], verdict) == (
        "LoRA vs Full fine-tuning",
        "-20.0",
        "Full fine-tuning is more accurate",
    )


def test_too_few_texts_are_said_to_be_too_few() -> None:
    results = [make_run("full", test=1.0), make_run("lora", test=0.99)]
    section = read_section(results, "Comparisons")
    *_, (_, points, verdict) = read_cells(section)
    assert points == "-1.0"  # without an interval
    assert verdict == (
        "undecided, as only 4 texts tell them apart: it takes at least 3 seeds of each, as one does not show "
        "how much a method varies"
    )
    assert "four of five such studies" not in section  # nor would any difference be detected


def test_methods_that_answer_alike_have_nothing_to_detect() -> None:
    results = [make_run(method, seed=seed, test=0.5) for method in ("full", "lora") for seed in range(3)]
    answers = {one.run_id: make_predictions(results[0]) for one in results}
    section = read_section(results, "Comparisons", predictions=answers)
    *_, (_, points, verdict) = read_cells(section)
    assert (points, verdict) == ("+0.0", "they answer alike")
    assert "four of five such studies" not in section
    (found,) = make_evidence(results, predictions=answers).comparisons
    assert (found.is_alike, found.detectable) == (True, None)


def test_the_axis_of_a_forest_plot_holds_all_ends_and_zero() -> None:
    for low, high, ticks in (
        (-3.9, 4.9, [-4, -2, 0, 2, 4, 6]),
        (0.0, 16.2, [0, 5, 10, 15, 20]),
        (-0.3, 0.0, [-0.3, -0.2, -0.1, 0]),
        (0.0, 0.0, [0, 0.1]),
        (-100.0, 100.0, [-100, -50, 0, 50, 100]),
    ):
        assert _choose_ticks(low, high) == ticks


def test_a_method_that_is_not_compared_is_named_with_the_reason() -> None:
    results = [make_run("full"), make_run("lora"), make_run("qlora")]
    predictions = {one.run_id: make_predictions(one) for one in results[1:]}
    section = read_section(results, "Comparisons", predictions=predictions)
    assert "- Full fine-tuning is not compared (runs/" in section
    assert "| QLoRA vs LoRA |" in section


def test_of_many_methods_only_the_best_on_validation_is_compared_in_sentences() -> None:
    names = [f"Method {number}" for number in range(7)]
    results = [
        replace(
            make_run("lora", names={"title": name}, validation=0.9 if name == "Method 3" else 0.8, lr=1e-3),
            config={
                **make_run("lora", names={"title": name}).config,
                "method": {"name": name, "title": name, "estimator": "network"},
            },
        )
        for name in names
    ]
    results = [
        replace(make_run("lora", lr=(1 + number) * 1e-3), config=one.config, metrics=one.metrics)
        for number, one in enumerate(results)
    ]
    section = read_section(results, "Comparisons")
    sentences = [line for line in section.splitlines() if " vs " in line]
    assert len(sentences) == 6
    assert all("Method 3" in line for line in sentences)
    assert "15 further comparisons are in comparisons.csv" in section
    assert len(render_comparisons(make_evidence(results).comparisons).splitlines()) == 1 + 21


def test_comparisons_csv_has_what_a_verdict_rests_on() -> None:
    results = [make_run("full", seed=seed) for seed in (0, 1, 2)] + [make_run("lora", test=0.8)]
    (row,) = csv.DictReader(io.StringIO(render_comparisons(make_evidence(results).comparisons)))
    assert (row["method"], row["other_method"], row["test_texts"]) == ("LoRA", "Full fine-tuning", "400")
    assert float(row["accuracy_difference"]) == pytest.approx(-0.085)
    assert float(row["accuracy_low"]) < -0.085 < float(row["accuracy_high"])
    assert float(row["p"]) == float(row["p_holm"]) < 0.01
    assert 0.01 < float(row["standard_error_texts"]) < 0.03
    assert (row["standard_error_seeds"], row["verdict"]) == ("", "one_seed")


def test_what_would_be_detected_is_said_and_is_more_than_was_found() -> None:
    runs = [make_run(name, seed=seed, test=0.88) for name in ("full", "lora") for seed in range(3)]
    section = read_section(runs, "Comparisons")
    (points,) = re.findall(
        r"four of five such studies detect a true difference of about ([\d.]+) points or", section
    )
    (found,) = make_evidence(runs).comparisons
    assert found.detectable == pytest.approx(float(points) / 100, abs=0.0005)
    assert found.accuracy.high is not None
    assert found.detectable > found.accuracy.high  # more than twice the standard error


def test_the_budget_says_what_was_tried_and_what_equally_many_draws_would_give() -> None:
    results = [
        make_run("full", lr=1e-4, validation=0.80),
        make_run("full", lr=2e-4, validation=0.90),
        make_run("lora", r=4, validation=0.70),
        make_run("lora", r=8, validation=0.80),
        make_run("lora", r=16, validation=0.90),
        make_run("lora", r=32, status="oom"),
    ]
    timed = [replace(one, time={**one.time, "total_seconds": 30.0}) for one in results[:5]]
    cells = read_cells(read_section([*timed, results[5]], "Budget"))
    assert cells[0] == [
        *("Method", "Configurations tried", "Failed", "Time of all runs"),
        *("k=1", "k=2 (common)", "k=3", "best of all"),
    ]
    # of three, the best of two drawn is 0.8 once and 0.9 twice
    assert cells[2] == ["Full fine-tuning", "2", "0", "1 min 00 s", "85.0 %", "90.0 %", "–", "90.0 %"]
    assert cells[3] == ["LoRA", "4", "1", "≥ 1 min 30 s", "80.0 %", "86.7 %", "90.0 %", "90.0 %"]


def test_the_budget_never_looks_at_the_test_split() -> None:
    def count(test: float) -> list[list[str]]:
        return read_cells(
            read_section([make_run(r=r, validation=r / 100, test=test) for r in (8, 16)], "Budget")
        )

    assert count(0.1) == count(0.9)


def test_configurations_that_halving_stopped_are_told_apart_from_failed_ones() -> None:
    stopped = make_run(r=8)
    canonical = {
        **stopped.canonical_config,
        "train": {**stopped.canonical_config["train"], "stop_step": 50},
    }
    runs = [replace(stopped, canonical_config=canonical), make_run(r=16), make_run(r=32, status="crashed")]
    budget = count_budget(runs, select_best(runs))
    assert (budget.configurations, len(budget.scores), budget.stopped, budget.failed) == (3, 1, 1, 1)
    assert read_cells(read_section(runs, "Budget"))[0][3] == "Stopped early"


def test_the_pivot_holds_the_best_of_each_r_and_alpha() -> None:
    results = [
        make_run(r=8, lr=1e-3, validation=0.80),
        make_run(r=8, lr=2e-3, validation=0.82, test=0.1),
        make_run(r=16, lr=1e-3, validation=0.81),
        make_run(r=16, seed=1, validation=0.99),  # not the seed of the choice
        make_run("full"),
    ]
    section = read_section(results, "Validation accuracy by r and alpha")
    assert read_cells(section) == [
        ["r \\ alpha", "16"],
        ["--------:", "-----:"],
        ["8", "82.0 %"],
        ["16", "81.0 %"],
    ]
    assert section.count(":\n") == 1  # full fine-tuning has neither
    assert "by r and alpha" not in render_markdown(make_evidence([make_run()]), text=ENGLISH)


def test_numbers_of_memory_and_time_come_from_runs_that_stand_alone() -> None:
    seeds = [make_run(seed=seed, train_seconds=10.0 + seed, peak=(1 + seed) * 2**30) for seed in (0, 1, 2)]
    resumed = [replace(seeds[0], model={"resumed_from_step": 100}), *seeds[1:]]
    (row,) = make_evidence(resumed).rows
    assert (row.train_seconds, row.peak_memory_bytes, row.not_alone) == (11.5, 3 * 2**30, 1)
    assert row.accuracy is not None
    assert row.accuracy.n == 3
    markdown = render_markdown(make_evidence(resumed), text=ENGLISH)
    assert "memory and train time leave out 1 of the 3 chosen runs" in markdown
    packed = [replace(one, packed=describe_pack(4)) for one in seeds]
    (row,) = make_evidence(packed).rows
    assert (row.train_seconds, row.peak_memory_bytes, row.not_alone) == (None, None, 3)
    note = (
        "Train time is unknown (each chosen run was resumed from a checkpoint or trained packed with others)"
    )
    assert note in render_markdown(make_evidence(packed), text=ENGLISH)


def test_the_cost_is_a_column_only_where_there_is_a_price() -> None:
    run = replace(make_run(train_seconds=1800.0), energy={"joules": 7.2e6, "source": "NVML"})
    assert "Cost" not in render_markdown(make_evidence([run]), text=ENGLISH)
    assert "Cost" not in render_csv(make_evidence([run]), text=ENGLISH)
    prices = replace(NO_PRICES, price_per_hour=0.5, price_per_kwh=0.2)
    evidence = make_evidence([run], report=prices)
    assert price_training(evidence.rows[0], prices) == pytest.approx(0.25 + 2 * 0.2)
    markdown = render_markdown(evidence, text=ENGLISH)
    assert read_cells(markdown)[0][-1] == "Cost of one training"
    assert read_cells(markdown)[2][-1] == "0.65"
    assert "Cost: 0.5 an hour, 0.2 a kWh of the GPU" in markdown
    (row,) = csv.DictReader(io.StringIO(render_csv(evidence, text=ENGLISH)))
    assert (row["Cost of one training"], row["Energy (J)"]) == ("0.65", "7200000.0")
    assert price_training(make_evidence([make_run()]).rows[0], prices) is None  # its energy is unknown


def test_the_data_s_health_is_a_note_in_both_languages() -> None:
    sick = {
        "sizes": {"test": 400},
        "label_counts": {"train": {"a": 90, "b": 30, "c": 60}},
        "duplicate_rows_across_splits": 7,
        "conflicting_labels": 4,
        "truncated_share": 0.125,
    }
    results = [replace(make_run(), data=sick)]
    english, chinese = (render_markdown(make_evidence(results), text=text) for text in (ENGLISH, CHINESE))
    assert (
        "- Data of headlines: 7 rows of validation and test have a text that is also in another split, so "
        "their scores say little about new texts; 4 rows have a text that has another label elsewhere, so "
        "one of the two labels is wrong; the most frequent label has 3.0 times as many rows as the rarest "
        "(train); 12.5 % of the train texts were cut.\n"
    ) in english
    assert "7 行的文本也出现在其他划分中" in chinese
    assert "12.5% 的文本被截断" in chinese
    well = {**sick, "duplicate_rows_across_splits": 0, "conflicting_labels": 0}
    note = render_markdown(make_evidence([replace(make_run(), data=well)]), text=ENGLISH)
    assert "Data of headlines: no text is in two splits; no text has two labels; " in note
    assert "Data of" not in render_markdown(make_evidence([make_run()]), text=ENGLISH)  # it says nothing


def test_sections_of_several_tables_say_which_they_are_of() -> None:
    results = [make_run(method, data=data) for method in ("full", "lora") for data in ("d1", "d2")]
    for title in ("Comparisons", "Budget"):
        section = read_section(results, title)
        assert section.count("### headlines, minilm (data d1): 400 test texts, Peak memory") == 1
        assert section.count("(data d2)") == 1
