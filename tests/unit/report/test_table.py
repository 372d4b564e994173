import csv
import io
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import METHODS, NO_PRICES, make_evidence, make_run, render_markdown
from report_folder import write_results

from bench.errors import ConfigError
from bench.report.language.text import LANGUAGES, Text
from bench.report.numbers.rows import Interval, build_rows
from bench.report.runs import render_runs
from bench.report.sections.methods import render_comparisons
from bench.report.table import write_tables, write_unfinished
from bench.report.tabulate import COLUMNS, EXTRAS, render_csv
from bench.results.store import STATUSES, Result, Store

ENGLISH, CHINESE = LANGUAGES["en"], LANGUAGES["zh"]


def small_sweep() -> list[Result]:
    """A baseline, LoRA whose best configuration has three seeds, and QLoRA without a success."""
    return [
        make_run("tfidf", test=0.745, train_seconds=0.0123, peak=2**29),
        make_run("lora", r=8, validation=0.80, test=0.99),
        make_run("lora", r=16, validation=0.90, test=0.88, train_seconds=12.0),
        make_run("lora", r=16, seed=1, validation=0.80, test=0.89, train_seconds=12.1, peak=3 * 2**29),
        make_run("lora", r=16, seed=2, validation=0.80, test=0.90, train_seconds=12.2),
        make_run("qlora", r=8, status="oom", error={"message": "CUDA out of memory\ntried 2 GiB"}),
        make_run("qlora", r=16, status="crashed"),
    ]


def read_markdown(results: list[Result], text: Text = ENGLISH) -> str:
    return render_markdown(make_evidence(results), text=text)


def read_cells(markdown: str) -> list[list[str]]:
    """The cells of all the tables' lines, split at the pipes that Markdown would split at."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_base_that_answers_as_it_is_has_the_peak_of_answering_unless_an_earlier_record_lacks_it():
    run = make_run("zero_shot", peak=2**29)
    asked = replace(run, memory=run.memory | {"eval": {"peak_resident_bytes": 2**30}})
    assert [build_rows([one])[0].peak_memory_bytes for one in (run, asked)] == [2**29, 2**30]
    note = "Zero-shot and few-shot train nothing"
    assert [note in read_markdown(runs) for runs in ([asked], small_sweep())] == [True, False]


def test_the_english_table():
    markdown = read_markdown(small_sweep())
    assert (
        markdown.partition("\n## Key findings")[0]
        == """\
## headlines, minilm: 400 test texts

**LoRA reaches an accuracy of 89.0 %; training gains 14.5 points over the best baseline, TF-IDF (74.5 %).**

| Method | Peak memory (GiB, CPU resident) | Train time |       Accuracy | F1 (macro) | Trainable parameters | Seeds | 95 % interval (accuracy) | Chosen hyperparameters                  | Runs tried/failed |
| ------ | ------------------------------: | ---------: | -------------: | ---------: | -------------------: | ----: | -----------------------: | --------------------------------------- | ----------------: |
| TF-IDF |                            0.50 |    0.012 s |         74.5 % |     74.5 % |                73.7K |   any |              70.0–78.5 % | none                                    |               1/0 |
| LoRA   |                            1.50 |     12.1 s |         89.0 % |     89.0 % |                73.7K |     3 |              87.1–90.6 % | r=16, alpha=16, dropout=0.05, lr=0.001¹ |               4/0 |
| QLoRA  |                               – |          – | out of memory² |          – |                    – |     – |                        – | –                                       |               2/2 |

- ¹ LoRA: r=16 is the largest tried; the best may lie beyond.
- ² QLoRA: no run has succeeded (1 out of memory, 1 crashed). The first message: CUDA out of memory
"""  # noqa: E501
    )
    assert (
        markdown.partition("\n## Notes\n\n")[2]
        == """\
- Each method's best configuration is the one with the highest validation accuracy at seed 0; ties go to the lower validation loss. The test split plays no part in the choice.
- Accuracy and F1 (macro) come from the test split and are means over the seeds. So is the train time, which excludes evaluation. Peak memory is the highest of the seeds while training.
- CPU resident: memory of the whole process, including Python and its libraries; do not compare it with GPU memory.
- The interval is for the method's accuracy on other texts of this kind and with other seeds; it includes the uncertainty of both.
- Seeds “any”: the method has no randomness, so every seed gives the same numbers.
- Runs without success: 1 out of memory, 1 crashed.
"""  # noqa: E501
    )


def test_the_chinese_table():
    markdown = read_markdown(small_sweep(), CHINESE)
    assert (
        markdown.partition("\n## 主要发现")[0]
        == """\
