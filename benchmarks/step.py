"""The training step alone: seconds, tokens and FLOP/s of bench's loops and of transformers.Trainer's.

    python -m benchmarks.step SIDE CASE STEPS     SIDE: naive | solo | packed

prints the seconds of each step as JSON. Every measurement is a process of its own, as accelerate keeps one
precision per process, and sides take turns, so that a slow minute of the machine meets both.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, TrainerCallback

from bench.config.schema import Config, replace_values
from bench.data import tokens
from bench.model import weights
from bench.packs import network
from bench.sweep.packing import LARGEST
from bench.train import loop
from bench.train.device import choose_precision, keep_freed_memory
from bench.train.task import SequenceClassification
from bench.train.training import Networks, Training, build_alone, make_accelerator, prepare
from benchmarks import machine
from benchmarks.settings import answer, compose, ratio, table

STEPS, WARM = 30, 5  # measured, after those that only warm up
LABELS = ("a", "b", "c", "d", "e")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Case:
    """What is trained, and on batches of which shape; every row is as long, so that nothing is padded."""

    title: str
    method: str
    batch: int
    length: int


CASES = {
    "lora-4x64": Case("LoRA, 4 x 64 tokens", "lora", 4, 64),
    "lora-4x128": Case("LoRA, 4 x 128 tokens", "lora", 4, 128),
    "full-16x64": Case("Full fine-tuning, 16 x 64", "full", 16, 64),
    "full-16x128": Case("Full fine-tuning, 16 x 128", "full", 16, 128),
}
MEMBERS = {"naive": 1, "solo": 1, "packed": LARGEST}  # of each side: how many points one step trains


def report(*, short: bool) -> str:
    """The section: throughput of training alone, start-up, evaluation and saving excluded."""
    names = ["lora-4x64", "full-16x64"] if short else list(CASES)
    rounds = 1 if short else 3
    rows, steps = [], STEPS if not short else STEPS // 2
    peaks = {name: machine.measure_peak(dtype) for name, dtype in DTYPES.items()}
    for name in names:
        case = CASES[name]
        taken: dict[str, list[float]] = {
            side: [] for side in MEMBERS if case.method == "lora" or side != "packed"
        }
        for _ in range(rounds):
            for side, times in taken.items():
                times += _run(side, name, steps)
        seconds = {side: statistics.median(times) / MEMBERS[side] for side, times in taken.items()}
        for side in taken:
            precision = "fp32" if side == "naive" else choose_precision("auto", torch.device("cpu"))
            flops = count_flops(
                settings(), case.batch, case.length, method=case.method, whole=side == "naive"
            )
            rate = flops / seconds[side]
            rows.append(
                [
                    case.title,
                    side,
                    precision,
                    f"{1000 * seconds[side]:.1f} ms",
                    f"{case.batch * case.length / seconds[side]:,.0f}",
                    f"{rate / 1e9:.0f}",
                    f"{rate / peaks[precision]:.0%}",
                    ratio(seconds["naive"], seconds[side]),
                ]
            )
    head = ["step", "side", "precision", "time", "tokens/s", "GFLOP/s", "of the peak", "against naive"]
    return "\n\n".join(
        [
            "## Training alone",
            f"Medians of {steps * rounds} steps, {rounds} interleaved processes a side; packed is a step of "
            f"{MEMBERS['packed']} points, as many as bench packs at most, divided by them. FLOPs are the "
            "model's own: its matrix products forward, and backward those that what is trained needs; of the "
            "last layer bench leaves out what the head does not read.",
            table(head, rows),
            "The peak is the best large square matrix product of torch. The products that the model has are "
            "smaller:",
            _report_peaks(peaks),
        ]
    )


def count_flops(sizes: Any, rows: int, length: int, *, method: str | None, whole: bool) -> float:
    """FLOPs of the matrix products of one batch in an encoder like BERT, embeddings and head left out.

    With d the width, f the inner width and L the length, a layer forward is per token 2 (4 d^2 + 2 d f) for
    its weights and 4 L d for attention. Backward, the gradients of activations take as much again for
    the weights and twice that for attention; those of the weights as much again where these are trained.
    Below the first layer's adapters nothing is; a LoRA of rank 8 itself is left out.

    Args:
        sizes: the model's configuration
        rows: of so many tokens each
        length: tokens of a row
        method: full | lora; None is the forward pass alone
        whole: False where the last layer is computed at the first token only, but for keys and values
    """
    d, inner, layers = sizes.hidden_size, sizes.intermediate_size, sizes.num_hidden_layers
    tokens = rows * length
    read = tokens if whole else rows  # of the last layer
    asking = (layers - 1) * tokens + read  # in all layers: keys and values are everyone's
    weights = 4 * d * d * layers * tokens + 4 * (d * d + d * inner) * asking
    attention = 4.0 * length * d * asking
    first = 2 * 3 * d * d * tokens  # queries, keys and values of the first layer
    backward = {None: 0, "lora": weights - first, "full": 2 * weights}[method]
    return weights + backward + attention * (1 if method is None else 3)


def _report_peaks(peaks: dict[str, float]) -> str:
    """Large products beside those of the shapes that the model has."""
    sizes = settings()
    d, inner = sizes.hidden_size, sizes.intermediate_size
    shapes = [(rows, *one) for rows in (256, 1024, 2048) for one in ((d, d), (d, inner), (inner, d))]
    rows = [
        ["best of " + ", ".join(map(str, machine.LARGE)), *(f"{peaks[name] / 1e9:.0f}" for name in DTYPES)]
    ]
    for shape in shapes:
        rates = [machine.matmul_flops(*shape, dtype) for dtype in DTYPES.values()]
        rows.append([" x ".join(map(str, shape)), *(f"{rate / 1e9:.0f}" for rate in rates)])
    return table(["product", *(f"{name}, GFLOP/s" for name in DTYPES)], rows)


def settings() -> Any:
    """The benchmark's model, as transformers describes it."""
    return AutoConfig.from_pretrained(weights.locate(compose().model), local_files_only=True)


