"""`make gpu-check` says what it proved and what it left out, and needs neither Hydra nor W&B nor datasets."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import emulated
import psutil
import pytest
import torch
from emulated import ROOT
from records import make_run
from torch.nn import functional

from bench.config.cards import GIB, read_cards
from bench.config.checks import check
from bench.config.schema import Config, to_dict
from bench.extras.gpu_check import __main__ as gpu_check
from bench.extras.gpu_check import article, report, sweeps, trials, watch
from bench.extras.gpu_check.__main__ import Check
from bench.extras.gpu_check.lab import Ended, Lab, Late, Proof
from bench.extras.gpu_check.lab import Machine as Found
from bench.extras.gpu_check.report import PartResult
from bench.memory.calibration import read_measured
from bench.results.store import Result

CPU = torch.device("cpu")
CARD = Found(gpu="NVIDIA GeForce RTX 4090", card="rtx4090", uuid="1", memory_bytes=24 * GIB, pages=True)
KNOWN = Check("first", lambda _: iter([Proof("machine", True, "it is", {"machine": vars(Found())})]), 60, ())


def make_lab(folder: Path, *, seconds: float = 600, machine: Found = CARD) -> Lab:
    return Lab(folder, time.monotonic() + seconds, machine)


def run_parts(folder: Path, *parts: Check, seconds: float = 60) -> list[PartResult]:
    return list(gpu_check.run_parts(folder, parts, ends_at=time.monotonic() + seconds))


# The parts, one after the other


def test_a_part_that_fails_stops_no_other_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: Lab) -> Iterator[Proof]:
        yield Proof("one", True, "1 is 1")
        raise ArithmeticError("1 is 2")

    def be_late(_: Lab) -> Iterator[Proof]:
        raise Late("was still at work after 60 s, and was ended")
        yield

    found = run_parts(tmp_path, KNOWN, Check("wrong", fail, 60, ()), Check("slow", be_late, 60, ()), KNOWN)
    assert [one.status for one in found] == ["PASS", "FAIL", "FAIL", "PASS"]
    assert [proof.detail for proof in found[1].proofs] == ["1 is 1", "ArithmeticError: 1 is 2"]
    assert "was still at work" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("first", "part", "seconds", "reason"),
    [
        (
            KNOWN,
            Check("x", sweeps.check_sweep, 60, ("os", "no_such_package")),
            60,
            "not installed: no_such_package",
        ),
        (
            KNOWN,
            Check("x", sweeps.check_fp16, 60, (), "a CPU does not train in fp16"),
            60,
            "needs a card, as a CPU",
        ),
        (KNOWN, Check("x", sweeps.check_sweep, 60, ()), 10, "the 9 minutes are over"),
        (
            Check("first", lambda _: iter(()), 60, ()),
            Check("x", sweeps.check_sweep, 60, ()),
            60,
            "could not be used",
        ),
    ],
)
def test_what_is_left_out_says_why(
    tmp_path: Path, first: Check, part: Check, seconds: float, reason: str
) -> None:
    _, left_out = run_parts(tmp_path, first, part, seconds=seconds)
    assert left_out.status == "SKIPPED"
    assert reason in left_out.proofs[0].detail


def test_a_part_has_its_own_time_and_no_more_than_is_left(tmp_path: Path) -> None:
    seen = []

    def look(lab: Lab) -> Iterator[Proof]:
        seen.append(lab.seconds_left)
        yield Proof("time", True, "there is some")

    run_parts(tmp_path, KNOWN, Check("short", look, 20, ()), Check("long", look, 900, ()), seconds=60)
    assert [round(one, -1) for one in seen] == [20, 60]


def test_the_report_is_saved_after_each_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = tmp_path / "results" / "gpu" / "nvidia-geforce-rtx-4090.json"

    def read_saved(_: Lab) -> Iterator[Proof]:
        yield Proof("report", False, json.loads(saved.read_text())["parts"][0]["status"])

    known = Check("first", lambda _: iter([Proof("m", True, "", {"machine": vars(CARD)})]), 60, ())
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    monkeypatch.setattr(gpu_check, "PARTS", (known, Check("second", read_saved, 60, ())))
    with pytest.raises(SystemExit) as ended:
        gpu_check.main()
    assert ended.value.code == 1  # a part has failed
    parts = json.loads(saved.read_text())["parts"]
    assert [(one["name"], one["status"]) for one in parts] == [("first", "PASS"), ("second", "FAIL")]
    assert parts[1]["proofs"][0]["detail"] == "PASS"
    assert "- NO: report: PASS" in saved.with_suffix(".md").read_text()


# Processes


def test_what_hangs_is_killed_with_all_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = (
        "import os, subprocess, sys, time\n"
        "own = ['-c', 'import time; time.sleep(600)']\n"
        "child = subprocess.Popen([sys.executable, *own], start_new_session=True)\n"
        "open(sys.argv[1], 'w').write(f'{os.getpid()} {child.pid}')\n"
        "time.sleep(600)"
    )
    with pytest.raises(Late, match=r"^was still at work after \d+ s, and was ended$"):
        make_lab(tmp_path, seconds=3).run("-c", code, pids)
    first, second = map(int, pids.read_text().split())
    assert not psutil.pid_exists(first)
    psutil.wait_procs([psutil.Process(second)] if psutil.pid_exists(second) else [], timeout=10)
    assert not psutil.pid_exists(second) or psutil.Process(second).status() == psutil.STATUS_ZOMBIE


def test_what_was_proved_before_a_crash_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(self: Lab, *_: Any) -> Ended:
        (self.folder / "device.jsonl").write_text(
            '{"name": "CPU", "works": true, "detail": "", "numbers": {}}\n'
        )
        return Ended(-11, "Traceback\nSegmentation fault\n")

    monkeypatch.setattr(Lab, "run", crash)
    found = list(make_lab(tmp_path).try_here("device"))
    assert [(one.name, one.works) for one in found] == [("CPU", True), ("device", False)]
    assert found[1].detail == "exit code -11: Segmentation fault"


def test_a_sweeps_runs_are_told_from_its_own_processes(tmp_path: Path) -> None:
    script = tmp_path / "sweep.py"
    script.write_text(
        "import multiprocessing, sys, time\n"
        "if __name__ == '__main__':\n"
        "    for kind in sys.argv[1:]:\n"
        "        context = multiprocessing.get_context(kind)\n"
        "        context.Process(target=time.sleep, args=(60,), daemon=True).start()\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, script, "forkserver", "spawn"], stdout=subprocess.PIPE, text=True
    ) as sweep:
        try:
            assert sweep.stdout is not None
            assert sweep.stdout.readline() == "ready\n"
            process = psutil.Process(sweep.pid)
            runs = watch.find_runs(process)
            for _ in range(100):  # the fork server takes a moment to fork
                if len(runs := watch.find_runs(process)) == 2:
                    break
                time.sleep(0.1)
            assert len(runs) == 2
            assert len([one for one in process.children(recursive=True) if one not in runs]) == 2
        finally:
            for one in process.children(recursive=True):
                one.kill()
            sweep.kill()


@pytest.mark.parametrize(
    ("free", "users", "found"),
    [
        ({5: 99, 6: 98}, {5, 6}, [True, True]),
        ({5: 99, 6: 60}, {5, 6}, [False, True]),  # 6 began while 5's memory was not back
        ({5: 99}, {5, 2}, [True, False]),  # 2 is the fork server
        ({5: 99}, set(), [True, None]),  # NVML names no process that is known here
    ],
)
def test_memory_that_does_not_come_back_and_a_context_too_many_are_seen(
    monkeypatch: pytest.MonkeyPatch, free: dict[int, int], users: set[int], found: list[bool | None]
) -> None:
    card = SimpleNamespace(free_bytes=100 * 2**26)
    monkeypatch.setattr(watch.Watch, "_ask", lambda _: card)
    seen = watch.Watch("GPU-1")
    seen.own, seen.users = {1, 2}, users
    seen.free_bytes = {pid: size * 2**26 for pid, size in free.items()}
    assert [one.works for one in seen.prove()] == [True, *found]


# ChatGLM-6B at the article's settings


@pytest.mark.parametrize(
    ("memory_gib", "cap"),
    [(None, None), (11.6, None), (22.0, None), (23.64, None), (31.3, 23.0), (79.0, 23.0)],
)
def test_only_a_card_larger_than_a_4090_is_capped_and_at_what_a_4090_gives(
    memory_gib: float | None, cap: float | None
) -> None:
    assert article.find_cap(None if memory_gib is None else int(memory_gib * GIB)) == cap


def test_a_4090_as_torch_reports_it_is_not_capped() -> None:
    assert article.find_cap(read_cards()["rtx4090"].memory_bytes) is None


@pytest.mark.parametrize("name", article.RUNS)
def test_the_articles_settings_are_its_own_but_for_how_long(
    compose: Callable[..., Config], name: str
) -> None:
    own = article.RUNS[name]
    config, whole = compose(*article.SETTINGS, *own), compose("experiment=article", *own)
    assert check(config) == []
    shortened = {"max_steps", "eval_steps", "warmup_steps", "checkpoint_steps", "keep", "log_steps"}
    train, wanted = (to_dict(one)["train"] for one in (config, whole))
    assert {key for key in train if train[key] != wanted[key]} <= shortened
    assert (config.method, config.lora, config.task) == (whole.method, whole.lora, whole.task)
    assert (config.model.name, config.model.weights) == ("chatglm-6b", "random")
    assert config.train.micro_batch_size * config.train.gradient_accumulation_steps == 16
    assert config.train.micro_batch_size == (16 if name == "full_24gb" else 4)
    assert config.data.train_size == config.train.max_steps * 16  # the longest text is trained on


def make_measured(*, measured: float, status: str = "success", predicted: float = 10 * GIB) -> Result:
    made = make_run("qlora", status=status, train_seconds=20.0)
    return dataclasses.replace(
        made,
        config={**made.config, "train": {**made.config["train"], "gradient_checkpointing": False}},
        memory={phase: {"peak_allocated_bytes": GIB} for phase in ("load", "train", "eval")},
        time={**made.time, "eval_seconds": 8.0},
        model={"steps": 8},
        prediction={
            "predicted_peak_bytes": predicted,
            "measured_peak_bytes": measured,
            "cost": {"train": 4.0, "eval": 2.0},
        },
        error=None if status == "success" else {"message": "CUDA out of memory"},
    )


@pytest.mark.parametrize(
    ("share", "works"), [(1.0, True), (1.09, True), (1.11, False), (0.91, True), (0.89, False)]
)
def test_memory_over_a_tenth_off_its_prediction_fails(share: float, works: bool) -> None:
    found = article.compare(
        "qlora", make_measured(measured=share * 10 * GIB), [2.0, 2.0], usable_bytes=24 * GIB
    )
    assert found.works is works
    assert f"{share - 1:+.1%} of the 10.00 predicted" in found.detail


def test_times_are_calibrated_without_the_first_step(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    stamps = ("10:00:00,500", "10:00:02,000", "10:00:03,500")
    lines = [f"2030-01-01 {one} INFO bench: step {n}: loss 2.0, lr 0.1" for n, one in enumerate(stamps, 1)]
    log.write_text("\n".join(["2030-01-01 09:59:00,000 INFO bench: goes on", *lines, "other"]))
    seconds = article.read_step_seconds(log)
    assert seconds == [1.5, 1.5]
    found = article.compare("qlora", make_measured(measured=10 * GIB), seconds, usable_bytes=24 * GIB)
    # Eight steps of 1.5 s by 4 s at full speed, and 8 s of evaluation by 2.
    assert found.numbers["calibration"] == {"family": "adapter nf4 False", "ratio": 3.0, "eval_ratio": 4.0}
    assert found.numbers["seconds_per_evaluated_text"] == 8 / 32


def test_what_a_smaller_card_cannot_hold_is_left_out_and_not_a_fault() -> None:
    ended = make_measured(measured=0, status="oom", predicted=14.2 * GIB)
    assert article.compare("lora", ended, [], usable_bytes=11.6 * GIB).works is None
    found = article.compare("lora", ended, [], usable_bytes=23 * GIB)  # where it was to fit
    assert (found.works, found.detail) == (False, "oom: CUDA out of memory")


@pytest.mark.parametrize(
    ("lab", "reason"),
    [({"seconds": 30}, "no time left"), ({"machine": dataclasses.replace(CARD, pages=False)}, "WSL2")],
)
def test_what_cannot_be_trained_here_says_why(tmp_path: Path, lab: dict[str, Any], reason: str) -> None:
    runs = {"full_24gb": article.RUNS["full_24gb"]}
    [found] = article.check_article(make_lab(tmp_path, **lab), runs=runs)
    assert found.works is None
    assert reason in found.detail


# The report


def test_the_report_is_for_people_and_for_plans(tmp_path: Path) -> None:
    made = article.compare("qlora", make_measured(measured=10 * GIB), [1.5], usable_bytes=24 * GIB)
    outcomes = [
        PartResult("ChatGLM-6B", 61.2, [made]),
        PartResult("pack", 0.0, [Proof("pack", None, "no time")]),
    ]
    paths = report.write_report(report.describe(outcomes, CARD, seconds=70.0), tmp_path)
    assert [path.name for path in paths] == ["nvidia-geforce-rtx-4090.json", "nvidia-geforce-rtx-4090.md"]
    known = read_measured(tmp_path, "rtx4090")
    assert {family: (one.ratio, one.eval_ratio) for family, one in known.items()} == {
        "adapter nf4 False": (3.0, 4.0),
        "": (3.0, 4.0),
    }
    lines = [line.replace("|", "").split() for line in paths[1].read_text().splitlines()]
    assert ["ChatGLM-6B", "PASS", "61"] in lines
    assert ["pack", "SKIPPED", "0"] in lines
    assert lines[-1] == ["qlora", "1.00", "10.00", "10.00", "1.500", "0.250"]


# What is tried on the device


def test_attention_that_reads_padding_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trials._compare_attention(CPU, "fp32").works
    attend = functional.scaled_dot_product_attention
    monkeypatch.setattr(functional, "scaled_dot_product_attention", lambda *values, **_: attend(*values))
    assert trials._compare_attention(CPU, "fp32").works is False


@pytest.mark.filterwarnings("ignore")  # bitsandbytes says so itself, but goes on
def test_an_optimizer_that_does_not_page_is_found() -> None:
    found = list(trials.try_paging(CPU))
    assert [(one.name, one.works) for one in found] == [("paged", False), ("equal steps", True)]


def test_a_network_that_is_not_chatglms_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trials._compare_golden(CPU).works
    monkeypatch.setattr(functional, "gelu", lambda states, **_: functional.relu(states))
    assert trials._compare_golden(CPU).works is False


def test_what_needs_no_hydra_is_tried_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor PEFT, bitsandbytes, W&B or datasets."""
    missing = ["hydra", "omegaconf", "peft", "bitsandbytes", "wandb", "datasets", "cloudpickle"]
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({missing}))\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    code = (
        "import sys, bench.extras.gpu_check.__main__ as check, bench.extras.gpu_check.trials as trials\n"
        "trials.main('agreement', sys.argv[1])\n"
        "print(check.find_missing(check.BENCH))"
    )
    ended = make_lab(tmp_path).run("-c", code, tmp_path / "found")
    assert ended.last_line == str(["bitsandbytes", "peft", "hydra", "omegaconf", "cloudpickle"])
    found = [json.loads(line) for line in (tmp_path / "found").read_text().splitlines()]
    assert [one["works"] for one in found] == [True, None]  # ChatGLM's network, and no card to compare with


