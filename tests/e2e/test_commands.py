"""The real command line, as a user types it: what it prints, leaves and exits with."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

Bench = Any  # tests/e2e/conftest.py

SENTENCES = {
    "股市": [
        "Stocks rise",
        "The index closes higher",
        "Shares rebound",
        "Stocks on heavy volume",
        "Shares up",
    ],
    "债券": ["Bond yields fall", "A bond is issued", "Bond rates lower", "Bond futures up", "A bond matures"],
    "外汇": ["The yuan gains", "The dollar falls", "A bank buys dollars", "Reserves grow", "Euro to dollar"],
}


@pytest.fixture(scope="module")
def my_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user may have: texts in 3 classes with Chinese names, as their columns have, one odd label."""
    rows = [
        {"标题": f"{sentences[number % 5]}, No. {number}", "类别": label}
        for number in range(40)
        for label, sentences in SENTENCES.items()
    ]
    path = tmp_path_factory.mktemp("user") / "my.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def own_texts(path: Path) -> list[str]:
    return ["data=files", f"data.train={path}", "data.text_column=标题", "data.label_column=类别"]


QUICK = ["train.max_steps=4", "train.warmup_steps=0", "train.eval_steps=4", "track.mode=disabled"]


@pytest.mark.slow
def test_ones_own_texts_under_chinese_names_train(bench: Bench, my_csv: Path, tmp_path: Path) -> None:
    done = bench("run", *own_texts(my_csv), "train.max_steps=30", "train.warmup_steps=3", "train.lr=3e-3")
    assert (done.returncode, done.stderr) == (0, "")
    found = re.search(r"^([0-9a-f]{12}) lora r=8 .*: test accuracy (\d+\.\d)%", done.stdout, re.MULTILINE)
    assert found, done.stdout
    folder = tmp_path / "results" / "files" / "runs" / found[1]
    record = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert record["labels"] == sorted(SENTENCES)
    assert record["tracking"]["mode"] == "offline"
    assert "`bench sync`" in record["tracking"]["reason"]
    assert {path.name for path in folder.iterdir()} >= {
        "config.yaml",
        "history.jsonl",
        "log.txt",
        "predictions.csv",
        "result.json",
    }
    (offline,) = (tmp_path / "results" / "files" / "wandb").glob("offline-run-*")
    read = bench("leet", "inspect", "--summary", "--json", str(offline), module=("wandb",))
    mirrored = json.loads(read.stdout)
    assert mirrored["name"] == "lora r=8 alpha=16 dropout=0.05 lr=0.003 seed=0"
    assert mirrored["tags"] == ["lora", "minilm", "files"]
    assert mirrored["config"]["run_id"] == found[1]
    assert mirrored["summary"]["test_accuracy"] == record["metrics"]["test"]["accuracy"]
    assert mirrored["summary"]["trainable_parameters"] == record["parameters"]["trainable"]
    assert mirrored["summary"]["predictions"]["nrows"] == 36
    assert mirrored["summary"]["loss"] > 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["data.text_column=body"], r"body.*标题, 类别"),
        (["lora.r=0"], r"^lora\.r=0: must be at least 1; use method=full to train without an adapter$"),
        (["train.lr=nan"], r"^train\.lr=nan: must be a positive number"),
        (["lora.r=0", "train.lr=-1"], r"^lora\.r=0: .*\ntrain\.lr=-1\.0: "),
        (["method=lroa"], "^method=lroa: there is no such method; did you mean lora"),
        (["track=null"], "^track=null: there is no such track; there are default$"),
        (["lora.rank=8"], "^lora.rank: there is no such setting; did you mean lora.r"),
        (["lora.r=many"], r"'many'.*Integer"),
    ],
)
def test_a_wrong_setting_is_one_message_and_nothing_written(
    bench: Bench, my_csv: Path, tmp_path: Path, wrong: list[str], message: str
) -> None:
    done = bench("run", *own_texts(my_csv), *QUICK, *wrong)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("devices", ["0,1", "cpu*2"])
def test_the_cards_of_a_cluster_cannot_be_named(
    bench: Bench, my_csv: Path, tmp_path: Path, devices: str
) -> None:
    """Whatever this machine has; a run on each card of one machine is another thing."""
    done = bench("sweep", "hydra/launcher=ray", *own_texts(my_csv), "method=majority", f"devices='{devices}'")
    assert done.returncode == 2
    assert done.stderr.startswith(f"devices={devices}: on a cluster must be auto, cpu or cuda")
    assert not (tmp_path / "results" / "files" / "runs").exists()


