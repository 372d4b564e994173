"""What table.md says of a stream: new and old texts, forgetting, cost, and which methods differ."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from records import make_evidence, make_run, render_markdown

from bench.report.language.text import LANGUAGES
from bench.report.numbers.evidence import Evidence
from bench.results.store import Result

ENGLISH, CHINESE = LANGUAGES["en"], LANGUAGES["zh"]
TESTS = [300, 100]


def make_updated(
    method: str, seed: int, accuracy: list[list[float]], seconds: list[float], update: str | None = None
) -> tuple[Result, pd.DataFrame]:
    """A run on two pieces and its predictions, as accurate on each as its last training."""
    test = float(np.average(accuracy[-1], weights=TESTS))
    made = make_run(method, seed=seed, test=test)
    made.config["method"]["update"] = update
    updates: dict[str, Any] = {
        "tests": TESTS,
        "new_labels": [["a", "b"], ["c"]],
        "accuracy": accuracy,
        "train_texts": [900, 1200 if update is None else 300],
        "train_seconds": seconds,
    }
    right = np.concatenate(
        [np.arange(count) < share * count for count, share in zip(TESTS, accuracy[-1], strict=True)]
    )
    frame = pd.DataFrame(
        {"split": "test", "id": range(400), "label": "a", "prediction": np.where(right, "a", "b")}
    )
    return replace(made, updates=updates), frame


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    """Full fine-tuning forgets nothing and learns the new half; LoRA goes on and forgets a tenth."""
    made = [
        *(make_updated("full", seed, [[0.9, 0.2], [1.0, 0.5]], [10.0, 20.0]) for seed in range(3)),
        *(make_updated("lora", seed, [[0.9, 0.2], [0.8, 1.0]], [10.0, 5.0], "continue") for seed in range(3)),
    ]
    predictions = {run.run_id: frame for run, frame in made}
    return make_evidence([run for run, _ in made], predictions=predictions)


def read_section(markdown: str, title: str) -> tuple[str, list[list[str]]]:
    section = markdown.partition(f"## {title}\n")[2].partition("\n## ")[0]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if "|" in line]
    return section, cells


def test_a_row_says_what_a_method_knows_forgets_and_costs(evidence: Evidence) -> None:
    section, rows = read_section(render_markdown(evidence, text=ENGLISH), "Updates, on new and on old texts")
    assert "The texts come in 2 pieces, with 300, 100 test texts. With piece 2 comes c." in section
    assert rows[0] == [
        "Method",
        "After piece 2: new / old texts",
        "Forgetting, points",
        "Backward transfer, points",
        "Training of all updates",
    ]
    assert rows[2:4] == [
        ["Full fine-tuning, anew on all texts", "50.0 / 100.0 %", "-10.0", "+10.0", "20.0 s, 1200 texts"],
        ["LoRA", "100.0 / 80.0 %", "+10.0", "-10.0", "5.0 s, 300 texts"],
    ]


def test_methods_are_compared_on_new_and_on_old_texts_apart(evidence: Evidence) -> None:
    _, rows = read_section(render_markdown(evidence, text=ENGLISH), "Updates, on new and on old texts")
    header, _, pair = rows[4:7]
    assert header == ["Pair", "New texts, points (95 % interval)", "Old texts, points (95 % interval)"]
    assert pair[0] == "LoRA vs Full fine-tuning, anew on all texts"
    assert pair[1].startswith("+50.0 (")
    assert pair[2].startswith("-20.0 (")
    assert all(cell.endswith(": they differ") for cell in pair[1:])
    [stream] = evidence.updates
    right = np.arange(100) >= 50  # LoRA alone has them right
    error = right.std(ddof=1) / 10
    assert stream.pairs[0].new.accuracy.low == pytest.approx(0.5 - 1.984217 * error, abs=1e-5)


def test_the_section_is_there_in_chinese_and_not_without_a_stream(evidence: Evidence) -> None:
    section, rows = read_section(render_markdown(evidence, text=CHINESE), "更新：新文本与旧文本")
    assert "第 2 批带来标签 c" in section
    assert rows[2][0] == "Full fine-tuning，用全部文本重新训练"
    assert rows[3][1] == "100.0 / 80.0%"
    plain = make_evidence([make_run("full"), make_run("lora")])
    assert plain.updates == []
    assert "Updates, on new" not in render_markdown(plain, text=ENGLISH)