# All of it


def run_whole(
    environment: Mapping[str, str], *, without: Sequence[str] = ()
) -> dict[str, tuple[str, dict[str, Proof]]]:
    """Each part's status and its proofs by name, on a machine of this environment, without a time limit."""
    code = (
        "import dataclasses, json, pathlib, sys, tempfile, time\n"
        "from bench.extras.gpu_check.__main__ import PARTS, run_parts\n"
        f"parts = [one for one in PARTS if one.name not in {tuple(without)}]\n"
        "parts = [dataclasses.replace(one, seconds=9999) for one in parts]\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    found = list(run_parts(pathlib.Path(folder), parts, ends_at=time.monotonic() + 9999))\n"
        "print(json.dumps([dataclasses.asdict(one) | {'status': one.status} for one in found]))\n"
    )
    waits = {"OMP_WAIT_POLICY": "PASSIVE"}  # threads that spin would wait for each other on a busy machine
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **waits, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {
        part["name"]: (part["status"], {one["name"]: Proof(**one) for one in part["proofs"]})
        for part in json.loads(done.stdout.splitlines()[-1])
    }


@pytest.mark.slow
def test_a_cpu_runs_what_a_cpu_can() -> None:
    found = run_whole({"CUDA_VISIBLE_DEVICES": ""})
    assert {name: status for name, (status, _) in found.items()} == {
        "device": "PASS",
        "sweep": "PASS",
        "out of memory": "SKIPPED",
        "CPU and card agree": "PASS",
        "fp16": "SKIPPED",
        "paged 8-bit AdamW": "SKIPPED",
        "killed and resumed": "PASS",
        "ChatGLM-6B": "SKIPPED",
        "pack of 4": "PASS",
    }
    pack = found["pack of 4"][1]["pack beside alone"].numbers
    assert min(pack.values()) > 0


