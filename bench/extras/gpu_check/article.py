"""The part that trains ChatGLM-6B at the article's own settings, and so shows how far predictions are off."""

import math
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from bench.config.cards import GIB, read_cards
from bench.extras.gpu_check.lab import Lab, Late, Proof
from bench.extras.gpu_check.sweeps import read_results
from bench.memory.calibration import name_family

if TYPE_CHECKING:
    from bench.results.store import Result

STANDARD = "rtx4090"  # the article's card, for which larger ones stand
MARGIN = 0.10  # by which a measurement may differ from its prediction
RUN_SECONDS = 130  # of one run
LEAST_SECONDS = 40  # below which no run is begun
WEIGHTS_GIB = (
    13  # two bytes for each of 6.2 billion: of RAM for full_24gb's paged states, of disk for its weights
)
STEPS, TEXTS = 8, 16  # steps of 16 texts, and texts of each evaluation
RUNS: Mapping[str, Sequence[str]] = {
    "qlora": ["method=qlora"],
    "lora": ["method=lora"],
    "full_24gb": ["method=full", "train=full_24gb"],
}
# As the article trains but for how long: its texts' length, its batch of 16, its way to classify.
SETTINGS = (
    *("experiment=article", "model.weights=random", "data=finance8_synthetic", "track.mode=disabled"),
    *(f"data.train_size={STEPS * 16}", f"data.validation_size={TEXTS}", f"data.test_size={TEXTS}"),
    *(f"train.max_steps={STEPS}", f"train.eval_steps={STEPS}", "train.warmup_steps=0"),
    *("train.checkpoint_steps=null", "train.keep=none", "train.log_steps=1"),
)


def find_cap(memory_bytes: int | None) -> float | None:
    """Find how many GiB a run may have: what a 4090 gives on a larger card, all (None) on any other."""
    card = read_cards()[STANDARD]
    its_class = math.ceil(card.memory_bytes / GIB) * GIB  # one card reports a little more than another
    is_larger = memory_bytes is not None and memory_bytes > its_class
    return card.usable_bytes / GIB if is_larger else None


def check_article(
    lab: Lab, *, runs: Mapping[str, Sequence[str]] = RUNS, more: Sequence[str] = ()
) -> Iterator[Proof]:
    """Train QLoRA, LoRA and full_24gb for a few steps, each held against its prediction."""
    memory_bytes = lab.machine.memory_bytes if lab.machine else None
    cap = find_cap(memory_bytes)
    usable_bytes = memory_bytes if cap is None else cap * GIB
    lines = [*SETTINGS, *([] if cap is None else [f"device_memory_gib={cap:g}"])]
    for name, own in runs.items():
        if reason := _find_obstacle(lab, own):
            yield Proof(name, None, f"left out: {reason}")
            continue
        inner = replace(
            lab, folder=lab.folder / name, ends_at=min(lab.ends_at, time.monotonic() + RUN_SECONDS)
        )
        inner.folder.mkdir()
        places = (f"results_dir={inner.folder}/results", f"cache_dir={inner.folder}/cache")
        try:
            ended = inner.run("-m", "bench.run", *lines, *own, *places, *more)
        except Late as late:
            yield Proof(name, False, str(late))
            continue
        results = read_results(inner.folder / "results")
        if not results:
            yield Proof(name, False, f"exit code {ended.code}: {ended.last_line}")
        for result in results:
            log = inner.folder / "results" / "runs" / result.run_id / "log.txt"
            yield compare(name, result, read_step_seconds(log), usable_bytes=usable_bytes)


def _find_obstacle(lab: Lab, own: Sequence[str]) -> str | None:
    """Say why a run cannot be tried here, or None."""
    if lab.seconds_left < LEAST_SECONDS:
        return "there is no time left for it"
    if "train=full_24gb" not in own:
        return None
    if lab.machine is not None and not lab.machine.pages:
        return "WSL2 has no memory that CUDA can page"
    free = {"RAM": psutil.virtual_memory().available, "disk": shutil.disk_usage(lab.folder).free}
    short = [f"{size / GIB:.1f} GiB of {kind}" for kind, size in free.items() if size < WEIGHTS_GIB * GIB]
    return f"needs {WEIGHTS_GIB} GiB of RAM and of disk, and has {' and '.join(short)}" if short else None


def read_step_seconds(log: Path) -> list[float]:
    """Read from a run's log how long each step took, but for the first, which warms up."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    stamps = re.findall(r"^(\S+ \S+) INFO bench: step \d+: loss", text, flags=re.MULTILINE)
    times = [datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S,%f") for stamp in stamps]
    return [(after - before).total_seconds() for before, after in pairwise(times)]


def compare(
    name: str, result: "Result", step_seconds: Sequence[float], *, usable_bytes: float | None
) -> Proof:
    """Hold a run's reserved memory against its prediction, with times that `bench plan` can go by."""
    predicted, measured = (result.prediction.get(f"{kind}_peak_bytes") for kind in ("predicted", "measured"))
    if result.status == "oom" and predicted and usable_bytes and predicted > usable_bytes:
        return Proof(
            name,
            None,
            f"left out: would take {predicted / GIB:.1f} GiB, and there are {usable_bytes / GIB:.1f}",
        )
    if not result.is_success:
        return Proof(name, False, f"{result.status}: {(result.error or {}).get('message')}")
    if predicted is None or measured is None:
        return Proof(name, False, f"nothing was predicted of it: {result.reasons.get('prediction')}")
    seconds = sum(step_seconds) / len(step_seconds)
    evaluated = result.time["eval_seconds"] / (2 * TEXTS)
    error = measured / predicted - 1
    numbers = {
        "predicted_bytes": predicted,
        "peak_reserved_bytes": measured,
        "peak_allocated_bytes": max(
            result.memory[one]["peak_allocated_bytes"] or 0 for one in ("load", "train", "eval")
        ),
        "seconds_per_step": seconds,
        "seconds_per_evaluated_text": evaluated,
        "calibration": _calibrate(result, step_seconds=seconds),
    }
    return Proof(
        name,
        abs(error) <= MARGIN,
        f"{measured / GIB:.2f} GiB were reserved, {error:+.1%} of the {predicted / GIB:.2f} predicted; "
        f"{seconds:.2f} s a step of 16 texts, {evaluated:.3f} s a text evaluated",
        numbers,
    )


def _calibrate(result: "Result", *, step_seconds: float) -> dict[str, Any]:
    """Divide the run's times by those at the card's full speed, for its family of methods."""
    method, train, cost = result.config["method"], result.config["train"], result.prediction["cost"]
    return {
        "family": name_family(
            method["trainable"],
            method["quantization"],
            gradient_checkpointing=train["gradient_checkpointing"],
        ),
        "ratio": step_seconds * result.model["steps"] / cost["train"],
        "eval_ratio": result.time["eval_seconds"] / cost["eval"],
    }
