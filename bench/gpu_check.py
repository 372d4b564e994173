"""Proves bench on this machine's device in minutes: `make gpu-check` writes results/gpu/<card>.md and .json.

Needs no hub, no W&B and no data set: the models are random weights of true architectures, the texts random
words. Every training is a `bench run` in a process of its own; what needs a GPU is named and left out
elsewhere.
"""

import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench import provenance
from bench.cards import GIB
from bench.doctor import Finding, examine_device
from bench.store import Store, now

ROOT = Path(__file__).parents[1]
LIMIT_SECONDS = 9 * 60
CAP_GIB = 24.0  # the article's card
LABELS = 8
FALL = 0.8  # a loss that falls comes to less than this share of its beginning
_KINDS = ("allocated", "reserved", "resident")
_COLUMNS = (*_KINDS, "predicted reserved")
FOR_ALL = ["track.mode=disabled", "data=files", "model.weights=random", "train.warmup_steps=0"]
_SMALL = [
    "model=qwen3-0.6b",
    "model.architecture.hidden_size=128",
    "model.architecture.intermediate_size=256",
    "model.architecture.num_hidden_layers=2",
    "model.architecture.num_attention_heads=4",
    "model.architecture.num_key_value_heads=2",
    "model.architecture.head_dim=32",
    "model.architecture.vocab_size=4096",
    "train.max_steps=80",
    "train.eval_steps=80",
    "train.log_steps=1",
    "train.checkpoint_steps=null",
]
_LARGE = [
    "model=chatglm-6b",
    f"device_memory_gib={CAP_GIB:g}",
    "train.max_length=256",
    "train.micro_batch_size=4",
    "train.max_steps=20",
    "train.eval_steps=20",
    "train.eval_batch_size=4",
    "train.checkpoint_steps=null",
]


@dataclass(frozen=True)
class Part:
    """One training: its overrides, and what of it is proved."""

    name: str
    overrides: Sequence[str]
    needs_gpu: bool = False
    falls: bool = False  # whether the loss has to fall


@dataclass
class Outcome:
    """What a part came to; a number that was not measured is None."""

    name: str
    status: str  # passed | failed | skipped
    reason: str | None = None
    numbers: dict[str, Any] = field(default_factory=dict)


PARTS = (
    Part("full, small decoder", [*_SMALL, "method=full", "train.lr=1e-3"], falls=True),
    Part("lora, small decoder", [*_SMALL, "method=lora", "train.lr=1e-2"], falls=True),
    Part("qlora, small decoder", [*_SMALL, "method=qlora", "train.lr=1e-2"], falls=True),
    Part("qlora, chatglm-6b", [*_LARGE, "method=qlora"], needs_gpu=True),
    Part("lora, chatglm-6b", [*_LARGE, "method=lora"], needs_gpu=True),
    Part(
        "full_24gb, chatglm-6b",
        ["train=full_24gb", *_LARGE, "method=full", "train.lr=1e-5"],
        needs_gpu=True,
    ),
)


def main() -> None:
    """Runs everything and exits with 1 if a part failed."""
    started = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    findings = []
    for finding in examine_device(device):
        findings.append(finding)
        print(f"{finding.mark:5}{finding.name:22}{finding.detail}", flush=True)
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="bench-gpu-check-") as folder:
        for outcome in run_parts(Path(folder), has_gpu=device.type == "cuda", started=started):
            outcomes.append(outcome)
            print(f"{outcome.status:8}{outcome.name}  {outcome.reason or _line(outcome.numbers)}", flush=True)
    seconds = time.monotonic() - started
    report = describe(findings, outcomes, seconds=seconds, on_gpu=device.type == "cuda")
    for path in write_report(report, folder=ROOT / "results" / "gpu"):
        print(path.relative_to(ROOT))
    faults = [one.works is False for one in findings] + [one.status == "failed" for one in outcomes]
    sys.exit(1 if any(faults) else 0)


def describe(
    findings: Sequence[Finding], outcomes: Sequence[Outcome], *, seconds: float, on_gpu: bool
) -> dict[str, Any]:
    """What the check came to, in values of JSON."""
    return {
        "written_at": now(),
        "seconds": round(seconds, 1),
        "cap_gib": CAP_GIB if on_gpu else None,
        "findings": [asdict(one) for one in findings],
        "parts": [asdict(one) for one in outcomes],
        "provenance": provenance.describe(model_revision=None),
    }


def run_parts(
    folder: Path, *, has_gpu: bool, started: float, parts: Sequence[Part] = PARTS
) -> Iterator[Outcome]:
    """Each part's outcome, as long as the time lasts."""
    texts = write_texts(folder / "texts.csv")
    for number, part in enumerate(parts):
        left = LIMIT_SECONDS - (time.monotonic() - started)
        if part.needs_gpu and not has_gpu:
            yield Outcome(part.name, "skipped", "needs a CUDA device, and torch finds none")
        elif left < 30:
            yield Outcome(part.name, "skipped", f"the {LIMIT_SECONDS} s of this check are over")
        else:
            yield run_part(part, folder / str(number), texts=texts, seconds=left)


