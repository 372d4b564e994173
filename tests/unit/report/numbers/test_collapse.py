"""Runs that did not train, their likely cause, and that they are left out of what a report says."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from records import NO_PRICES, make_evidence, make_run, render_markdown
from report_folder import write_results

from bench.report.language.text import LANGUAGES
from bench.report.numbers.collapse import is_untrained, suggest_cause
from bench.report.numbers.evidence import gather
from bench.report.sections.methods import render_comparisons
from bench.report.tabulate import render_csv
from bench.results.store import Result

ENGLISH, CHINESE = LANGUAGES["en"], LANGUAGES["zh"]
LABELS = {"a": 160, "b": 140, "c": 100}


def plant(
    method: str = "lora", test: float = 0.88, f1_macro: float | None = None, counts: Any = None, **more: Any
) -> Result:
    """A run whose record says how many test texts each label has: 40 % have the most frequent."""
    run = make_run(method, test=test, **more)
    scores = {"accuracy": test, "f1_macro": test if f1_macro is None else f1_macro, "loss": 1.1}
    return replace(
        run,
        metrics={**run.metrics, "test": scores},
        data={**run.data, "label_counts": {"test": LABELS if counts is None else counts}},
    )


@pytest.mark.parametrize(
    ("test", "f1_macro", "counts", "untrained"),
    [
        (0.40, 0.19, LABELS, True),  # the most frequent label alone
        (0.25, 0.13, LABELS, True),  # another label alone
        (0.35, 0.33, LABELS, True),  # answers at random
        (0.42, 0.25, LABELS, True),
        (0.50, 0.45, LABELS, False),
        (0.88, 0.88, LABELS, False),
        (0.95, 0.325, {"a": 380, "b": 10, "c": 10}, True),
        (0.955, 0.62, {"a": 380, "b": 10, "c": 10}, False),  # tells rare labels from a frequent one
        (0.33, 0.33, {}, False),  # the record does not say
    ],
)
def test_a_run_trained_if_it_is_above_the_most_frequent_label_or_tells_labels_apart(
    test: float, f1_macro: float, counts: dict[str, int], untrained: bool
) -> None:
    assert is_untrained(plant(test=test, f1_macro=f1_macro, counts=counts)) == untrained


def test_baselines_and_random_weights_are_not_judged() -> None:
    assert not is_untrained(plant("majority", 0.40, 0.19))
    assert not is_untrained(plant("tfidf", 0.40, 0.19))
    assert not is_untrained(plant(test=0.40, f1_macro=0.19, weights="random"))


def with_config(run: Result, **model: Any) -> Result:
    train = run.config["train"] | {
        "warmup_steps": 30,
        "micro_batch_size": 16,
        "gradient_accumulation_steps": 1,
    }
    method = run.config["method"] | {"default_lr": 1e-3}
    return replace(run, config=run.config | {"train": train, "method": method}, model={"steps": 300, **model})


@pytest.mark.parametrize(
    ("model", "losses", "lr", "cause"),
    [
        ({"skipped_steps": 20}, [1.6, 1.2, 0.4], 1e-3, "overflow"),
        ({"skipped_steps": 2}, [1.6, 1.2, 0.4], 1e-3, "none"),
        ({"steps": 20}, [1.6, 1.2], 1e-3, "warmup"),
        ({"steps": 36}, [1.6, 1.2], 1e-3, "few_steps"),  # 576 of 1,296 texts
        ({}, [1.6, 1.61, 1.59, 1.6], 1e-3, "flat_loss"),
        ({}, [1.6, 2.9, 2.8, 2.7], 1e-3, "large_loss"),
        ({}, [1.6, 9.0, 1.6, 1.6], 1e-3, "large_loss"),
        ({}, [1.6, 1.61, 1.59, 1.6], 1e-5, "low_rate"),
        ({}, [1.6, 1.2, 0.9, 0.4], 1e-3, "none"),
        ({}, [], 1e-3, "none"),
    ],
)
def test_the_likely_cause_is_read_from_the_record_and_the_losses(
    model: dict[str, Any], losses: list[float], lr: float, cause: str
) -> None:
    history = [{"step": 10 * number, "loss": loss} for number, loss in enumerate(losses)]
    history.append({"step": 300, "validation_accuracy": 0.4})
    run = with_config(plant(test=0.4, f1_macro=0.19, lr=lr), **model)
    found = suggest_cause(run, history)
    assert found.name == cause
    for text in (ENGLISH, CHINESE):
        assert "{" not in text(f"causes.{found.name}", **found.values)


def collapse(*, untrained: int = 3) -> list[Result]:
    """QLoRA of which so many seeds of three did not train, LoRA and its baseline."""
    quantised = [
        plant("qlora", 0.40 if seed < untrained else 0.88, 0.19 if seed < untrained else 0.88, seed=seed)
        for seed in range(3)
    ]
    return [plant("tfidf", 0.7), *quantised, *(plant("lora", 0.88, seed=seed) for seed in range(3))]


def test_a_method_that_did_not_train_is_marked_and_part_of_nothing_else() -> None:
    evidence = make_evidence(collapse())
    shown = render_markdown(evidence, text=ENGLISH)
    answer, table = shown.partition("\n| Method")[::2]
    assert "LoRA reaches an accuracy of 88.0 %" in answer
    assert "QLoRA did not train: no better than the most frequent label.**" in answer
    (line,) = [line for line in table.splitlines() if line.startswith("| QLoRA ")][:1]
    assert "40.0 %¹" in line
    assert "¹ QLoRA: not trained, and part of no comparison or finding." in shown
    assert "right for 40.0 % of the test texts. Likely cause: its record and its history show none." in shown
    findings = shown.partition("## Key findings")[2].partition("\n## ")[0]
    assert "QLoRA" not in findings
    assert "- Not compared, as they did not train: QLoRA." in shown
    assert "QLoRA did not train" in shown.partition("article's claims")[2]
    assert {(one.one.method, one.other.method) for one in evidence.comparisons} == {("lora", "tfidf")}
    assert "QLoRA" not in render_comparisons(evidence.comparisons)
    chinese = render_markdown(evidence, text=CHINESE)
    assert "QLoRA 未训练成功：不比最常见的标签更好。**" in chinese


def test_a_seed_that_did_not_train_is_named_and_counts() -> None:
    evidence = make_evidence(collapse(untrained=1))
    shown = render_markdown(evidence, text=ENGLISH)
    assert "QLoRA: 1 of its 3 chosen runs did not train" in shown
    assert "QLoRA did not train" not in shown
    assert len(evidence.comparisons) == 3


def test_where_no_training_trained_the_baselines_are_what_there_is() -> None:
    shown = render_markdown(make_evidence(collapse()[:4]), text=ENGLISH)
    assert (
        "**TF-IDF reaches an accuracy of 70.0 %; QLoRA did not train: no better than the most "
        "frequent label.**" in shown
    )
    alone = render_markdown(make_evidence(collapse()[1:4]), text=ENGLISH)
    assert "**QLoRA did not train: no better than the most frequent label.**" in alone


def test_the_cause_is_found_in_the_folder_of_the_results(tmp_path: Path) -> None:
    runs = [with_config(run) if run.config["method"]["name"] == "qlora" else run for run in collapse()]
    store = write_results(tmp_path, runs)
    for run in runs[1:3]:
        store.write_history(run.run_id, [{"step": 10 * number, "loss": 1.6} for number in range(8)])
    (tmp_path / "runs" / runs[3].run_id / "history.jsonl").unlink()
    evidence = gather(store, NO_PRICES)
    assert {run_id: cause.name for run_id, cause in evidence.causes.items()} == {
        runs[1].run_id: "flat_loss",
        runs[2].run_id: "flat_loss",
        runs[3].run_id: "none",
    }
    shown = render_markdown(evidence, text=ENGLISH)
    said = "Likely cause: train.lr=0.001 is too high, as the loss did not fall (1.6 at first, 1.6 at last).\n"
    assert said in shown
    (line,) = [line for line in render_csv(evidence, text=ENGLISH).splitlines() if line.startswith("QLoRA,")]
    assert line.endswith("," + " ".join(run.run_id for run in runs[1:4]))
