"""Key findings: each appears only where the numbers carry it, and says the same in both languages."""

import re
from typing import Any

from records import make_evidence, make_run, render_markdown

from bench.report.language.text import LANGUAGES, Text
from bench.report.verdicts.findings import find_all
from bench.results.store import Result

ENGLISH, CHINESE = LANGUAGES["en"], LANGUAGES["zh"]
GIB = 2**30


def make_seeds(method: str, *, seeds: int = 3, **values: Any) -> list[Result]:
    """Runs of one configuration; a list gives each seed its own value."""
    return [
        make_run(
            method,
            seed=seed,
            **{name: one[seed] if isinstance(one, list) else one for name, one in values.items()},
        )
        for seed in range(seeds)
    ]


def gpu_sweep(**lora: Any) -> list[Result]:
    """The article's three methods on a GPU: QLoRA saves memory, accuracy does not differ."""
    return [
        *make_seeds("full", kind="cuda", peak=22 * GIB, train_seconds=[400.0, 401.0, 402.0], test=0.885),
        *make_seeds(
            "lora", **({"kind": "cuda", "peak": 14 * GIB, "train_seconds": 300.0, "test": 0.88} | lora)
        ),
        *make_seeds("qlora", kind="cuda", peak=9 * GIB, train_seconds=330.0, test=0.8825),
    ]


def list_sentences(results: list[Result], text: Text = ENGLISH) -> list[str]:
    evidence = make_evidence(results)
    return [one.sentence for one in find_all(evidence.rows, evidence.comparisons, text)]


def find(results: list[Result], words: str) -> list[str]:
    return [one for one in list_sentences(results) if re.search(words, one)]


def test_the_findings_of_a_sweep_on_a_gpu() -> None:
    assert list_sentences(gpu_sweep()) == [
        "QLoRA used 36 % less peak memory than LoRA (9.00 against 14.00 GiB).",
        "QLoRA used 59 % less peak memory than Full fine-tuning (9.00 against 22.00 GiB).",
        "QLoRA took 10 % more time to train than LoRA (5 min 30 s against 5 min 00 s).",
        "LoRA trained in 25 % less time than Full fine-tuning (5 min 00 s against 6 min 41 s).",
        "Whether QLoRA or LoRA is more accurate is undecided: about 20,000 test texts would decide.",
        "Full fine-tuning, LoRA and QLoRA: 0.324 % of the weights are trained (73.7K of 22.8M).",
    ]


def test_other_numbers_make_other_sentences() -> None:
    assert find(gpu_sweep(peak=10 * GIB), "QLoRA used 10 % less peak memory than LoRA")
    assert find(gpu_sweep(peak=8 * GIB), "QLoRA used 12 % more peak memory than LoRA")
    assert find(gpu_sweep(peak=9 * GIB + 1), "QLoRA and LoRA used about the same peak memory")
    assert find(gpu_sweep(train_seconds=600.0), "QLoRA trained in 45 % less time than LoRA")


def test_runs_that_overlap_are_no_difference() -> None:
    assert find(
        gpu_sweep(peak=[8 * GIB, 14 * GIB, 16 * GIB]), "QLoRA and LoRA do not clearly differ in peak memory"
    )
    assert find(
        gpu_sweep(train_seconds=[200.0, 250.0, 340.0]), "QLoRA and LoRA do not clearly differ in train time"
    )


def test_one_run_says_nothing_of_time_and_little_of_memory() -> None:
    results = [make_run("lora", peak=2 * GIB, train_seconds=10.0), make_run("qlora", train_seconds=20.0)]
    assert find(results, r"with one run it is unknown how much of the difference is chance")
    assert not find(results, "more time")
    assert find(
        results, r"QLoRA used 50 % less peak memory .*\. One run only: how much it varies is unknown\.$"
    )


def test_scores_of_random_weights_are_no_finding() -> None:
    results = gpu_sweep(test=0.5, weights="random")
    sentences = list_sentences([make_run("tfidf", kind="cuda", test=0.9), *results])
    assert sentences[0].startswith("The base model's weights are random (LoRA)")
    assert find(results, "QLoRA used 36 % less peak memory")


def test_times_of_other_hardware_are_not_compared() -> None:
    for hardware in ("NVIDIA H100", None):
        results = gpu_sweep(hardware=hardware)
        assert find(results, "The train times of QLoRA and LoRA cannot be compared")
        assert not find(results, "QLoRA (took|trained)")


def test_a_method_without_a_success_is_named_and_nothing_else_is_said_of_it() -> None:
    results = [*gpu_sweep()[:6], make_run("qlora", status="oom", kind="cuda", lr=5e-4)]
    assert find(results, r"^QLoRA: none of its runs \(1\) succeeded")
    assert len(find(results, "QLoRA")) == 1
    assert find([make_run("qlora", status="oom")], "none of its runs")


def test_memory_of_a_gpu_is_never_held_against_that_of_a_cpu() -> None:
    results = [
        *make_seeds("lora", kind="cuda", peak=14 * GIB),
        *make_seeds("qlora", kind="cpu_resident", peak=GIB),
    ]
    markdown = render_markdown(make_evidence(results), text=ENGLISH)
    section = markdown.partition("## Key findings\n")[2].partition("\n## ")[0]
    assert "memory than" not in section
    assert section.count("### ") == 2  # a heading for each table


def test_a_variant_is_not_the_unquantised_twin() -> None:
    results = [
        *make_seeds("dora", peak=3 * GIB),
        *make_seeds("qlora", peak=2 * GIB),
        *make_seeds("full", peak=GIB),
    ]
    assert not find(results, "QLoRA (used|took|trained) .* than DoRA")


def test_each_finding_names_the_runs_it_rests_on() -> None:
    results = gpu_sweep()
    section = render_markdown(make_evidence(results), text=ENGLISH).partition("## Key findings\n")[2]
    cited = section.partition("QLoRA used 36 %")[2].splitlines()[1]
    ids = {
        method: " ".join(one.run_id for one in results if one.config["method"]["name"] == method)
        for method in ("lora", "qlora")
    }
    assert cited == f"  - Runs: QLoRA {ids['qlora']}; LoRA {ids['lora']}"


def test_both_languages_say_the_same_numbers() -> None:
    planted = [make_run("tfidf", kind="cuda", test=0.6), *gpu_sweep(test=[0.70, 0.71, 0.69])]
    for results in (
        planted,
        gpu_sweep(),
        gpu_sweep(weights="random"),
        gpu_sweep(peak=[8 * GIB, 9 * GIB, 20 * GIB]),
    ):
        pairs = zip(list_sentences(results), list_sentences(results, CHINESE), strict=True)
        for english, chinese in pairs:
            # a unit of time reads otherwise; Full fine-tuning and its like are names
            assert sorted(re.findall(r"[\d.]*\d", english)) == sorted(re.findall(r"[\d.]*\d", chinese)), (
                chinese
            )