def _compose(case: Case, steps: int) -> Config:
    lines = [f"method={case.method}", f"train.micro_batch_size={case.batch}", f"train.max_steps={steps}"]
    return compose(*lines, "devices=cpu")


def _run(side: str, case: str, steps: int) -> list[float]:
    found: list[float] = answer([sys.executable, "-m", "benchmarks.step", side, case, str(steps)])
    return found


def measure_naive(case: Case, steps: int) -> list[float]:
    """Seconds of each step of transformers.Trainer in fp32."""
    from datasets import Dataset

    from benchmarks import naive

    rows = case.batch * steps
    ids = np.random.default_rng(0).integers(1000, 20000, (rows, case.length))
    train = Dataset.from_dict(
        {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "labels": np.arange(rows) % len(LABELS),
        }
    )
    lora = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.05} if case.method == "lora" else None
    network = naive.make_model(weights.locate(compose().model), labels=len(LABELS), lora=lora)
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        made = naive.make_trainer(
            network,
            train,
            None,
            folder=folder,
            max_steps=steps,
            per_device_train_batch_size=case.batch,
            save_strategy="no",
        )
        made.add_callback(Clock())
        made.train()
    return [after - before for before, after in pairwise(ends)]


def measure_solo(case: Case, steps: int) -> list[float]:
    """Seconds of each step of bench's own loop, in the precision that it chooses here."""
    return _time_each(prepare_alone(case, steps), make_batches(case, steps))


def measure_packed(case: Case, steps: int) -> list[float]:
    """Seconds of each step of a pack of adapters over one base."""
    return _time_each(prepare_pack(case, steps), make_batches(case, steps))


def _time_each(training: Training, batches: Iterator[tokens.Batch]) -> list[float]:
    """Seconds from the end of each step to that of the next."""
    ends = []
    training.model.train()
    for batch in batches:
        loop.take_step(training, [batch])
        ends.append(time.perf_counter())
    return [after - before for before, after in pairwise(ends)]


def prepare_alone(case: Case, steps: int) -> Training:
    """Prepare a training as a run begins it."""
    return _prepare([_compose(case, steps)], steps, build_alone)


def prepare_pack(case: Case, steps: int) -> Training:
    """Prepare a pack's training as its runs begin it."""
    members = [{"lora.r": (8, 16)[one % 2], "train.lr": 1e-3 * (1 + one)} for one in range(MEMBERS["packed"])]
    base = _compose(case, steps)
    return _prepare([replace_values(base, values) for values in members], steps, network.build)


def _prepare(configs: Sequence[Config], steps: int, build_networks: Callable[..., Networks]) -> Training:
    device = torch.device("cpu")
    precision = choose_precision(configs[0].train.precision, device)
    networks = build_networks(
        configs,
        folder=weights.locate(configs[0].model),
        labels=LABELS,
        pad_token_id=0,
        device=device,
        precision=precision,
    )
    return prepare(
        networks,
        configs,
        task=SequenceClassification(),
        label_counts=[np.ones(len(LABELS))] * len(configs),
        steps=steps,
        accelerator=make_accelerator(device, precision),
        logs=[lambda *_: None] * len(configs),
    )


def make_batches(case: Case, steps: int) -> Iterator[tokens.Batch]:
    """So many batches of random tokens."""
    rows = case.batch * steps
    split = tokens.TokenisedSplit(
        ids=np.random.default_rng(0).integers(1000, 20000, rows * case.length, dtype=np.int32),
        offsets=np.arange(0, (rows + 1) * case.length, case.length),
        labels=np.arange(rows) % len(LABELS),
        full_lengths=np.full(rows, case.length),
    )
    return tokens.train_batches(
        tokens.Stream(split, seed=0),
        micro_batch_size=case.batch,
        micro_batches=steps,
        group_by_length=True,
        padding=tokens.Padding(0, "right"),
    )


if __name__ == "__main__":
    side, name, steps = sys.argv[1:]
    measure = {"naive": measure_naive, "solo": measure_solo, "packed": measure_packed}[side]
    if side != "naive":
        keep_freed_memory()  # as every run of bench
    print(json.dumps(measure(CASES[name], int(steps) + WARM)[WARM - 1 :]))