def write_texts(path: Path) -> Path:
    """Texts of 300 words, more than any part reads; every fifth word is the label's, the rest are random."""
    chance = random.Random(0)
    rows = ["text,label"]
    for row in range(LABELS * 20):
        words = [f"word{chance.randrange(1000)}" for _ in range(300)]
        words[::5] = [f"topic{row % LABELS}"] * len(words[::5])
        rows.append(f"{' '.join(words)},label{row % LABELS}")
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def run_part(part: Part, folder: Path, *, texts: Path, seconds: float) -> Outcome:
    """Trains the part in a fresh process and reads its record."""
    overrides = [
        *part.overrides,
        *FOR_ALL,
        f"data.train={texts}",
        f"results_dir={folder}",
        f"cache_dir={folder}",
    ]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "bench.run", *overrides],
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Outcome(part.name, "failed", f"took longer than the {seconds:.0f} s that were left")
    good, _ = Store(folder).read_all()
    if done.returncode or not good:
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        return Outcome(part.name, "failed", f"exit code {done.returncode}: {said}")
    losses = read_losses(folder / "runs" / good[0].run_id / "history.jsonl")
    quarter = max(1, len(losses) // 4)
    first, last = (sum(some) / quarter for some in (losses[:quarter], losses[-quarter:]))
    train, steps = good[0].memory["train"], good[0].model["steps"]
    predicted = good[0].prediction.get("phases", {}).get("train", {})
    numbers = {
        **train,
        "predicted_reserved_bytes": predicted.get("peak_reserved_bytes"),
        "seconds_per_step": good[0].time["train_seconds"] / steps,  # the first one, which warms up, included
        "steps": steps,
        "loss_first_quarter": first,
        "loss_last_quarter": last,
        "parameters": good[0].parameters,
        "precision": good[0].model["precision"],
        "attention": good[0].model["attention"],
    }
    if part.falls and not last < FALL * first:
        return Outcome(part.name, "failed", f"the loss went from {first:.3f} to {last:.3f}", numbers)
    return Outcome(part.name, "passed", None, numbers)


def read_losses(history: Path) -> list[float]:
    """The training losses of a run's history, in order."""
    rows = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def write_report(report: Mapping[str, Any], *, folder: Path) -> list[Path]:
    """<card>.json and, for people, <card>.md."""
    hardware = report["provenance"]["hardware"]
    card = hardware["gpu"] or f"CPU {hardware['cpu']}"
    name = re.sub(r"[^A-Za-z0-9]+", "-", card).strip("-").lower()
    store = Store(folder)
    store.prepare()
    return [
        store.write_report(f"{name}.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n"),
        store.write_report(f"{name}.md", "\n".join(_to_markdown(card, report)) + "\n"),
    ]


def _to_markdown(card: str, report: Mapping[str, Any]) -> Iterator[str]:
    packages = report["provenance"]["packages"]
    versions = ", ".join(
        f"{name} {packages[name]}" for name in ("torch", "transformers", "peft", "bitsandbytes")
    )
    yield f"# {card}\n"
    yield f"Written by `make gpu-check` at {report['written_at']} in {report['seconds']} s; {versions}.\n"
    yield "| | | found |\n| --- | --- | --- |"
    for one in report["findings"]:
        mark = {True: "yes", False: "NO", None: "-"}[one["works"]]
        yield f"| {mark} | {one['name']} | {one['detail']} |"
    cap = f", under a cap of {report['cap_gib']:g} GiB for chatglm-6b" if report["cap_gib"] else ""
    yield f"\nTraining with random weights{cap}; peaks are of the training phase.\n"
    header = (
        "part",
        "",
        *(f"{kind} (GiB)" for kind in _COLUMNS),
        "s per step",
        "loss, first and last quarter",
    )
    yield f"| {' | '.join(header)} |\n|{' --- |' * len(header)}"
    for one in report["parts"]:
        yield f"| {one['name']} | {one['status']} | {' | '.join(_cells(one))} |"


def _cells(part: Mapping[str, Any]) -> list[str]:
    numbers = part["numbers"]
    if not numbers:
        return [part["reason"] or "", "", "", "", "", ""]
    peaks = (numbers[f"peak_{kind}_bytes"] for kind in _KINDS)
    return [
        *(
            "—" if peak is None else f"{peak / GIB:.2f}"
            for peak in (*peaks, numbers["predicted_reserved_bytes"])
        ),
        f"{numbers['seconds_per_step']:.3f}",
        f"{numbers['loss_first_quarter']:.3f}, {numbers['loss_last_quarter']:.3f}",
    ]


def _line(numbers: Mapping[str, Any]) -> str:
    *peaks, seconds, losses = _cells({"numbers": numbers})
    memory = ", ".join(f"{kind} {peak}" for kind, peak in zip(_COLUMNS, peaks, strict=True))
    return f"{seconds} s a step; loss {losses}; GiB {memory}"


if __name__ == "__main__":
    main()
