"""What table.md says of a method's seeds as one classifier."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from records import make_evidence, make_predictions, make_probabilities, make_run, render_markdown
from scipy.special import expit
from sklearn.metrics import average_precision_score, f1_score

from bench.report.language.text import LANGUAGES
from bench.report.numbers.calibration import score_brier
from bench.report.numbers.statistics import bound_share
from bench.results.confidence import average, read_split
from bench.results.marks import write_marks
from bench.results.several import choose_thresholds
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


def make_several(seed: int) -> tuple[Result, pd.DataFrame]:
    """A seed whose texts may have several labels, unsure in a way of its own, and what it predicted."""
    run, frames = make_run("lora", seed=seed), []
    run.config["data"] |= {"multi_label": True, "label_separator": "|"}
    truths = np.random.default_rng(9).random((2, 400, 3)) < [0.6, 0.3, 0.1]
    random = np.random.default_rng(seed)
    likely = expit(2 * truths - 2 + 1.5 * random.normal(size=truths.shape))
    thresholds = choose_thresholds(likely[0], truths[0])
    for split, truth, own in zip(("validation", "test"), truths, likely, strict=True):
        frame = pd.DataFrame({"split": split, "id": range(400)})
        for name, marks in (("label", truth), ("prediction", own >= thresholds)):
            frame[name] = write_marks(marks, run.labels, "|")
        frames.append(frame.join(pd.DataFrame(own, columns=[f"probability_{one}" for one in run.labels])))
    run.metrics["test"]["accuracy"] = float((truths[1] == (likely[1] >= thresholds)).all(axis=1).mean())
    return run, pd.concat(frames)


def test_several_labels_are_answered_by_thresholds_of_the_mean() -> None:
    """Scores are scikit-learn's, at thresholds of validation alone; the gain is paired over the texts."""
    seeds = [make_several(seed) for seed in range(3)]
    frames = {run.run_id: frame for run, frame in seeds}
    evidence = make_evidence([run for run, _ in seeds], predictions=frames)
    markdown = render_markdown(evidence, text=ENGLISH)
    header, _, row = read_section(markdown, "Seeds together")
    assert header[1:7] == [
        "Exact match (95 % interval)",
        "Against one seed, points (95 % interval)",
        "F1 (macro)",
        "F1 (micro)",
        "F1 (samples)",
        "mAP",
    ]
    (validation, truth), (test, true) = (
        (
            np.mean([frame.query(f"split == '{split}'").filter(like="prob") for frame in frames.values()], 0),
            np.array(
                [[one in cell for one in "abc"] for cell in seeds[0][1].query(f"split == '{split}'")["label"]]
            ),
        )
        for split in ("validation", "test")
    )
    answers = test >= choose_thresholds(validation, truth)
    assert (answers != (test >= choose_thresholds(test, true))).any()  # or the split does not matter
    right = (answers == true).all(axis=1)
    low, high = bound_share(float(right.mean()), rows=400)
    assert row[1] == f"{100 * right.mean():.1f} % ({100 * low:.1f}–{100 * high:.1f} %)"
    alone = np.mean(
        [(frame["label"] == frame["prediction"])[frame["split"] == "test"] for _, frame in seeds], 0
    )
    half = 1.966 * (right - alone).std(ddof=1) / 20  # Student's t of 399 degrees of freedom
    [lora] = evidence.rows
    assert lora.together is not None
    gain = lora.together.gain
    assert gain.estimate == pytest.approx((right - alone).mean())
    assert gain.estimate > 0.03
    assert gain.low == pytest.approx(gain.estimate - half, abs=1e-4)
    scores = [f1_score(true, answers, average=way, zero_division=1) for way in ("macro", "micro", "samples")]
    assert row[3:7] == [f"{100 * one:.1f} %" for one in (*scores, average_precision_score(true, test))]
    assert "chosen by the label's F1 on the mean" in markdown
    assert "所有适配器共用一个基座" in render_markdown(evidence, text=CHINESE)


def test_seeds_of_other_texts_do_not_answer_together(
    results: list[Result], predictions: dict[str, pd.DataFrame]
) -> None:
    other = predictions[results[3].run_id].copy()
    other.loc[other["split"] == "validation", "id"] += 1000
    evidence = make_evidence(results, predictions={**predictions, results[3].run_id: other})
    assert [row.together for row in evidence.rows] == [None, None]
    assert evidence.rows[1].calibration is not None
