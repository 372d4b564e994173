"""What to take, from results as runs leave them, and what other people measured: on the real command line."""

import json
from pathlib import Path
from typing import Any

from records import make_peft, make_predictions, make_run, make_sized_run

from bench.results.store import Store

Bench = Any  # tests/e2e/conftest.py
GIB = 2**30


def write_results(folder: Path) -> Store:
    """QLoRA needs the least memory of three methods with three seeds each; accuracy does not differ."""
    store = Store(folder)
    store.prepare()
    for method, peak in (("full", 22 * GIB), ("lora", 14 * GIB), ("qlora", 9 * GIB)):
        for seed in range(3):
            run = make_run(method, seed=seed, kind="cuda", peak=peak, test=0.88 + seed / 400)
            store.write(run)
            store.write_predictions(run.run_id, make_predictions(run))
    return store


def test_results_are_turned_into_advice_and_imports_change_none_of_it(bench: Bench, tmp_path: Path) -> None:
    store = write_results(tmp_path / "results" / "mine")
    assert bench("table").returncode == 0
    table = (store.folder / "table.md").read_text(encoding="utf-8")
    assert "- QLoRA used 36 % less peak memory than LoRA (9.00 against 14.00 GiB)." in table
    assert "| not comparable | other model (minilm, not chatglm-6b)" in table

    advice = bench("recommend", "--vram", "12")
    assert (advice.returncode, advice.stderr) == (0, "")
    assert "Take QLoRA with " in advice.stdout
    assert "needs 14.00 GiB, more than 12" in advice.stdout
    nothing = bench("recommend", "--vram", "8")
    assert (nothing.returncode, nothing.stderr) == (1, "")
    assert "Nearest: QLoRA (needs 9.00 GiB, more than 8)." in nothing.stdout

    foreign = make_peft()
    foreign["train_info"]["accelerator_memory_max"] = 1  # would fit anywhere
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "lora.json").write_text(json.dumps(foreign), encoding="utf-8")
    assert bench("import", "peft", "peft").returncode == 0
    assert bench("table").returncode == 0
    again = (store.folder / "table.md").read_text(encoding="utf-8")
    assert again.startswith(table)
    assert "## Imported, not measured by bench" in again
    assert bench("recommend", "--vram", "12").stdout.startswith(advice.stdout.rstrip())
    assert bench("verify").stdout.splitlines() == [
        "9 good, 0 bad records in results/mine",
        "1 good, 0 bad records among those imported",
    ]
    (record,) = (store.folder / "imported" / "runs").glob("*/result.json")
    record.write_text(record.read_text(encoding="utf-8") + " {", encoding="utf-8")
    damaged = bench("verify")
    assert (damaged.returncode, damaged.stdout.count("imported/runs")) == (1, 1)

    (tmp_path / "peft" / "broken.json").write_text("{", encoding="utf-8")
    refused = bench("import", "peft", "peft")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("peft/broken.json: cannot be read")
    assert "Traceback" not in refused.stderr


def test_labels_are_advised_on_from_a_curve_alone(bench: Bench, tmp_path: Path) -> None:
    write_results(tmp_path / "results" / "mine")
    refused = bench("recommend", "--labels", "200", "--label-cost", "0.1")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "results/mine holds no learning curve" in refused.stderr
    assert "`bench sweep experiment=curve`" in refused.stderr

    store = Store(tmp_path / "results" / "curve")
    store.prepare()
    for size, accuracy in ((50, 0.6), (100, 0.7), (200, 0.78), (400, 0.84)):
        for seed in range(3):
            run = make_sized_run(size, kind="cuda", peak=9 * GIB, test=accuracy, seed=seed)
            store.write(run)
            store.write_predictions(run.run_id, make_predictions(run))
    asked = ("recommend", "--results", "results/curve", "--labels", "210", "--label-cost", "0.1")
    advice = bench(*asked)
    assert (advice.returncode, advice.stderr) == (0, "")
    assert "The nearest size that was measured is 200 train texts" in advice.stdout
    assert "Take LoRA with " in advice.stdout
    assert "With 420 labels, 2 times as many, LoRA would have an accuracy of " in advice.stdout
    assert "These 1890 labels more cost 189: " in advice.stdout
    assert bench(*asked, "--vram", "12").returncode == 0
    assert "needs 9.00 GiB, more than 8" in bench(*asked, "--vram", "8").stdout
    assert "增加的 1890 条标注花费 189" in bench(*asked, "--lang", "zh").stdout


def test_a_reader_that_has_seen_enough_costs_no_traceback(bench: Bench, tmp_path: Path) -> None:
    write_results(tmp_path / "results" / "mine")
    with bench.start("table") as process:
        process.stdout.close()  # as `bench table | head` does
        assert process.stderr.read() == ""
    assert process.returncode == 1
