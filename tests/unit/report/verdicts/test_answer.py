"""The sentence that opens a report: each part only where the numbers carry it, the same in both languages."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from records import NO_PRICES, make_evidence, make_predictions, make_run

from bench.report.language.text import LANGUAGES, Text
from bench.report.numbers.contrast import group_rows
from bench.report.verdicts.answer import say_answer
from bench.results.store import Result

ENGLISH, CHINESE = LANGUAGES["en"], LANGUAGES["zh"]
GIB = 2**30
PEAKS = {"full": 22 * GIB, "lora": 14 * GIB, "qlora": 9 * GIB, "tfidf": GIB, "zero_shot": GIB}


def make_seeds(method: str, test: float | list[float], *, seeds: int = 3, **more: Any) -> list[Result]:
    """Runs of one configuration on a GPU; a list gives each seed its own accuracy."""
    values = test if isinstance(test, list) else [test] * seeds
    more = {"kind": "cuda", "peak": PEAKS[method]} | more
    return [make_run(method, seed=seed, test=one, **more) for seed, one in enumerate(values)]


def sweep(lora: float | list[float] = 0.88, **more: Any) -> list[Result]:
    return [
        *make_seeds("full", 0.885, **more),
        *make_seeds("lora", lora, **more),
        *make_seeds("qlora", 0.8825, **more),
    ]


def answer(results: list[Result], text: Text = ENGLISH, **more: Any) -> str:
    evidence = make_evidence(results, **more)
    (rows,) = group_rows(evidence.rows).values()
    return say_answer(rows, evidence.comparisons, text)


def test_methods_that_accuracy_does_not_tell_apart_are_told_apart_by_memory() -> None:
    assert answer(sweep()) == (
        "Undecided between Full fine-tuning (88.5 %), LoRA (88.0 %) and QLoRA (88.2 %): about 20,000 test "
        "texts would decide; of these, QLoRA needs the least memory (9.00 GiB, CUDA reserved)."
    )
    assert answer(sweep(), CHINESE) == (
        "Full fine-tuning（88.5%），LoRA（88.0%） 和 QLoRA（88.2%） 之间尚无定论："
        "约 20,000 条测试文本可以定论；"
        "其中 QLoRA 所需显存最少（9.00 GiB，CUDA 预留）。"
    )
    overlapping = [*make_seeds("full", 0.885), *make_seeds("lora", 0.88, peak=22 * GIB)]
    assert "memory" not in answer(overlapping)


def test_a_planted_difference_is_found_and_one_that_seeds_alone_can_make_is_not() -> None:
    assert answer(sweep([0.70, 0.71, 0.69])) == (
        "Undecided between Full fine-tuning (88.5 %) and QLoRA (88.2 %): about 20,000 test texts would "
        "decide; of these, QLoRA needs the least memory (9.00 GiB, CUDA reserved); "
        "Full fine-tuning is more accurate than LoRA."
    )
    two = [*make_seeds("full", 0.9), *make_seeds("lora", 0.7)]
    assert answer(two) == (
        "Full fine-tuning is the most accurate (90.0 %), 20.0 points above LoRA; "
        "LoRA needs the least memory (14.00 GiB, CUDA reserved)."
    )
    assert (
        "Undecided between Full fine-tuning (88.5 %), LoRA (78.7 %) and QLoRA (88.2 %): it takes"
        in answer(sweep([0.60, 0.88, 0.88]))
    )
    single = [make_run("full", test=0.9), make_run("lora", test=0.75)]
    assert answer(single) == (
        "Full fine-tuning has the highest accuracy (90.0 %); with one seed it is unknown whether "
        "Full fine-tuning is more accurate than LoRA."
    )


def test_equal_scores_have_no_highest_and_are_not_thereby_equal() -> None:
    """Also where the predictions are lost, so that the methods cannot be compared."""
    equal = [*make_seeds("full", 0.88), *make_seeds("lora", 0.88)]
    assert answer(equal).startswith(
        "Full fine-tuning and LoRA were measured at the same accuracy (88.0 %); undecided between Full "
        "fine-tuning (88.0 %) and LoRA (88.0 %): about "
    )
    lost = answer(equal, predictions={})
    assert lost.startswith("Full fine-tuning and LoRA were measured at the same accuracy (88.0 %)")
    assert "Full fine-tuning could not be compared with LoRA" in lost
    one_more = answer([*equal, *make_seeds("qlora", 0.875)])
    assert one_more.startswith(
        "Undecided between Full fine-tuning (88.0 %), LoRA (88.0 %) and QLoRA (87.5 %)"
    )
    # 0.9 is also a mean of other numbers
    mean = [*make_seeds("full", [0.89, 0.9, 0.91]), *make_seeds("lora", 0.9)]
    assert "Full fine-tuning and LoRA were measured at the same accuracy (90.0 %)" in answer(mean)


def test_methods_that_answer_alike_are_said_to() -> None:
    """As where a tokenizer reads nothing, so that each method answers the majority class."""
    runs = [*make_seeds("full", 0.5), *make_seeds("lora", 0.5), *make_seeds("tfidf", 0.5, seeds=1)]
    answers = {one.run_id: make_predictions(runs[0]) for one in runs}
    assert answer(runs, predictions=answers) == (
        "Full fine-tuning and LoRA answer the test texts alike (50.0 %); of these, LoRA needs the least "
        "memory (14.00 GiB, CUDA reserved); the best baseline, TF-IDF, answers alike."
    )


def test_methods_that_were_not_compared_are_said_to_be_unknown() -> None:
    said = answer(sweep(), predictions={})
    assert said.startswith("Full fine-tuning has the highest accuracy (88.5 %); ")
    assert said.endswith("Full fine-tuning could not be compared with LoRA and QLoRA.")


def test_baselines_alone_are_ranked_and_not_said_to_have_failed_a_comparison() -> None:
    majority = make_run("majority", test=0.25, kind="cuda", peak=GIB // 2)
    assert answer([majority, *make_seeds("tfidf", 0.6, seeds=1)]) == (
        "TF-IDF has the highest accuracy (60.0 %); Majority class needs the least memory "
        "(0.50 GiB, CUDA reserved)."
    )


@pytest.mark.parametrize(
    ("baseline", "words"),
    [
        (0.60, "training gains 28.5 points over the best baseline, TF-IDF (60.0 %)."),
        (
            0.88,
            "whether training gains over the best baseline, TF-IDF (88.0 %), is undecided: about 35,000 test "
            "texts would decide.",
        ),
        (0.99, "the best baseline, TF-IDF, is more accurate (99.0 %)."),
    ],
)
def test_training_is_held_against_the_best_baseline(baseline: float, words: str) -> None:
    assert answer([*make_seeds("tfidf", baseline, seeds=1), *sweep()]).endswith(words)


@pytest.mark.parametrize(("zero_shot", "other"), [(0.5, "TF-IDF (60.0 %)"), (0.7, "Zero-shot (70.0 %)")])
def test_of_several_baselines_that_are_compared_the_best_on_validation_is_named(
    zero_shot: float, other: str
) -> None:
    scores = {"tfidf": 0.6, "zero_shot": zero_shot}
    baselines = [
        run for name, score in scores.items() for run in make_seeds(name, score, seeds=1, validation=score)
    ]
    said = answer([*baselines, *sweep()])
    assert said.endswith(f"points over the best baseline, {other}.")
    assert said.count("baseline") == 1


def test_scores_of_random_weights_are_no_answer() -> None:
    assert answer([*make_seeds("tfidf", 0.9, seeds=1), *sweep(weights="random")]) == (
        "The base model's weights are random, so accuracy means nothing; "
        "QLoRA needs the least memory (9.00 GiB, CUDA reserved)."
    )


def test_what_has_no_answer_says_so() -> None:
    assert answer([make_run("lora", status="oom")]) == "No run has succeeded."
    assert answer([make_run("lora", test=None)]) == "No run has a test accuracy."
    assert answer([make_run("lora", test=0.885)]) == "LoRA reaches an accuracy of 88.5 %."
    assert answer(make_seeds("tfidf", 0.6, seeds=1)) == "TF-IDF reaches an accuracy of 60.0 %."


def test_both_languages_say_the_same_numbers() -> None:
    planted = [*make_seeds("tfidf", 0.6, seeds=1), *sweep([0.70, 0.71, 0.69])]
    for results in (
        planted,
        sweep(),
        sweep(weights="random"),
        [make_run("full"), make_run("lora", test=0.7)],
    ):
        english, chinese = (re.findall(r"[\d.]*\d", answer(results, text)) for text in (ENGLISH, CHINESE))
        assert sorted(english) == sorted(chinese)
        assert len(english) > 0


def plant_nearly(methods: dict[str, int], *, seeds: int = 3) -> tuple[list[Result], dict[str, pd.DataFrame]]:
    """Methods that answer 8,000 texts nearly alike: each wrong on the same 400, and some of its own."""
    rows, results, predictions = 8000, list[Result](), {}
    labels = np.array(["a", "b", "c"], dtype=object)[np.arange(rows) % 3]
    for place, (method, wrong) in enumerate(methods.items()):
        for seed in range(seeds):
            predicted = labels.copy()
            start = 400 + 1600 * place + 4 * seed
            for some in (slice(0, 400), slice(start, start + wrong)):
                predicted[some] = np.where(labels[some] == "a", "b", "a")
            share = float((predicted == labels).mean())
            run = make_run(method, seed=seed, test=share, kind="cuda", peak=PEAKS[method])
            results.append(replace(run, data={"sizes": {"test": rows}}))
            predictions[run.run_id] = pd.DataFrame(
                {"split": "test", "id": range(rows), "label": labels, "prediction": predicted}
            )
    return results, predictions


def test_methods_that_are_shown_to_be_equal_are_said_to_be() -> None:
    runs, predictions = plant_nearly({"full": 80, "lora": 84, "qlora": 76})
    assert answer(runs, predictions=predictions) == (
        "QLoRA (94.0 %), Full fine-tuning (94.0 %) and LoRA (94.0 %) have the same accuracy within 1 point; "
        "of these, QLoRA needs the least memory (9.00 GiB, CUDA reserved)."
    )
    assert answer(runs, CHINESE, predictions=predictions).startswith(
        "QLoRA（94.0%），Full fine-tuning（94.0%） 和 LoRA（94.0%） 的准确率相同，相差不到 1 个百分点；"
    )
    strict = replace(NO_PRICES, equivalence_points=0.5)
    assert "have the same accuracy within 0.5 points" in answer(runs, predictions=predictions, report=strict)


def test_what_equals_the_best_and_what_is_undecided_are_told_apart() -> None:
    runs, predictions = plant_nearly({"full": 80, "lora": 96, "qlora": 400}, seeds=3)
    few = {one.run_id for one in runs if one.config["method"]["name"] == "qlora" and one.config["seed"] > 0}
    kept = [one for one in runs if one.run_id not in few]
    said = answer(kept, predictions=predictions)
    assert said.startswith(
        "Full fine-tuning (94.0 %) and LoRA (93.8 %) have the same accuracy within 1 point; "
    )
    runs, predictions = plant_nearly({"full": 80, "tfidf": 84})
    assert "the best baseline, TF-IDF (94.0 %), has the same accuracy within 1 point." in answer(
        runs, predictions=predictions
    )


def test_what_equals_the_best_need_not_equal_each_other() -> None:
    runs, predictions = plant_nearly({"full": 80, "lora": 84, "qlora": 76})
    evidence = make_evidence(runs, predictions=predictions)
    changed = [
        one if "qlora" in (one.one.method, one.other.method) else replace(one, verdict="difference")
        for one in evidence.comparisons
    ]
    said = say_answer(evidence.rows, changed, ENGLISH)
    assert said.startswith(
        "QLoRA (94.0 %) has the same accuracy within 1 point as Full fine-tuning (94.0 %) and LoRA (94.0 %); "
    )