@pytest.mark.slow
def test_an_emulated_card_is_proved_as_far_as_it_goes(tmp_path: Path) -> None:
    """All but what only a card is fast enough for; bitsandbytes' CPU library and its not paging are found."""
    machine = emulated.Machine(log=tmp_path / "log")
    found = run_whole(machine.environment, without=["ChatGLM-6B", "pack of 4"])
    faults = [one.name for _, proofs in found.values() for one in proofs.values() if one.works is False]
    assert faults == ["paged 8-bit AdamW", "bitsandbytes' library", "paged"]
    assert [name for name, (status, _) in found.items() if status == "SKIPPED"] == []
    watched = found["sweep"][1]
    assert [watched[name].works for name in ("fork server", "memory back", "contexts")] == [True] * 3
    assert found["device"][1]["this process in NVML"].works


@pytest.mark.slow
def test_the_networks_own_part_trains_and_is_measured(tmp_path: Path) -> None:
    """With a tiny ChatGLM: what a CPU's process holds is no tensor's memory, so that the comparison fails."""
    sizes = {"hidden_size": 64, "inner_hidden_size": 128, "num_layers": 2, "num_attention_heads": 4}
    ids = {"vocab_size": 1024, "bos_token_id": 1000, "eos_token_id": 1001, "mask_token_id": 1002}
    tiny = [
        f"model.architecture.{name}={value}"
        for name, value in (sizes | ids | {"gmask_token_id": 1003}).items()
    ]
    lab = make_lab(tmp_path, seconds=9999, machine=Found())
    [found] = article.check_article(lab, runs={"qlora": article.RUNS["qlora"]}, more=tiny)
    assert "of the 0.00 predicted" in found.detail
    assert found.numbers["calibration"]["family"] == "adapter nf4 False"
    assert found.numbers["calibration"]["ratio"] > 0
    assert found.numbers["calibration"]["eval_ratio"] > 0
    assert found.numbers["seconds_per_step"] > 0
