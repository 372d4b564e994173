"""Which of a machine's emulated cards runs get: of several, of full ones, of some that torch cannot use."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from emulated import Card, Holder, Machine

Bench = Any  # tests/e2e/conftest.py

GT = Card(name="NVIDIA GeForce GT 1030", uuid="GPU-1030", memory_gib=2.0, used_gib=0.1)
RTX = Card(uuid="GPU-4090")
BASELINE = ["method=majority", "track.mode=disabled"]  # has no network, whose trace takes seconds


def put(bench: Bench, **machine: Any) -> Machine:
    """Has the commands run on an emulated machine."""
    made = Machine(log=bench.folder / "emulated.jsonl", **machine)
    bench.variables |= made.environment
    return made


def test_a_run_has_the_card_of_its_number_and_no_more_of_it_than_it_may(
    bench: Bench, tiny: list[str]
) -> None:
    machine = put(bench, cards=(RTX, GT))
    done = bench("run", *tiny, "devices=1", "device_memory_gib=1", "train.max_steps=2", "train.eval_steps=2")
    assert done.returncode == 0, done.stderr
    log = machine.read_log()
    assert [row["event"] for row in log] == ["context", *["limit 0.500000 of card 0"] * (len(log) - 1)]
    assert len(log) > 1
    assert {tuple(row["cards"]) for row in log} == {("GPU-1030",)}
    [record] = bench.records().values()
    hardware: Any = record["provenance"]["hardware"]  # type: ignore[index]
    assert (hardware["gpu"], hardware["gpu_memory_bytes"]) == (GT.name, 2 * 2**30)


@pytest.mark.slow
def test_a_run_that_needs_more_than_it_may_is_out_of_memory(bench: Bench, tiny: list[str]) -> None:
    put(bench)
    done = bench("run", *tiny, "device_memory_gib=0.01")
    assert done.returncode == 1
    [record] = bench.records().values()
    assert (record["status"], record["memory"]["kind"]) == ("oom", "cuda")  # type: ignore[index]


@pytest.mark.slow
def test_a_sweep_uses_the_cards_that_it_is_left(bench: Bench, tiny: list[str], count: Any) -> None:
    machine = put(
        bench,
        cards=tuple(Card(name=f"NVIDIA {one}", uuid=f"GPU-{one}") for one in "abc"),
        variables={"CUDA_VISIBLE_DEVICES": "GPU-c,1"},
    )
    refused = bench("sweep", *tiny, "devices=0,1")
    assert refused.returncode == 2
    assert "CUDA_VISIBLE_DEVICES=GPU-c,1 leaves card 2" in refused.stderr
    assert "and not card 0" in refused.stderr
    assert not (bench.folder / "results").exists()
    swept = bench("sweep", *tiny, "devices=1,2", "method=lora", "train.lr=1e-3,1e-4", "train.max_steps=2")
    assert count(swept.stdout)["success"] == 2, swept.stdout
    used = sorted(one["provenance"]["hardware"]["gpu"] for one in bench.records().values())  # type: ignore[index]
    assert used == ["NVIDIA b", "NVIDIA c"]
    assert {tuple(row["cards"]) for row in machine.read_log()} == {("GPU-b",), ("GPU-c",)}


@pytest.mark.slow
def test_a_sweep_tries_the_card_that_it_will_use(bench: Bench, count: Any) -> None:
    broken = Card(name=GT.name, uuid=GT.uuid, memory_gib=2.0, fault="no kernel image is available")
    put(bench, cards=(broken, RTX), variables={"CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
    swept = bench("sweep", *BASELINE)
    assert count(swept.stdout)["success"] == 1, swept.stdout + swept.stderr


@pytest.mark.parametrize("command", ["run", pytest.param("sweep", marks=pytest.mark.slow)])
def test_an_old_driver_stops_what_would_train_on_the_cpu(bench: Bench, command: str) -> None:
    put(bench, driver="570.86.10", driver_cuda=12080)
    done = bench(command, *BASELINE)
    assert (done.returncode, done.stdout) == (3, "")
    assert "driver 570.86.10 runs CUDA 12.8 and older, torch" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (bench.folder / "results").exists()


@pytest.mark.slow
@pytest.mark.parametrize("nvml", [True, False])
def test_an_old_driver_lets_the_cpu_train_where_that_is_said(bench: Bench, nvml: bool) -> None:
    machine = put(bench, driver="570.86.10", driver_cuda=12080, nvml=nvml)
    assert bench("run", *BASELINE, "devices=cpu").returncode == 0
    assert machine.read_log() == []
    refused = bench("run", *BASELINE, "seed=1")
    assert (refused.returncode, "too old" in refused.stderr or nvml) == (3, True)


def test_a_plan_is_for_the_card_that_runs_get_and_names_who_holds_it(bench: Bench) -> None:
    desktop = (Holder(1200, "/usr/lib/xorg/Xorg", 1.5), Holder(1300, "/usr/bin/gnome-shell", 0.8))
    put(bench, cards=(GT, Card(used_gib=2.5, held_by=desktop)))
    done = bench("plan", *BASELINE)
    assert done.returncode == 0, done.stderr
    held = "while Xorg (pid 1200) holds 1.5 GiB, gnome-shell (pid 1300) holds 0.8 GiB"
    assert f"on rtx4090, 20.5 GiB usable {held}: " in done.stdout
    assert (
        "devices=auto takes card 1 (NVIDIA GeForce RTX 4090), of 2 the first with most memory" in done.stdout
    )
    machine: Any = json.loads(bench("plan", *BASELINE, "devices=0", "--json").stdout)
    assert (machine["card"], machine["device"]["uuid"]) == (GT.name, "GPU-1030")


def test_a_torch_for_cpus_beside_a_card_is_mentioned(bench: Bench) -> None:
    put(bench, torch_cuda=None)
    done = bench("plan", *BASELINE)
    assert (done.returncode, done.stdout.count("is built without CUDA")) == (0, 1)
    refused = bench("plan", *BASELINE, "devices=cuda")
    assert (refused.returncode, "is built without CUDA" in refused.stderr) == (3, True)


@pytest.mark.slow
def test_doctor_lists_the_cards_and_marks_the_one_that_runs_get(bench: Bench) -> None:
    put(bench, cards=(GT, Card(used_gib=2.5, held_by=(Holder(1200, "/usr/lib/xorg/Xorg", 1.5),))))
    bench.variables |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
    told = bench("doctor").stdout
    assert "yes  driver                driver 580.65.06 runs CUDA 13.0 and older, torch" in told
    assert "-    card 0                NVIDIA GeForce GT 1030, 2.0 GiB, 1.9 free; not used" in told
    assert "yes  card 1                NVIDIA GeForce RTX 4090, 23.5 GiB, 21.0 free; Xorg (pid 1200)" in told
    assert "yes  GPU                   NVIDIA GeForce RTX 4090" in told
    put(bench, driver="570.86.10", driver_cuda=12080)
    done = bench("doctor")
    assert done.returncode == 1
    assert "NO   driver                devices=auto: torch cannot use NVIDIA GeForce RTX 4090" in done.stdout


@pytest.mark.slow
def test_what_a_card_trained_is_exported_and_used_there(bench: Bench, tiny: list[str]) -> None:
    put(bench)
    for seed in (0, 1):
        assert bench("run", *tiny, "method=lora", f"seed={seed}", "train.max_steps=2").returncode == 0
    assert bench("latency", "best:lora", "--seeds").returncode == 0
    for folder, *options in (
        ("all", "--seeds"),
        ("merged", "--format", "merged"),
        ("onnx", "--format", "onnx"),
    ):
        loose = [] if folder == "all" else ["--tolerance", "1"]
        exported = bench("export", "best:lora", folder, *options, *loose)
        assert exported.returncode == 0, exported.stderr
        classified = bench("classify", folder, "央行下调利率")
        assert (classified.returncode, len(classified.stdout.splitlines())) == (0, 1), classified.stderr


@pytest.mark.slow
def test_pairs_and_several_labels_are_used_where_a_card_trained_them(
    bench: Bench, tiny: list[str], texts: Path
) -> None:
    put(bench)
    frame = pd.read_csv(texts)
    several = frame.assign(pair=frame["text"], label=frame["label"] + ";" + frame["label"].iloc[::-1].values)
    several.to_csv(bench.folder / "several.csv", index=False)
    frame.assign(pair=frame["text"]).to_csv(bench.folder / "pairs.csv", index=False)
    short = ("method=lora", "train.max_steps=2")
    pairs = ("data.train=pairs.csv", "data.text_pair_column=pair", "results_dir=results/pairs")
    assert bench("run", *tiny, *short, *pairs).returncode == 0
    labels = ("data.train=several.csv", "data.multi_label=true", "data.label_separator=;")
    for seed in (0, 1):
        done = bench("run", *tiny, *short, *labels, "results_dir=results/several", f"seed={seed}")
        assert done.returncode == 0, done.stderr
    onnx, beside = ("--format", "onnx", "--tolerance", "1"), ("--results", "results/several")
    for folder, results, options in (
        ("onnx", "results/pairs", onnx),
        ("labels-onnx", "results/several", onnx),
        ("all", "results/several", ("--seeds",)),
    ):
        exported = bench("export", "best:lora", folder, "--results", results, *options)
        assert exported.returncode == 0, exported.stderr
    for texts_given in (
        ("onnx", "央行下调利率", "股市"),
        ("labels-onnx", "央行下调利率"),
        ("all", "央行下调利率"),
    ):
        classified = bench("classify", *texts_given)
        assert (classified.returncode, len(classified.stdout.splitlines())) == (0, 1), classified.stderr
    assert bench("latency", "best:lora", "--seeds", *beside).returncode == 0


@pytest.mark.slow
def test_what_the_article_looks_out_to_trains_and_answers_on_a_card(
    bench: Bench, tiny: list[str], texts: Path, count: Any
) -> None:
    """A student of parts and of a folder, experts over 4 bits, a stream, and adapters of two tasks."""
    machine = put(bench)
    frame = pd.read_csv(texts)
    frame.assign(text="再 " + frame["text"]).to_csv(bench.folder / "other.csv", index=False)
    base = [one for one in tiny if not one.startswith("data")]
    short = [*base, "train.max_steps=4", "train.eval_steps=2", "train.precision=fp16"]

    def sweep(runs: int, *arguments: str) -> None:
        swept = bench("sweep", *short, "results_dir=results/all", *arguments)
        assert count(swept.stdout) == {"planned": runs, "success": runs}, swept.stdout + swept.stderr

    def find(name: str) -> str:
        """The run_id of LoRA on a file."""
        found = [json.loads(path.read_text()) for path in (bench.folder / "results").rglob("result.json")]
        [run_id] = [
            one["run_id"]
            for one in found
            if (one["config"]["method"]["name"], one["config"]["data"]["train"]) == ("lora", name)
            and one["config"]["data"]["held_out"] is None
        ]
        return str(run_id)

    own = ("data=files", f"data.train={texts}")
    sweep(1, *own, "method=lora")
    sweep(1, "data=files", "data.train=other.csv", "method=lora")
    sweep(3, *own, "method=distilled", f"teacher={find(str(texts))}", "distillation.folds=2")
    sweep(1, *own, "method=routed_lora", "method.quantization=nf4", "method.double_quant=true")
    sweep(2, *own, "data.pieces=2", "method=full_continued,lora_merged")
    sweep(1, "data=tasks", f"data.tasks=[{texts},other.csv]", "method=lora")
    for folder, name in (("one", str(texts)), ("two", "other.csv")):
        exported = bench("export", find(name), folder, "--results", "results/all")
        assert exported.returncode == 0, exported.stderr
    measured = bench("latency", "one", "two", "--results", "results/all")
    assert measured.returncode == 0, measured.stderr
    assert "| base + all adapters |" in measured.stdout
    (bench.folder / "more.csv").write_text("text\n" + "\n".join(f"又 {text}" for text in frame["text"]))
    students = ("method=distilled,distilled_lora", "teacher=one", "data.unlabelled=more.csv")
    before = machine.read_log()
    sweep(2, *own, *students, "results_dir=results/taught")
    made = [row for row in machine.read_log()[len(before) :] if row["event"] == "context"]
    processes = {row["pid"] for row in made}
    assert len({row["pid"] for row in made if row["parent"] in processes}) == 1  # the folder's, asked once
