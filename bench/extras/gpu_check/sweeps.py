"""Parts that are sweeps of a tiny decoder with random weights: `bench sweep` as a user calls it."""

import json
import os
import random
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from bench.config.cards import GIB
from bench.extras.gpu_check.lab import Ended, Lab, Proof
from bench.extras.gpu_check.watch import Watch, find_runs

if TYPE_CHECKING:
    from bench.results.store import Result

LABELS = 8
FALL = 0.8  # a loss that falls comes to less than this share of its beginning
CAP_GIB = 0.18  # between what 32 and 64 texts at once are predicted to take: 0.13 and 0.26
FOR_ALL = (
    *("track.mode=disabled", "model.weights=random", "train.warmup_steps=0", "plan.force=true"),
    *("train.keep=none", "train.log_steps=1"),
)
MODEL = (
    *("model=qwen3-0.6b", "model.architecture.hidden_size=128", "model.architecture.intermediate_size=256"),
    *("model.architecture.num_hidden_layers=2", "model.architecture.num_attention_heads=4"),
    *("model.architecture.num_key_value_heads=2", "model.architecture.head_dim=32"),
    *("model.architecture.vocab_size=4096", "model.architecture.bos_token_id=1"),
    *("model.architecture.eos_token_id=2", "train.max_steps=40", "train.eval_steps=40"),
    *("train.micro_batch_size=8", "train.max_length=32"),
    "train.checkpoint_steps=null",
)
LARGER = (
    *("model.architecture.hidden_size=1024", "model.architecture.intermediate_size=3072"),
    "model.architecture.num_hidden_layers=12",
)


@dataclass(frozen=True)
class SweepResult:
    """A sweep that has ended."""

    ended: Ended
    folder: Path
    results: Sequence["Result"]  # in order of run_id

    @property
    def fault(self) -> str | None:
        """Return what it said last, unless every run of it has succeeded."""
        return f"exit code {self.ended.code}: {self.ended.last_line}" if self.ended.code else None

    def read_losses(self, run_id: str) -> list[float]:
        """Read the training losses of a run, step by step."""
        history = self.folder / "runs" / run_id / "history.jsonl"
        rows = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
        return [row["loss"] for row in rows if "loss" in row]


def sweep(lab: Lab, *lines: str, look: Callable[[psutil.Process], None] = lambda _: None) -> SweepResult:
    """Run `bench sweep` with these overrides on texts of random words."""
    folder, texts = lab.folder / "results", write_texts(lab.folder / "texts.csv")
    places = ("data=files", f"data.train={texts}", f"results_dir={folder}", f"cache_dir={lab.folder}/cache")
    ended = lab.run("-m", "bench", "sweep", *MODEL, *FOR_ALL, *places, *lines, look=look)
    return SweepResult(ended, folder, read_results(folder))


def read_results(folder: Path) -> Sequence["Result"]:
    """Read the records of a results folder; imported here, as it takes Hydra."""
    from bench.results.store import Store

    return Store(folder).read_all()[0]


def write_texts(path: Path) -> Path:
    """Write texts of 300 words, more than any part reads; every fifth is the label's, the rest random."""
    chance = random.Random(0)
    rows = ["text,label"]
    for row in range(LABELS * 20):
        words = [f"word{chance.randrange(1000)}" for _ in range(300)]
        words[::5] = [f"topic{row % LABELS}"] * len(words[::5])
        rows.append(f"{' '.join(words)},label{row % LABELS}")
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def check_sweep(lab: Lab) -> Iterator[Proof]:
    """Train full, LoRA, QLoRA and a pack of 2 in one sweep, and watch what its processes hold of the card."""
    grids = (
        "{method:full,train.lr:1e-3}",
        "{method:lora,train.lr:1e-2}",
        "{method:qlora,train.lr:[1e-2,2e-2]}",
    )
    watch = Watch(lab.machine.uuid if lab.machine else None)
    swept = sweep(lab, f"sweep.grids=[{','.join(grids)}]", "sweep.pack=2", look=watch)
    yield _prove_success(swept, runs=4)
    for result in swept.results:
        if result.is_success:
            yield prove_fall(swept, result)
    packed = [one for one in swept.results if one.packed or any(each["packed"] for each in one.attempts)]
    works = None if _lacks_bf16(swept) else len(packed) == 2
    yield Proof("pack of 2", works, f"{len(packed)} runs were trained in one process")
    if lab.has_gpu:
        yield from watch.prove()


def _lacks_bf16(swept: SweepResult) -> bool:
    """Tell whether the card computes in fp16, in which no runs train together."""
    return any(result.model.get("precision") == "fp16" for result in swept.results)


def _prove_success(swept: SweepResult, *, runs: int) -> Proof:
    """Prove that the sweep has so many runs and each has succeeded."""
    good = [result for result in swept.results if result.is_success]
    works = swept.fault is None and len(good) == runs
    return Proof("sweep", works, swept.fault or f"{len(good)} of {runs} runs succeeded")