@pytest.mark.slow
def test_a_doubt_about_the_data_is_said_once_a_command(bench: Bench, tmp_path: Path) -> None:
    rows = [f"text {number} of {label},{label}" for number in range(8) for label in ("Art", "art", "money")]
    (tmp_path / "my.csv").write_text("\n".join(["text,label", *rows, "text 0 of money,money"]))
    settings = ["data=files", f"data.train={tmp_path}/my.csv", "track.mode=disabled"]
    done = bench("sweep", *settings, "method=majority,tfidf", "sweep=none")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("'Art' (8 rows) and 'art' (8 rows)") == 1


@pytest.mark.slow
def test_texts_that_the_model_cannot_read_are_refused(bench: Bench, tmp_path: Path) -> None:
    rows = [f"央行下调利率{number},{label}" for number in range(12) for label in "ab"]
    (tmp_path / "zh.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    for command in ("run", "sweep"):
        done = bench(command, "data=files", f"data.train={tmp_path}/zh.csv", "lora.r=4", *QUICK)
        assert (done.returncode, done.stdout) == (2, "")
        assert "model=bert-base-chinese" in done.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("标题,类别\n", "no rows|empty"),
    ],
)
def test_an_empty_file_is_one_message_and_nothing_written(
    bench: Bench, tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "empty.csv"
    path.write_text(content, encoding="utf-8")
    done = bench("run", *own_texts(path), *QUICK)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists()


def test_a_label_that_train_does_not_have_is_one_message(bench: Bench, my_csv: Path, tmp_path: Path) -> None:
    pd.DataFrame({"标题": ["金价创新高"], "类别": ["商品"]}).to_csv(tmp_path / "test.csv", index=False)
    done = bench("sweep", *own_texts(my_csv), f"data.test={tmp_path}/test.csv", "lora.r=4,8", *QUICK)
    assert (done.returncode, done.stdout) == (2, "")
    assert "商品" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists()


def test_a_file_that_is_not_there_is_the_environments_fault(bench: Bench, tmp_path: Path) -> None:
    done = bench("run", "data=files", "data.train=no.csv", *QUICK)
    assert (done.returncode, done.stdout) == (3, "")
    assert "no.csv" in done.stderr
    assert not (tmp_path / "results").exists()


def test_the_hydra_app_is_the_same_program(bench: Bench) -> None:
    module = ("bench.run",)
    assert "results_dir: results/bbc_headlines" in bench("--cfg", "job", "--resolve", module=module).stdout
    assert re.search(r"method: .*\bfull, .*\blora\b", bench("--help", module=module).stdout)


def test_a_sweep_trains_each_run_once_and_its_table_is_the_same_again(
    bench: Bench, my_csv: Path, tmp_path: Path
) -> None:
    command = [
        "sweep",
        *own_texts(my_csv),
        *QUICK,
        "method=majority,full,lora",
        "lora.r=2,4",
        "sweep.final_seeds=[0,1]",
        "results_dir=results/mine",
    ]
    first = bench(*command)
    assert first.returncode == 0, first.stderr
    last = "sweep: planned=6 success=6 failed=0 oom=0 diverged=0 timeout=0 interrupted=0 crashed=0 invalid=0"
    assert first.stdout.splitlines()[-1] == f"{last} skipped=0"
    folder = tmp_path / "results" / "mine"
    written = {path: path.read_bytes() for path in folder.glob("*.*")}
    assert {path.name for path in written} == {"table.csv", "table.md", "runs.csv", "comparisons.csv"}
    for method in ("Majority class", "Full fine-tuning", "LoRA"):
        assert method in written[folder / "table.md"].decode()
    assert "Unfinished" not in written[folder / "table.md"].decode()
    assert (
        first.stdout.count("\ntable of ") == 6
    )  # three methods end, LoRA joins before, two second seeds end
    assert first.stdout.count("**Unfinished") == 2  # full joins majority, then LoRA both

    again = bench(*command)
    assert again.returncode == 0
    assert again.stdout.splitlines()[-1] == f"{last} skipped=6"
    for path, content in written.items():
        assert path.read_bytes() == content

    assert bench("table", "--lang", "zh").returncode == 0
    assert "方法" in (folder / "table.md").read_text(encoding="utf-8")
    assert "6 success" in bench("status").stdout
    assert (bench("verify").returncode, bench("verify", "--results", "nowhere").returncode) == (0, 3)


@pytest.mark.slow
def test_a_table_stands_as_soon_as_two_methods_can_be_compared(
    bench: Bench, tiny: list[str], tmp_path: Path
) -> None:
    bench.inject({0.002: ("hang", 2)})
    command = ["sweep", *tiny, "method=majority,lora", "train.lr=0.001,0.002", "results_dir=results/mine"]
    table = tmp_path / "results" / "mine" / "table.md"
    with bench.start(*command) as process:
        wait_until(process, (tmp_path / "marks" / "0.002").exists)  # the last run has begun, and hangs
        early = table.read_text(encoding="utf-8")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "\ntable of 1 of at least 3 runs: results/mine/table.md\n" in out  # a method has ended
    assert "\ntable of 2 of at least 3 runs: results/mine/table.md\n" in out
    assert early.startswith("**Unfinished: when this was written, 2 of at least 3 runs had ended.**\n")
    table_rows = early[early.index("| Method") :].split("\n\n")[0].splitlines()
    rows = [line for line in table_rows if line.startswith(("| Majority class ", "| LoRA "))]
    assert len(rows) == 2
    assert all(row in out for row in rows)
    assert table.read_text(encoding="utf-8") == early  # who stops a sweep waits for no other one


DAYS = ["plan.card=rtx4090", "train.max_steps=1000000000", "results_dir=results/mine"]


def test_a_plan_of_days_does_not_begin_where_nobody_can_be_asked(
    bench: Bench, tiny: list[str], tmp_path: Path
) -> None:
    done = bench("sweep", *tiny, *DAYS)
    assert (done.returncode, "sweep: planned" in done.stdout) == (2, False)
    assert re.search(r"^not started: .* bench plan .* plan.card=rtx4090 ", done.stderr), done.stderr
    assert re.search(r": bench sweep .* results_dir=results/mine plan.force=true$", done.stderr)
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_plan_of_days_begins_in_a_terminal_with_a_yes(
    bench: Bench, tiny: list[str], tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "bench", "sweep", *tiny, *DAYS],
        cwd=tmp_path,
        env=bench.environment,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    ) as process:
        os.close(theirs)  # so that reading ends with the process
        asked = ""
        while "go on? [y/N] " not in asked:
            asked += os.read(ours, 1000).decode()
        assert not (tmp_path / "results").exists()
        os.write(ours, b"y\n")
        wait_until(process, lambda: any((tmp_path / "results").glob("mine/runs/*/result.json")))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 130


