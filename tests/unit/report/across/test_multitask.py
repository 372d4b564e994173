"""Several tasks in the report: a row for each strategy, paired by text, and harm where a test finds it."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from records import TEST_SIZE, make_evidence, make_predictions, make_run, render_markdown

from bench.report.across.multitask import Multitask, Strategy
from bench.report.language.text import LANGUAGES
from bench.report.numbers.evidence import Evidence
from bench.results.store import Result

TASKS = ("topics", "shares")
ENGLISH, CHINESE = LANGUAGES["en"], LANGUAGES["zh"]


def join(
    runs: Sequence[Result], *, seed: int, worse: int, shares: str = "shares", test_texts: int = TEST_SIZE
) -> tuple[Result, pd.DataFrame]:
    """A run on both tasks that answers as the two runs do, but for some more errors on the second task."""
    frames = [make_predictions(one) for one in runs]
    right = np.flatnonzero(frames[1]["label"] == frames[1]["prediction"])
    label = frames[1].columns.get_loc("prediction")
    for place in right[: abs(worse)]:
        frames[1].iloc[place, label] = {"a": "b", "b": "c", "c": "a"}[frames[1]["label"][place]]
    for task, frame in zip(TASKS, frames, strict=True):
        frame[["label", "prediction"]] = f"{task}: " + frame[["label", "prediction"]]
    whole = pd.concat(frames, ignore_index=True).assign(id=range(2 * TEST_SIZE))
    is_right = whole["label"] == whole["prediction"]
    made = make_run(
        "lora", data="both", seed=seed, r=16, names={"data": "tasks"}, test=float(is_right.mean())
    )
    labels = [f"{task}: {name}" for task in TASKS for name in "abc"]
    parts = {
        task: {"fingerprint": data, "labels": ["a", "b", "c"], "sizes": {"test": test_texts}}
        for task, data in zip(TASKS, ("topics", shares), strict=True)
    }
    return replace(made, labels=labels, data={**made.data, "tasks": parts}), whole


def make_tasks(
    *, worse: int, seeds: Sequence[int] = (0, 1, 2), methods: Sequence[str] = ("full", "lora"), **more: Any
) -> Evidence:
    """Runs of each method on each task alone, and of LoRA on both, whose second task has more errors."""
    runs, predictions = list[Result](), dict[str, pd.DataFrame]()
    for seed in seeds:
        for method in methods:
            for task in TASKS:
                runs.append(
                    make_run(method, data=task, seed=seed, names={"data": task}, total=1000, trainable=100)
                )
                predictions[runs[-1].run_id] = make_predictions(runs[-1])
        alone = [make_run("lora", data=task, seed=seed) for task in TASKS]
        joined, frame = join(alone, seed=seed, worse=worse, **more)
        runs.append(joined)
        predictions[joined.run_id] = frame
    for one in runs:
        one.model["precision"] = "fp32"
    return make_evidence(runs, predictions=predictions)


def find(found: Multitask, kind: str) -> Strategy:
    return next(one for one in found.strategies if one.kind == kind)


def test_strategies_are_rows_with_accuracies_bytes_and_time() -> None:
    [found] = make_tasks(worse=40).multitask
    assert [one.kind for one in found.strategies] == ["models", "adapters", "joint"]
    assert found.reference is find(found, "adapters")
    assert find(found, "models").weight_bytes == 2 * 1000 * 4
    assert find(found, "adapters").weight_bytes == (900 + 100 + 100) * 4
    assert find(found, "adapters").train_seconds == pytest.approx(2 * 12.34)
    joint = find(found, "joint")
    assert joint.accuracies[0] == pytest.approx(0.885)
    assert joint.accuracies[1] == pytest.approx(0.885 - 40 / TEST_SIZE)
    same, harmed = joint.comparisons
    assert same is not None
    assert same.is_alike
    assert harmed is not None
    assert harmed.accuracy.estimate == pytest.approx(-40 / TEST_SIZE)
    assert harmed.verdict == "difference"


def test_harm_is_named_where_the_paired_test_finds_it_and_nowhere_else() -> None:
    shown = render_markdown(make_tasks(worse=40), text=ENGLISH)
    assert "## Several tasks" in shown
    assert re.search(r"LoRA: an adapter each, one base +\| r=8", shown)
    assert re.search(r"LoRA: one for all, a head each +\| r=16", shown)
    [line] = [line for line in shown.splitlines() if "Negative transfer" in line]
    assert line.startswith(
        "- Negative transfer: on shares, LoRA: one for all, a head each is less accurate than LoRA: an "
        "adapter each, one base by 10.0 points (p &lt; 0.001)."
    )
    assert "在 shares 上" in render_markdown(make_tasks(worse=40), text=CHINESE)
    shown = render_markdown(make_tasks(worse=2), text=ENGLISH)
    assert "Negative transfer is not shown: on no task" in shown
    assert "未显示负迁移" in render_markdown(make_tasks(worse=2), text=CHINESE)


def test_one_seed_is_no_transfer_and_without_adapters_nothing_is_compared() -> None:
    shown = render_markdown(make_tasks(worse=40, seeds=(0,)), text=ENGLISH)
    assert "differs, of one seed" in shown
    assert "Some differences are of one seed alone" in shown
    evidence = make_tasks(worse=40, methods=("full",))
    [found] = evidence.multitask
    assert (found.reference, [one.kind for one in found.strategies]) == (None, ["models", "joint"])
    assert "Nothing is compared: no run has an adapter for each task" in render_markdown(
        evidence, text=ENGLISH
    )


def test_what_is_learned_of_all_tasks_is_no_further_data_set() -> None:
    shown = render_markdown(make_tasks(worse=2), text=ENGLISH)
    header = next(line for line in shown.splitlines() if "Mean rank" in line)
    assert "topics" in header
    assert "tasks" not in header


def test_runs_on_other_texts_are_not_beside_it() -> None:
    [found] = make_tasks(worse=2, shares="shares, split otherwise").multitask
    assert [one.kind for one in found.strategies] == ["joint"]
    [found] = make_tasks(worse=2, test_texts=TEST_SIZE - 1).multitask  # than its predictions have
    assert find(found, "joint").comparisons == (None, None)


def test_what_was_measured_of_all_adapters_stands_beside_their_weights() -> None:
    evidence = make_tasks(worse=2)
    rows = find(evidence.multitask[0], "adapters").rows
    runs = {task: row.run_ids[0] for task, row in zip(TASKS, rows, strict=True)}
    form = {
        "form": "base + all adapters",
        "batch_size": 1,
        "p50_ms": 1.0,
        "p95_ms": 1.0,
        "texts_per_second": 1,
    }
    found = {"tasks": runs, "forms": [form], "memory": {"kind": "cpu_resident", "peak_bytes": 2**30}}
    first = next(one for one in evidence.results if one.run_id == runs["topics"])
    shown = render_markdown(replace(evidence, latencies=[(first, found)]), text=ENGLISH)
    assert "0.00 (answering 1.00 GiB" in shown
    assert "LoRA, an adapter for each of topics and shares" in shown
    assert "answering" not in render_markdown(evidence, text=ENGLISH)