def prove_fall(swept: SweepResult, result: "Result") -> Proof:
    """Prove that the run's loss has fallen, from its first quarter to its last."""
    losses = swept.read_losses(result.run_id)
    quarter = max(1, len(losses) // 4)
    first, last = (sum(some) / quarter for some in (losses[:quarter], losses[-quarter:]))
    method, precision = result.config["method"]["name"], result.model["precision"]
    detail = f"{len(losses)} steps in {precision}, the loss went from {first:.3f} to {last:.3f}"
    return Proof(method, last < FALL * first, detail, {"loss_first": first, "loss_last": last})


def check_halving(lab: Lab) -> Iterator[Proof]:
    """Let a run have less memory than it needs, so that its sweep halves the micro-batch until it fits."""
    swept = sweep(
        lab,
        *("method=lora", f"device_memory_gib={CAP_GIB:g}", "train.max_steps=10", "train.eval_steps=10"),
        *("train.max_length=256", "train.micro_batch_size=64", "train.eval_batch_size=8"),
        "train.oom_retries=3",
    )
    yield _prove_success(swept, runs=1)
    for result in swept.results:
        statuses = [attempt["status"] for attempt in result.attempts]
        halvings = result.config["oom_halvings"]
        yield Proof(
            "halving",
            result.is_success and halvings > 0 and set(statuses) == {"oom"},
            f"{', '.join([*statuses, result.status])}; 64 texts at once became {64 // 2**halvings}",
        )
        if result.is_success:
            peak = max(result.memory[phase]["peak_reserved_bytes"] for phase in ("load", "train", "eval"))
            yield Proof("cap", peak <= CAP_GIB * GIB, f"{peak / GIB:.3f} of {CAP_GIB:g} GiB were reserved")


def check_fp16(lab: Lab) -> Iterator[Proof]:
    """Train in fp16, where the loss is scaled and a step whose gradients overflow is skipped."""
    steps = ("train.max_steps=80", "train.eval_steps=80")  # of which it may skip a tenth
    swept = sweep(lab, "method=full", "train.lr=1e-3", "train.precision=fp16", *steps)
    yield _prove_success(swept, runs=1)
    for result in swept.results:
        if result.is_success:
            yield prove_fall(swept, result)
            skipped = result.model.get("skipped_steps")
            counted = "the record does not say how many" if skipped is None else f"{skipped} of 80"
            yield Proof("skipped steps", skipped is not None, f"{counted} steps were skipped")


def check_resumption(lab: Lab) -> Iterator[Proof]:
    """Kill a run once it has a checkpoint; the same command has to go on from there."""
    lines = ("method=lora", "train.max_steps=200", "train.eval_steps=200", "train.checkpoint_steps=20")
    killed: list[int] = []

    def kill_once(process: psutil.Process) -> None:
        if not killed and next(lab.folder.glob("results/runs/*/checkpoints/step-*"), None):
            killed.extend(run.pid for run in find_runs(process))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    swept = sweep(lab, *lines, look=kill_once)
    statuses = [one.status for one in swept.results]
    yield Proof(
        "SIGKILL",
        bool(killed) and statuses == ["crashed"],
        f"the run's record says {', '.join(statuses) or 'nothing'}",
    )
    swept = sweep(lab, *lines)
    yield _prove_success(swept, runs=1)
    for result in swept.results:
        step: Any = result.model.get("resumed_from_step")
        works = result.is_success and bool(step) and len(swept.read_losses(result.run_id)) == 200
        yield Proof("resumed", works, f"from step {step} on, to step {result.model.get('steps')}")


def check_pack(lab: Lab) -> Iterator[Proof]:
    """Train 4 QLoRA runs as one pack; the sweep then trains the best of them alone."""
    swept = sweep(
        lab,
        *(LARGER if lab.has_gpu else ()),
        *("method=qlora", "train.lr=1e-3,2e-3,5e-3,1e-2", "sweep.pack=4"),
        *("train.max_length=256", "train.micro_batch_size=4"),
    )
    yield _prove_success(swept, runs=4)
    packed = next((result.packed for result in swept.results if result.packed is not None), None)
    alone = next((result for result in swept.results if result.packed is None and result.is_success), None)
    if packed is None or alone is None:
        yield Proof(
            "pack", None if _lacks_bf16(swept) else False, "no run was trained in a pack and another alone"
        )
    else:
        yield compare_pack(packed, alone)


def compare_pack(packed: Mapping[str, Any], alone: "Result") -> Proof:
    """Set what four runs together took beside one alone: of whole processes, loading included."""
    kind = "peak_reserved_bytes" if alone.memory["kind"] == "cuda" else "peak_resident_bytes"
    numbers = {
        "pack_seconds": packed["pack_seconds"],
        "pack_bytes": packed["pack_peak_bytes"],
        "alone_seconds": alone.time["total_seconds"],
        "alone_bytes": max(alone.memory[phase][kind] for phase in ("load", "train", "eval")),
    }
    together, apart = (
        f"{numbers[f'{who}_seconds']:.1f} s and {numbers[f'{who}_bytes'] / GIB:.2f} GiB"
        for who in ("pack", "alone")
    )
    detail = f"{packed['size']} runs together took {together}, one alone {apart}"
    return Proof("pack beside alone", packed["size"] == 4, detail, numbers)
