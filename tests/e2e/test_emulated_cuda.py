"""The command line on emulated NVIDIA cards: which processes make a CUDA context, and where forks cannot."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Bench, Count
from tests.emulated import Card, Machine

SHORT = ("train.max_steps=2", "results_dir=results")
TOLD = "each run starts a new Python interpreter"


def emulate(bench: Bench, **machine: Any) -> Machine:
    """Have the command run on a machine with cards."""
    made = Machine(log=bench.folder / "cuda.jsonl", **machine)
    bench.variables |= made.environment
    return made


def find_contexts(machine: Machine) -> list[dict[str, Any]]:
    """The processes that made a CUDA context."""
    return [row for row in machine.read_log() if row["event"] == "context"]


def read_kinds(folder: Path) -> list[tuple[str, str]]:
    """Status and kind of memory of each record."""
    records = [json.loads(path.read_text()) for path in folder.rglob("result.json")]
    return [(record["status"], record["memory"]["kind"]) for record in records]


@pytest.mark.slow
def test_only_the_processes_of_runs_make_a_cuda_context(bench: Bench, tiny: list[str], count: Count) -> None:
    machine = emulate(bench)
    assert bench("plan", *tiny, *SHORT, "method=qlora,full").returncode == 0
    assert machine.read_log() == []
    with bench.start("sweep", *tiny, *SHORT, "method=qlora,full") as sweep:
        said, errors = sweep.communicate(timeout=900)
    assert (sweep.returncode, count(said)) == (0, {"planned": 2, "success": 2}), errors
    assert read_kinds(bench.folder / "results") == [("success", "cuda")] * 2
    contexts = find_contexts(machine)
    fork_servers = {row["parent"] for row in contexts}
    assert len(contexts) == 3  # the two runs', after a throw-away process's
    assert len(fork_servers) == 1
    assert not {row["pid"] for row in contexts} & {sweep.pid, *fork_servers}
    assert TOLD not in said
    assert "CPU library" not in errors


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_pack_trains_in_one_context(bench: Bench, tiny: list[str], count: Count, method: str) -> None:
    machine = emulate(bench)
    grid = (f"method={method}", "train.lr=1e-3,1e-4", "sweep.pack=2")
    with bench.start("sweep", *tiny, *SHORT, *grid) as sweep:
        said, errors = sweep.communicate(timeout=900)
    assert (sweep.returncode, count(said)) == (0, {"planned": 2, "success": 2}), errors
    records = [json.loads(path.read_text()) for path in bench.folder.rglob("result.json")]
    packed, best = sorted(records, key=lambda record: record["packed"] is None)
    assert packed["packed"]["size"] == 2
    assert (best["packed"], best["memory"]["kind"]) == (None, "cuda")  # trained again alone
    assert len(find_contexts(machine)) == 3  # a throw-away process's, the pack's and the best's


@pytest.mark.slow
def test_where_a_forked_process_cannot_use_a_card_runs_are_new_interpreters(
    bench: Bench, tiny: list[str], count: Count
) -> None:
    machine = emulate(bench, nvml=False)  # torch has to ask CUDA whether there is a card
    with bench.start("sweep", *tiny, *SHORT, "method=lora,full") as sweep:
        said, errors = sweep.communicate(timeout=900)
    assert (sweep.returncode, count(said)) == (0, {"planned": 2, "success": 2}), errors
    assert read_kinds(bench.folder / "results") == [("success", "cuda")] * 2
    assert said.count(TOLD) == 1
    assert [row["parent"] for row in find_contexts(machine)] == [sweep.pid] * 3


@pytest.mark.slow
def test_a_card_that_cannot_compute_ends_a_sweep_before_its_runs(bench: Bench, tiny: list[str]) -> None:
    broken = Card(
        uuid="GPU-00000000-0000-0000-0000-000000000001", fault="CUDA error: uncorrectable ECC error"
    )
    emulate(bench, cards=(Card(), broken))
    ended = bench("sweep", *tiny, *SHORT, "method=lora,full", "devices=0,1")
    assert ended.returncode == 3
    assert [line for line in ended.stderr.splitlines() if "ECC" in line] == [
        "CUDA_VISIBLE_DEVICES=1: cannot compute on the CUDA card (CUDA error: uncorrectable ECC error); "
        "`bench doctor` tries what a run needs of it, and devices=cpu trains without it"
    ]
    assert list((bench.folder / "results").rglob("result.json")) == []


@pytest.mark.slow
@pytest.mark.parametrize("nvml", [True, False])
def test_each_process_of_one_training_has_a_context_of_its_own(
    bench: Bench, tiny: list[str], nvml: bool
) -> None:
    second = Card(uuid="GPU-00000000-0000-0000-0000-000000000001")
    machine = emulate(bench, cards=(Card(), second), nvml=nvml)
    shared = ["train.distributed=ddp", "train.processes=2", "train.gradient_accumulation_steps=2"]
    changed = [*shared, "train.checkpoint_steps=null", "train.micro_batch_size=4", "devices='0,1'"]
    with bench.start("run", *tiny, *SHORT, *changed, "method=lora") as run:
        _, errors = run.communicate(timeout=900)
    assert run.returncode == 0, errors
    assert read_kinds(bench.folder / "results") == [("success", "cuda")]
    first, follower = find_contexts(machine)
    assert (first["pid"], follower["parent"]) == (run.pid, run.pid)
