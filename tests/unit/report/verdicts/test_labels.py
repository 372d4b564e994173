"""What `bench recommend --labels` says: at which size it looks, what more labels bring and cost."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
from records import make_evidence, make_predictions, make_run, make_sized_run

from bench.report.blocks import write_markdown
from bench.report.language.text import LANGUAGES
from bench.report.verdicts.advice import describe_advice
from bench.report.verdicts.labels import LabelBudget
from bench.report.verdicts.recommend import TrainingLimits
from bench.results.store import Result

SIZES = (50, 100, 200, 400, 800)
RISING = dict(zip(SIZES, (0.6, 0.7, 0.78, 0.84, 0.88), strict=True))
FLAT = dict.fromkeys(SIZES, 0.88)


def make_method(accuracies: Mapping[int, float], method: str = "lora", **more: Any) -> list[Result]:
    """Three seeds at each size."""
    return [
        make_sized_run(size, method, test=accuracy, seed=seed, **more)
        for size, accuracy in accuracies.items()
        for seed in range(3)
    ]


def advise(
    results: list[Result],
    labels: int,
    cost: float | None = None,
    *,
    lang: str = "en",
    vram: float | None = None,
    hours: float | None = None,
) -> str:
    by_id = {one.run_id: one for one in results}
    blocks, _ = describe_advice(
        make_evidence(results),
        lambda run_id: make_predictions(by_id[run_id]),
        limits=TrainingLimits(vram, None if hours is None else 3600 * hours, None),
        text=LANGUAGES[lang],
        labels=LabelBudget(labels, cost),
    )
    return write_markdown(blocks)


@pytest.mark.parametrize(
    ("labels", "words", "taken"),
    [
        (200, "Labels: 200. The nearest size that was measured is 200 train texts", "78.0"),
        (140, "The nearest size that was measured is 100 train texts", "70.0"),
        (145, "The nearest size that was measured is 200 train texts", "78.0"),
        (1100, "The nearest size that was measured is 800 train texts", "88.0"),
        (1200, "Labels: 1200, more than were measured. The advice is what was measured with 800", "88.0"),
        (30, "Labels: 30, fewer than were measured. The advice is what was measured with 50", "60.0"),
    ],
)
def test_the_advice_is_of_the_size_nearest_in_ratio(labels: int, words: str, taken: str) -> None:
    shown = advise(make_method(RISING), labels)
    assert words in shown
    assert re.search(rf"Take LoRA with .* accuracy {taken} %\.", shown)


def test_what_smaller_sizes_take_is_said() -> None:
    shown = advise(make_method(RISING), 10)
    assert "what fewer bring is unknown, and sweep.curve=8 measures it" in shown  # 25, 12, 6
    assert "points more" not in shown


def test_the_method_is_the_one_that_is_ahead_at_this_size() -> None:
    runs = [
        *make_method(RISING),
        *make_method(dict.fromkeys(SIZES, 0.72), "full"),
    ]
    assert "Take Full fine-tuning" in advise(runs, 50)
    assert "Full fine-tuning is more accurate than the others that fit (LoRA)." in advise(runs, 50)
    assert "Take LoRA" in advise(runs, 800)
    assert "is undecided" not in advise(runs, 800)
    undecided = advise([*make_method(RISING), *make_method(RISING, "full")], 200)
    assert "is more accurate than the others" not in undecided
    assert "Undecided between" in undecided or "has the same accuracy" in undecided


def test_where_every_text_is_right_more_labels_bring_nothing() -> None:
    shown = advise(make_method(dict.fromkeys(SIZES, 1.0)), 200)
    assert "accuracy of 100.0 %" in shown
    assert ": 0.0 points more (90 % interval" in shown
    assert "-0.0" not in shown


def test_more_labels_are_read_off_the_law_between_the_sizes_and_forecast_beyond() -> None:
    shown = advise(make_method(RISING), 200)
    twice = re.search(
        r"With 400 labels, 2 times as many, LoRA would have an accuracy of (\S+) % \(\S+–\S+ %\) by the law "
        r"through the measured sizes: (\S+) points more \(90 % interval (\S+) to (\S+)\)",
        shown,
    )
    assert twice is not None
    here, points, low, high = map(float, twice.groups())
    assert here == pytest.approx(84, abs=1.5)
    assert points == pytest.approx(6, abs=1.5)
    assert low < points < high
    assert re.search(
        r"With 2000 labels, 10 times as many, LoRA would have an accuracy of 9\d\.\d % .* by forecast", shown
    )
    assert "a forecast goes as far as 10 times the most that were measured, 800." not in shown
    assert (
        "What 10000 labels would bring LoRA is unknown: a forecast goes as far as 10 times the most that "
        "were measured, 800." in advise(make_method(RISING), 1000)
    )


@pytest.mark.parametrize(
    ("lang", "per_point"), [("en", r"cost 20: (\S+) for each"), ("zh", r"花费 20：.*?花费 (\S+)（")]
)
def test_a_point_costs_what_the_labels_cost_divided_by_the_points(lang: str, per_point: str) -> None:
    shown = advise(make_method(RISING), 200, 0.1, lang=lang)
    cost = re.search(per_point, shown)
    points = re.search(r": (\S+) points more|提高 (\S+) 个百分点", shown)
    assert cost is not None
    assert points is not None
    assert float(cost[1]) == pytest.approx(20 / float(points[1] or points[2]), rel=0.02)
    ends = {"en": r"90 % interval (\S+) to (\S+)\)\.\n", "zh": r"90% 区间 (\S+) 至 (\S+)）。\n"}[lang]
    low, high = map(float, re.search(cost.re.pattern + r".*?" + ends, shown).groups()[1:])  # type: ignore[union-attr]
    assert low < float(cost[1]) < high


@pytest.mark.parametrize(
    ("lang", "words"),
    [
        ("en", ["Whether they help is undecided.", "there is no upper bound, as they may bring nothing"]),
        ("zh", ["增加标注是否有帮助尚无定论。", "可能毫无提高，故没有上限"]),
    ],
)
def test_labels_that_may_bring_nothing_have_a_price_without_an_upper_bound(
    lang: str, words: list[str]
) -> None:
    shown = advise(
        make_method(dict(zip(SIZES, (0.8, 0.83, 0.85, 0.86, 0.865), strict=True))), 800, 0.1, lang=lang
    )
    assert [one for one in words if one not in shown] == []


@pytest.mark.parametrize(("lang", "words"), [("en", "They help."), ("zh", "增加标注有帮助。")])
def test_labels_that_surely_help_are_called_so(lang: str, words: str) -> None:
    assert words in advise(make_method(RISING), 50, lang=lang)


@pytest.mark.parametrize(
    ("lang", "words"),
    [
        ("en", "More labels do not change Zero-shot: it is not trained on them."),
        ("zh", "更多标注不会改变 Zero-shot"),
    ],
)
def test_a_method_without_labels_is_not_changed_by_them(lang: str, words: str) -> None:
    assert words in advise([make_sized_run(size, "zero_shot", test=0.7) for size in SIZES], 200, lang=lang)


@pytest.mark.parametrize(("lang", "words"), [("en", "a forecast takes 4 sizes"), ("zh", "预测需要 4 种")])
def test_too_few_sizes_have_no_forecast(lang: str, words: str) -> None:
    few = {size: RISING[size] for size in SIZES[:3]}
    shown = advise(make_method(few), 200, 0.1, lang=lang)
    assert words in shown
    assert not re.search("points more|提高 ", shown)


@pytest.mark.parametrize(
    ("lang", "words"),
    [
        (
            "en",
            ["Forecast with 2000 labels", "none of LoRA and Full fine-tuning is more accurate", "; TF-IDF 6"],
        ),
        ("zh", ["标注为 2000 条时的预测", "LoRA 和 Full fine-tuning 中没有哪一个更准确", "；TF-IDF 6"]),
    ],
)
def test_beyond_the_sizes_forecasts_whose_intervals_overlap_decide_nothing(
    lang: str, words: list[str]
) -> None:
    low = dict(zip(SIZES, (0.55, 0.56, 0.57, 0.58, 0.59), strict=True))
    runs = [*make_method(RISING), *make_method({size: RISING[size] - 0.005 for size in SIZES}, "full")]
    runs += [make_sized_run(size, "tfidf", test=accuracy) for size, accuracy in low.items()]
    shown = advise(runs, 2000, lang=lang)
    assert [one for one in words if one not in shown] == []


@pytest.mark.parametrize(
    ("lang", "words"),
    [
        ("en", "By this forecast LoRA is more accurate than Full fine-tuning."),
        ("zh", "依此预测，LoRA 比 Full fine-tuning 准确。"),
    ],
)
def test_beyond_the_sizes_a_forecast_above_all_others_is_ahead(lang: str, words: str) -> None:
    low = dict(zip(SIZES, (0.55, 0.56, 0.57, 0.58, 0.59), strict=True))
    assert words in advise([*make_method(RISING), *make_method(low, "full")], 1600, lang=lang)


def test_limits_hold_at_every_size() -> None:
    runs = [
        *make_method(RISING, kind="cuda", peak=4 * 2**30),
        *make_method(dict.fromkeys(SIZES, 0.95), "full", kind="cuda", peak=20 * 2**30),
    ]
    assert "Take Full fine-tuning" in advise(runs, 200)
    assert "Limits" not in advise(runs, 200)
    within = advise(runs, 200, vram=8)
    assert "Take LoRA" in within
    assert "With 20.00 GiB or more: Full fine-tuning." in within
    assert "Limits: at most 1.0 h of training." in advise(runs, 200, hours=1)
    assert "No measured method fits these limits." in advise(runs, 200, vram=2)
    slow = [
        *make_method({800: 0.88}, train_seconds=7200.0),
        *make_method({size: RISING[size] for size in SIZES[:4]}),
    ]
    shown = advise(slow, 800, hours=1)
    assert "The nearest size that was measured is 800 train texts" in shown
    assert "Nearest: LoRA (takes 2.0 h to train, more than 1.0 h)." in shown


def test_memory_that_is_unknown_excludes_no_method_where_none_is_asked_for() -> None:
    assert "Take LoRA" in advise(make_method(RISING, peak=None), 200)


def test_runs_of_no_curve_are_left_out() -> None:
    shown = advise([*make_method(RISING), make_run("full", data="other", test=0.99)], 200)
    assert "Full fine-tuning" not in shown


@pytest.mark.parametrize("labels", [10, 140, 200, 800, 2000, 100_000])
def test_both_languages_say_the_same_numbers(labels: int) -> None:
    runs = [*make_method(RISING), *make_method(FLAT, "full"), *make_method(FLAT, "tfidf")]
    english, chinese = (advise(runs, labels, 0.1, lang=lang) for lang in ("en", "zh"))
    assert sorted(re.findall(r"[\d.]*\d", english)) == sorted(re.findall(r"[\d.]*\d", chinese))