## headlines，minilm：400 条测试文本

**LoRA 的准确率为 89.0%；训练比最佳基线 TF-IDF（74.5%）高 14.5 个百分点。**

| 方法   | 显存占用 (GiB，CPU 进程常驻内存) | 训练时间 |    准确率 | F1分数 | 可训练参数 | 种子数 | 95% 区间（准确率） | 选定的超参数                            | 运行数/失败数 |
| ------ | -------------------------------: | -------: | --------: | -----: | ---------: | -----: | -----------------: | --------------------------------------- | ------------: |
| TF-IDF |                             0.50 | 0.012 秒 |     74.5% |  74.5% |      73.7K |   任意 |         70.0–78.5% | 无                                      |           1/0 |
| LoRA   |                             1.50 |  12.1 秒 |     89.0% |  89.0% |      73.7K |      3 |         87.1–90.6% | r=16, alpha=16, dropout=0.05, lr=0.001¹ |           4/0 |
| QLoRA  |                                – |        – | 内存不足² |      – |          – |      – |                  – | –                                       |           2/2 |

- ¹ LoRA：r=16 是已尝试的最大值；最佳值可能在此之外。
- ² QLoRA：没有成功的运行（内存不足 1 次，崩溃 1 次）。首条信息：CUDA out of memory
"""  # noqa: E501
    )
    assert (
        markdown.partition("\n## 说明\n\n")[2]
        == """\