def wait_until(process: "subprocess.Popen[str]", holds: Callable[[], bool]) -> None:
    """Waits for what the process does, three minutes at most."""
    for _ in range(1800):
        if holds():
            return
        time.sleep(0.1)
    process.kill()
    raise AssertionError("waited in vain")


@pytest.mark.slow
def test_a_plan_says_what_fits_and_a_sweep_starts_nothing_else(
    bench: Bench, my_csv: Path, tmp_path: Path
) -> None:
    large = ["model=qwen3-8b", "model.weights=random", "plan.card=rtx3060", "train.micro_batch_size=2"]
    command = [*own_texts(my_csv), *large, "track.mode=disabled", "method=full,qlora", "train.oom_retries=0"]
    done = bench("plan", *command, "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert not (tmp_path / "results").exists()
    full, qlora = plan["runs"]
    assert (full["fits"], qlora["fits"], plan["card"]) == (False, True, "rtx3060")
    assert full["predicted_peak_reserved_bytes"] > 16 * 7_500_000_000  # weights, gradients and states in fp32
    assert 4 * 2**30 < qlora["predicted_peak_reserved_bytes"] < 11 * 2**30
    assert plan["total_hours"] > 0
    assert plan["advice"][0]["remedies"] == [["method=qlora"]]

    sweep = bench("sweep", *command[:-2], "method=full", "train.oom_retries=0")
    assert sweep.returncode == 1, sweep.stderr
    assert "1 do not fit" in sweep.stdout
    assert " oom=1 " in sweep.stdout.splitlines()[-1]
    table = (tmp_path / "results" / "files" / "table.md").read_text(encoding="utf-8")
    assert "not started: would take" in table


@pytest.mark.slow
def test_a_run_that_fails_fails_alone(bench: Bench, my_csv: Path) -> None:
    done = bench("sweep", *own_texts(my_csv), *QUICK, "lora.target_modules=auto,[q_proj]")
    assert done.returncode == 1
    assert " success=1 " in done.stdout.splitlines()[-1]
    assert " invalid=1 " in done.stdout.splitlines()[-1]
    assert "Traceback" not in done.stderr