- 每种方法的最佳配置按验证集准确率最高选出（随机种子 0），相同时取验证集损失较低者；选择不使用测试集。
- 准确率和 F1 分数（宏平均）来自测试集，取各随机种子的平均值；训练时间同样取平均值，不含评估。显存占用是各随机种子训练阶段的最高峰值。
- CPU 进程常驻内存：整个进程的内存，包括 Python 及其库；不能与 GPU 显存比较。
- 区间针对该方法在其他同类文本上、使用其他随机种子时的准确率：两种来源的不确定性均已计入。
- 种子数“任意”：该方法没有随机性，任何种子的结果都相同。
- 未成功的运行：内存不足 1 次，崩溃 1 次。
"""  # noqa: E501
    )


def test_table_csv_has_the_headers_of_table_md_and_plain_numbers():
    evidence = make_evidence(small_sweep())
    for text in (ENGLISH, CHINESE):
        header = render_csv(evidence, text=text).splitlines()[0].split(",")
        assert header[: len(COLUMNS)] == list(text.under("columns").values())
    article = "方法 | 显存占用 | 训练时间 | 准确率 | F1分数 | 可训练参数"
    assert " | ".join(CHINESE.under("columns").values()).startswith(f"{article} | ")
    tfidf, lora, qlora = read_csv(render_csv(evidence, text=ENGLISH))
    assert lora["Peak memory (GiB)"] == "1.5"
    assert lora["Peak memory (bytes)"] == str(3 * 2**29)
    assert lora["Memory kind"] == "cpu_resident"
    assert float(lora["Accuracy"]) == pytest.approx(0.89)
    low, high = (float(lora[f"Accuracy interval {end}"]) for end in ("low", "high"))
    assert f"{100 * low:.1f}–{100 * high:.1f} %" == lora["95 % interval (accuracy)"]
    # these seeds err on texts of their own and differ by chance alone: the texts have nearly all of it
    assert low == float(lora["Accuracy interval over texts low"])
    assert float(lora["F1 interval low"]) == pytest.approx(low, abs=0.005)
    assert lora["Trainable parameters"] == "73728"
    assert lora["Runs tried/failed"] == "4 tried, 0 failed"
    assert len(lora["Run ids"].split()) == 3
    assert lora["Accuracy interval over"] == "seeds_and_texts"
    assert (tfidf["Seeds"], tfidf["95 % interval (accuracy)"]) == ("any", "70.0–78.5 %")  # Wilson's for 298
    assert tfidf["Accuracy interval over"] == "texts"
    assert (qlora["Status"], qlora["Accuracy"], qlora["Peak memory (bytes)"]) == ("oom", "", "")


def test_methods_are_ordered_by_what_they_do_not_by_name():
    titles = [f"{10 - place}" for place in range(len(METHODS))]  # against the order, were they to count
    results = [
        make_run(method, names={"title": title}) for method, title in zip(METHODS, titles, strict=True)
    ]
    assert [row.method for row in build_rows(results)] == list(METHODS)


def test_memory_kinds_are_never_in_one_table():
    results = [make_run("full", kind="cpu_resident"), make_run("lora", kind="cuda", peak=2**31)]
    header_1, _, lora, header_2, _, full, *_ = read_cells(read_markdown(results))
    assert [header_1[1], *lora[:2]] == ["Peak memory (GiB, CUDA reserved)", "LoRA", "2.00"]
    assert [header_2[1], *full[:2]] == ["Peak memory (GiB, CPU resident)", "Full fine-tuning", "1.00"]


def test_a_method_measured_in_both_kinds_has_a_row_for_each():
    results = [
        make_run(kind="cuda", seed=0, peak=2**30),
        make_run(kind="cpu_resident", seed=1, peak=2**31),
    ]
    assert [(row.memory_kind, row.peak_memory_bytes, row.seeds) for row in build_rows(results)] == [
        ("cuda", 2**30, (0,)),
        ("cpu_resident", 2**31, (1,)),
    ]


def test_a_run_that_ended_before_measuring_stays_with_the_others():
    early = make_run("qlora", kind=None, status="crashed")
    assert {row.memory_kind for row in build_rows([early, make_run("lora", kind="cuda")])} == {"cuda"}
    alone = read_cells(read_markdown([early]))
    assert alone[0][1] == "Peak memory (GiB)"


def test_each_task_has_its_table_and_shared_baselines_are_in_each():
    results = [
        make_run("tfidf"),
        make_run("lora"),
        make_run("lora", revision="m2", names={"model": "other"}),
        make_run("lora", data="d2"),
    ]
    markdown = read_markdown(results)
    headings = [line for line in markdown.splitlines() if line.startswith("## headlines")]
    assert headings == [
        "## headlines, minilm and other: 400 test texts",
        "## headlines, minilm (data d1): 400 test texts",
        "## headlines, minilm (data d2): 400 test texts",
        "## headlines, other: 400 test texts",
    ]
    methods = [cells[0] for cells in read_cells(markdown.partition("## Key findings")[0])]
    assert methods.count("TF-IDF") == 3  # in the table of each model, and of both
    assert methods.count("LoRA") == 5  # three tasks, and two models in one table


def test_only_baselines_need_no_model():
    assert read_markdown([make_run("majority")]).startswith("## headlines: 400 test texts\n")


@pytest.mark.parametrize("status", [status for status in (*STATUSES, "started") if status != "success"])
def test_a_method_without_a_success_keeps_its_row(status: str):
    for text in (ENGLISH, CHINESE):
        markdown = read_markdown([make_run("lora", status=status)], text)
        cells = read_cells(markdown)[2]
        assert cells[0] == "LoRA"
        assert cells[3] == f"{text(f'statuses.{status}')}¹"
        assert "0" not in "".join(cells[1:7])  # unknown is never zero


def test_the_message_shown_is_of_a_run_that_ended_as_most_did():
    runs = sorted((make_run(r=r, status="oom") for r in (8, 16, 32)), key=lambda run: run.run_id)
    errors = [{"message": "odd"}, {"message": ""}, {"message": "usual\nmore"}]
    runs = [replace(run, error=error) for run, error in zip(runs, errors, strict=True)]
    row = build_rows([replace(runs[0], status="failed"), *runs[1:]])[0]
    assert (row.status, row.error) == ("oom", "usual")


def test_an_unfinished_run_counts_as_failed_and_is_explained():
    markdown = read_markdown([make_run(r=8), make_run(r=16, status="started")])
    assert read_cells(markdown)[2][-1] == "2/1"
    assert "Runs without success: 1 unfinished." in markdown
    assert ENGLISH("notes.unfinished") in markdown


def test_an_unknown_number_says_why():
    reasons = {"memory.*.peak_resident_bytes": "only Linux resets a process's resident peak"}
    markdown = read_markdown([make_run(peak=None, train_seconds=None, reasons=reasons)])
    assert read_cells(markdown)[2][1:3] == ["–¹", "–²"]
    assert "- ¹ LoRA: Peak memory (GiB) is unknown (only Linux resets a process's resident peak)." in markdown
    assert "- ² LoRA: Train time is unknown (the record gives no reason)." in markdown


def test_a_number_that_one_seed_lacks_is_not_a_mean_over_the_others():
    row = build_rows([make_run(seed=0), make_run(seed=1, train_seconds=None)])[0]
    assert (row.train_seconds, row.seeds) == (None, (0, 1))
    assert row.accuracy is not None


def test_lost_seeds_of_the_chosen_configuration_are_told():
    results = [make_run(seed=0), make_run(seed=1), make_run(seed=2, status="diverged")]
    markdown = read_markdown(results)
    assert read_cells(markdown)[2][6] == "2¹"
    assert "not every seed of the chosen configuration succeeded (1 diverged)" in markdown


def test_a_learning_rate_of_two_is_shown_with_their_ratio():
    """Also where all runs have the same: lr alone would be A's and say nothing of B's."""
    run = make_run("lora")
    run.canonical_config["method"]["loraplus_lr_ratio"] = 16.0
    assert build_rows([run])[0].hyperparameters["loraplus_lr_ratio"] == 16
    assert "loraplus_lr_ratio" not in build_rows([make_run("lora")])[0].hyperparameters


def test_what_the_runs_vary_is_among_the_chosen_hyperparameters():
    results = [make_run("full", max_length=64, validation=0.9), make_run("full", max_length=128)]
    assert build_rows(results)[0].hyperparameters == {"lr": 1e-3, "max_length": 64}
    assert build_rows(results[:1])[0].hyperparameters == {"lr": 1e-3}


def test_a_method_that_was_tried_on_two_tasks_shows_the_task_and_not_what_follows_from_it():
    """A prompt and words for the labels exist on one of the tasks alone."""
    head = make_run("full", validation=0.8)
    words = {"a": " good", "b": " bad"}
    canonical = head.canonical_config | {"task": "label_likelihood"}
    canonical["data"] = canonical["data"] | {"label_words": words}
    likely = replace(
        head, run_id="f" * 12, canonical_config=canonical, metrics=make_run(validation=0.9).metrics
    )
    assert build_rows([head, likely])[0].hyperparameters == {"lr": 1e-3, "task": "label_likelihood"}
    better = replace(head, metrics=make_run(validation=0.95).metrics)
    assert build_rows([better, likely])[0].hyperparameters == {
        "lr": 1e-3,
        "task": "sequence_classification",
    }


def test_titles_that_two_methods_share_are_told_apart():
    results = [make_run("lora", names={"title": "Same"}), make_run("dora", names={"title": "Same"})]
    assert [row.title for row in build_rows(results)] == ["Same (lora)", "Same (dora)"]


def test_few_seeds_borrow_the_spread_of_the_other_methods_or_are_said_not_to_count():
    full = [make_run("full", seed=seed, test=test) for seed, test in enumerate((0.85, 0.95, 0.9))]
    lora = [make_run("lora", seed=seed, test=0.9) for seed in range(2)]

    def bound(results: list[Result], method: str) -> Interval | None:
        return next(row.interval for row in make_evidence(results).rows if row.method == method)

    alone = bound(lora[:1], "lora")
    assert alone is not None
    assert (alone.over, alone.low) == (
        "texts_alone",
        pytest.approx(0.866689, abs=1e-6),
    )  # Wilson's for 360 of 400
    for count in (1, 2):
        borrowed = bound([*full, *lora[:count]], "lora")
        assert borrowed is not None
        assert borrowed.over == "other_seeds_and_texts"
        assert borrowed.low < 0.8  # full's seeds vary by 5 points
    markdown = read_markdown([*full, *lora[:1]])
    assert re.search(r"\| +\d\d\.\d–\d\d\.\d % \(others' seeds\) \| r=8", markdown)
    assert "- Marked “others' seeds”: fewer than three seeds show little" in markdown
    assert "- Marked “texts alone”" not in markdown
    assert "86.7–92.6 % (texts alone)" in read_markdown(lora[:1])
    assert "- 标有“仅文本”" in read_markdown(lora[:1], CHINESE)


def test_seeds_that_vary_widen_the_interval_and_its_texts_part_stays():
    same, varied = (
        make_evidence([make_run(seed=seed, test=test) for seed, test in enumerate(tests)]).rows[0]
        for tests in ((0.9, 0.9, 0.9), (0.85, 0.9, 0.95))
    )
    assert same.interval is not None
    assert same.texts_interval is not None
    assert varied.interval is not None
    assert varied.texts_interval is not None
    assert same.interval.high - same.interval.low < 0.06 < varied.interval.high - varied.interval.low
    assert varied.texts_interval.low == pytest.approx(same.texts_interval.low, abs=0.005)


def test_without_predictions_the_interval_is_as_wide_as_the_records_allow():
    runs = [make_run(seed=seed, test=test) for seed, test in enumerate((0.88, 0.89, 0.90))]
    known, unknown = (make_evidence(runs, **more).rows[0] for more in ({}, {"predictions": {}}))
    assert known.interval is not None
    assert unknown.interval is not None
    assert unknown.interval.low < known.interval.low
    assert unknown.interval.high > known.interval.high
    assert (unknown.interval.over, unknown.f1_interval) == ("seeds_and_texts", None)


def test_the_interval_stays_within_what_an_accuracy_can_be():
    (row,) = make_evidence([make_run(seed=seed, test=test) for seed, test in enumerate((0.5, 1.0, 1.0))]).rows
    assert row.interval is not None
    assert 0 <= row.interval.low < 0.5
    assert 0.99 < row.interval.high <= 1
    assert read_cells(read_markdown([make_run(test=1.0)]))[2][7] == "99.0–100.0 % (texts alone)"


records = st.lists(
    st.builds(
        make_run,
        st.sampled_from(sorted(METHODS)),
        status=st.sampled_from([*STATUSES, "started", "success", "success"]),
        seed=st.integers(0, 2),
        r=st.sampled_from([8, 16]),
        validation=st.sampled_from([0.8, 0.9]),
        test=st.sampled_from([0.1, 0.7, None]),
        train_seconds=st.sampled_from([0.1, 0.3, None]),
        kind=st.sampled_from(["cuda", "cpu_resident", None]),
        data=st.sampled_from(["d1", "d2"]),
        revision=st.sampled_from(["m1", "m2"]),
    ),
    max_size=8,
    unique_by=lambda run: run.run_id,
)


@settings(max_examples=50)
@given(records, st.randoms(use_true_random=False))
def test_the_files_are_byte_identical_in_any_order(results: list[Result], rng: random.Random):
    def render(some: list[Result]) -> tuple[str, ...]:
        evidence = make_evidence(some)
        return (
            render_markdown(evidence, text=ENGLISH),
            render_csv(evidence, text=ENGLISH),
            render_comparisons(evidence.comparisons),
            render_runs(some),
        )

    shuffled = rng.sample(results, len(results))
    assert render(shuffled) == render(results)


def test_runs_csv_has_every_run_and_leaves_empty_what_cannot_matter():
    results = small_sweep()
    found = {row["run_id"]: row for row in read_csv(render_runs(results))}
    assert set(found) == {one.run_id for one in results}
    tfidf, lora = found[results[0].run_id], found[results[2].run_id]
    assert (lora["r"], lora["lr"], lora["seed"], lora["status"]) == ("16", "0.001", "0", "success")
    assert (lora["train_peak_resident_bytes"], lora["train_peak_reserved_bytes"]) == (str(2**30), "")
    assert lora["folder"] == f"runs/{lora['run_id']}"
    assert (tfidf["r"], tfidf["lr"], tfidf["seed"]) == ("", "", "")
    assert found[results[5].run_id]["error_message"] == "CUDA out of memory tried 2 GiB"


def test_runs_csv_says_what_auto_became():
    run = replace(make_run(), model={"target_modules": ["query", "value"], "precision": "bf16"})
    row = read_csv(render_runs([run]))[0]
    assert (row["target_modules"], row["precision"]) == ("query value", "bf16")


def test_the_files_are_made_from_the_records_alone(tmp_path: Path):
    store = Store(tmp_path / "results")
    store.prepare()
    for run in small_sweep():
        store.write(run)
    damaged = store.folder / "runs" / "0123456789ab" / "result.json"
    damaged.parent.mkdir()
    damaged.write_text("{")
    paths = write_tables(store, lang="en", report=NO_PRICES)
    assert [path.name for path in paths] == ["table.csv", "table.md", "runs.csv", "comparisons.csv"]
    first = [path.read_bytes() for path in paths]
    assert "runs/0123456789ab/result.json (cannot be read" in paths[1].read_text(encoding="utf-8")
    assert str(tmp_path) not in paths[1].read_text(encoding="utf-8")
    assert [path.read_bytes() for path in write_tables(store, lang="en", report=NO_PRICES)] == first
    write_tables(store, lang="zh", report=NO_PRICES)
    assert "| 方法 " in paths[1].read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match="lang=fr: must be one of en, zh"):
        write_tables(store, lang="fr", report=NO_PRICES)


def test_a_table_of_a_sweep_that_still_runs_says_so_and_the_last_one_does_not(tmp_path: Path):
    store = write_results(tmp_path, small_sweep())
    last = [path.read_bytes() for path in write_tables(store, lang="en", report=NO_PRICES)]
    printed = write_unfinished(store, report=NO_PRICES, ended=3, planned=219)
    names = ("table.csv", "table.md", "runs.csv", "comparisons.csv")
    early = [(store.folder / name).read_bytes() for name in names]
    line = "**Unfinished: when this was written, 3 of at least 219 runs had ended.**"
    assert [early[1].decode().splitlines()[0], printed.splitlines()[0]] == [line, line]
    assert early[1].endswith(last[1])
    assert early[1].startswith(printed.rstrip().encode())
    assert [early[0], *early[2:]] == [last[0], *last[2:]]
    assert [path.read_bytes() for path in write_tables(store, lang="en", report=NO_PRICES)] == last


def test_an_empty_folder_has_a_table_that_says_so(tmp_path: Path):
    _, markdown, runs, _ = write_tables(Store(tmp_path), lang="en", report=NO_PRICES)
    assert markdown.read_text() == "No runs yet: `bench sweep` makes them.\n"
    assert len(runs.read_text().splitlines()) == 1


HOSTILE = [
    "a | b || c",
    "two\nlines\r\n# heading\n\n- list",
    "back`tick` **bold** [x](javascript:alert(1)) ![i](http://a)",
    "<script>alert(1)</script>&lt;b&gt;",
    '=HYPERLINK("http://a")',
    "\t=1+1",
    "＝1+1",
    "@SUM(A1)",
    "-1+1|cmd",
    "\x1b[31mred\x1b]0;title\x07\x9b31m",
    "\u202eevil\u2066 \ud800 \x00",
    "\\| \\",
    "{title} {0} %s",
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_text_stays_text(hostile: str):
    names = {"title": hostile, "data": hostile, "model": hostile}
    results = [
        make_run("lora", names=names, peak=None, reasons={"memory.train": hostile}),
        make_run("qlora", names=names, status="failed", error={"message": hostile, "type": hostile}),
    ]
    evidence = make_evidence(results, bad=[(hostile, hostile)])
    for text in (ENGLISH, CHINESE):
        markdown = render_markdown(evidence, text=text)
        assert {len(cells) for cells in read_cells(markdown)} <= {len(COLUMNS), 6, 4}
        assert sum(line.startswith("#") for line in markdown.splitlines()) == 5
        unmarked, answers = re.subn(r"^\*\*(.*)\*\*$", r"\1", markdown, flags=re.MULTILINE)
        assert answers == 1
        assert not re.search(r"[<>]|(?<!\\)(`|\*|\[)|[^|\s-]\|\|", unmarked)
        tables = [render_csv(evidence, text=text), render_runs(results)]
        for body in (markdown, *tables):
            body.encode()  # no half of a surrogate pair
            assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", body)
        for body in tables:
            cells = [cell for row in csv.reader(io.StringIO(body)) for cell in row]
            assert not any(cell.startswith(("=", "+", "-", "@", "＝")) for cell in cells)
            assert {len(row) for row in csv.reader(io.StringIO(body))} in (
                {len(COLUMNS) + len(EXTRAS)},
                {len(body.splitlines()[0].split(","))},
            )


@pytest.mark.parametrize(
    ("seconds", "english", "chinese"),
    [
        (0.0123, "0.012 s", "0.012 秒"),
        (0.9999, "1.0 s", "1.0 秒"),
        (12.34, "12.3 s", "12.3 秒"),
        (59.96, "1 min 00 s", "1 分 00 秒"),
        (245, "4 min 05 s", "4 分 05 秒"),
        (3599.6, "1.0 h", "1.0 小时"),
        (10_080, "2.8 h", "2.8 小时"),
    ],
)
def test_durations(seconds: float, english: str, chinese: str):
    assert ENGLISH.format_duration(seconds) == english
    assert CHINESE.format_duration(seconds) == chinese


@pytest.mark.parametrize(
    "module",
    [
        "bench.results.selection",
        "bench.report.numbers.statistics",
        "bench.report.table",
        "bench.report.page.page",
    ],
)
def test_reports_do_not_wait_for_torch(module: str):
    code = f"import sys, {module}; print(*{{'torch', 'transformers'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ENGLISH, "These scores mean nothing because the base weights are random"),
        (CHINESE, "基座权重为随机值"),
    ],
)
def test_scores_on_random_weights_are_marked_as_meaningless(text: Text, words: str):
    runs = [make_run("tfidf", test=0.745), make_run("full", test=0.2), make_run("lora", test=0.25)]
    for one in runs:
        one.config["model"]["weights"] = "random"
    markdown = read_markdown(runs, text)
    rows = {row[0]: row for row in read_cells(markdown.partition("\n## ")[0])[2:]}
    marked = [rows[name][3].endswith("¹") for name in ("TF-IDF", "Full fine-tuning", "LoRA")]
    assert marked == [False, True, True]
    assert rows["LoRA"][4].endswith("¹")
    assert markdown.count(words) == 1
    written = read_csv(render_csv(make_evidence(runs), text=ENGLISH))
    assert [row["Base weights"] for row in written] == ["saved", "random", "random"]
    for one in runs:
        one.config["model"]["weights"] = "saved"
    assert words not in read_markdown(runs, text)


def test_the_notes_say_how_far_off_predictions_were() -> None:
    errors = [0.02, -0.01, -0.05, None]
    runs = [
        replace(make_run(seed=seed, kind="cuda"), prediction={"error": error})
        for seed, error in enumerate(errors)
    ]
    assert "the error was 2.0% at the median and 5.0% at worst (3 runs on CUDA)" in read_markdown(runs)
    assert "predicted" not in read_markdown([make_run()])


def page(result: Result, paged: int) -> Result:
    return replace(
        result, memory={**result.memory, "train": {**result.memory["train"], "paged_bytes": paged}}
    )


@pytest.mark.parametrize(
    ("text", "cell", "column"),
    [
        (ENGLISH, "14.65 + 12.50 paged to RAM", "Paged to RAM (GiB)"),
        (CHINESE, "14.65 + 12.50 分页至内存", "分页至内存 (GiB)"),
    ],
)
def test_what_is_paged_to_the_machines_memory_stands_beside_the_peak(
    text: Text, cell: str, column: str
) -> None:
    full = page(make_run("full", kind="cuda", peak=round(14.65 * 2**30)), round(12.5 * 2**30))
    lora = page(make_run("lora", kind="cuda", peak=2**30), 0)
    earlier = make_run("qlora", kind="cuda", peak=2**29)  # whose record says nothing of it
    evidence = make_evidence([full, lora, earlier])
    markdown = render_markdown(evidence, text=text)
    assert [row[1] for row in read_cells(markdown)[2:5]] == [cell, "1.00", "0.50"]
    assert markdown.count(text("notes.paged")) == 1
    lines = render_csv(evidence, text=text).splitlines()
    assert lines[0].split(",")[-1] == column
    assert [row[column] for row in read_csv("\n".join(lines))] == ["12.5", "0.0", ""]
    assert [row["train_paged_bytes"] for row in read_csv(render_runs(evidence.results))] == [
        str(round(12.5 * 2**30)),
        "0",
        "",
    ]


def test_where_nothing_is_paged_the_files_are_as_they_were() -> None:
    before = small_sweep()
    after = [page(one, 0) for one in before]
    for text in (ENGLISH, CHINESE):
        assert read_markdown(before, text) == read_markdown(after, text)
        files = [render_csv(make_evidence(results), text=text) for results in (before, after)]
        assert files[0] == files[1]
        assert text("csv_columns.paged") not in files[0]
