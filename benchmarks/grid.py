"""A grid of 24 adapters, whole: how long bench takes for it, and a loop over naive.py."""

import dataclasses
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from bench.data import dataset, tokens
from bench.model import weights
from bench.results.selection import configuration_key, is_stopped
from bench.results.store import Result, Store
from bench.train.device import choose_precision
from bench.train.fit import tokenise
from benchmarks import machine, step
from benchmarks.settings import answer, compose, environment, ratio, table

# The article's axes, at a size and learning rates for MiniLM.
AXES: Mapping[str, Sequence[str]] = {
    "lora.r": ["8", "16"],
    "lora.alpha": ["16", "32"],
    "lora.dropout": ["0.05", "0.1"],
    "train.lr": ["1e-3", "2e-3", "3e-3"],
}
# What a sample of the grid holds: its corners of rank and rate. Alpha and dropout do not change the time.
CORNERS: Mapping[str, Sequence[str]] = {
    "lora.r": ["8", "16"],
    "lora.alpha": ["16"],
    "lora.dropout": ["0.05"],
    "train.lr": ["1e-3", "3e-3"],
}
# How bench is asked; whether it runs the whole grid even where the other sides run a sample.
SIDES: Mapping[str, tuple[Sequence[str], bool]] = {
    "bench solo": (["sweep.pack=off"], False),
    "bench packed": (["sweep.pack=auto"], True),
    "bench halving": (["sweep.pack=auto", "sweep.strategy=halving"], True),
}


@dataclass(frozen=True)
class Texts:
    """A data set, and how far it is trained on."""

    title: str
    overrides: Sequence[str]  # of bench
    naive_length: int  # the article's cap, or that of the texts themselves
    steps: int


TEXTS = [
    Texts("Headlines (the quickstart's data)", ["data=bbc_headlines"], 512, 300),
    Texts("Whole texts cut to 64 tokens", ["data=bbc_news"], 64, 100),
]


@dataclass(frozen=True)
class Side:
    """What one side took: seconds for the whole grid, measured or scaled, and of training alone."""

    title: str
    measured: int  # points
    makespan: float
    train_seconds: float  # of a point, on average; of a pack's, its part of the whole pack
    accuracies: Mapping[tuple[str, ...], float]  # on the test split, by point


def report(folder: Path, *, short: bool, whole: bool) -> str:
    """The section: makespan, seconds per point and accuracy of each side, on each data set."""
    axes = AXES if whole else CORNERS
    scaled = "Where fewer than all points were run the makespan is scaled, but for what a sweep needs once."
    parts = [
        "## A grid of 24 adapters",
        f"{_show(AXES)}. Same model, split, steps, batch of 16, schedule and seed; each side keeps its best "
        "evaluation. The naive side is `benchmarks/naive.py`, a process for each point; bench solo is "
        "`bench sweep`, a process for each point from its fork server, W&B offline; bench packed trains "
        "points together and the chosen one again alone, and its training holds loading and evaluation; "
        "bench halving does so too, and stops most points early, which are then not tested.",
        "All sides ran all points." if whole else f"The sample is {_show(CORNERS)}. {scaled}",
    ]
    for texts in TEXTS[:1] if short else TEXTS:
        if short:
            texts = dataclasses.replace(texts, steps=60)
        sides = _race(texts, folder / texts.overrides[0].partition("=")[2], axes, short=short)
        parts += [
            f"### {texts.title}, {texts.steps} steps",
            _describe(sides),
            _bound(texts, sides[0], folder),
        ]
    return "\n\n".join(parts)


def points(axes: Mapping[str, Sequence[str]]) -> list[tuple[str, ...]]:
    """The grid's points, in the order of its axes."""
    return list(itertools.product(*axes.values()))


def _show(axes: Mapping[str, Sequence[str]]) -> str:
    return " x ".join(f"{key} {', '.join(values)}" for key, values in axes.items())


def _race(texts: Texts, folder: Path, axes: Mapping[str, Sequence[str]], *, short: bool) -> list[Side]:
    """The sides in turn: half of the naive points before bench's and half after."""
    folder.mkdir(parents=True)
    _write_texts(texts, folder)
    todo = points(axes)[:: 2 if short else 1]
    half = len(todo) // 2
    naive = [_run_naive(point, texts, folder) for point in todo[:half]]
    sides = []
    for title, (overrides, everything) in SIDES.items():
        wanted = axes if not everything or short else AXES
        sides.append(_run_bench(title, texts, wanted, overrides, folder / title.replace(" ", "-")))
    naive += [_run_naive(point, texts, folder) for point in todo[half:]]
    seconds = statistics.mean(one["wall_seconds"] for one in naive)
    first = Side(
        "naive",
        len(naive),
        seconds * len(points(AXES)),
        statistics.mean(one["train_seconds"] for one in naive),
        {point: one["accuracy"] for point, one in zip(todo, naive, strict=True)},
    )
    return [first, *sides]


def _write_texts(texts: Texts, folder: Path) -> None:
    """bench's own split, for the naive side."""
    found = dataset.load(compose(*texts.overrides).data)
    for split, frame in found.splits.items():
        frame[["text", "label"]].to_csv(folder / f"{split}.csv", index=False)


def list_overrides(texts: Texts) -> list[str]:
    """What both sides keep to, in bench's words."""
    warmup = texts.steps // 10
    return [
        *texts.overrides,
        f"train.max_steps={texts.steps}",
        f"train.warmup_steps={warmup}",
        f"train.eval_steps={max(texts.steps // 6, 1)}",
    ]


def _run_naive(point: tuple[str, ...], texts: Texts, folder: Path) -> dict[str, float]:
    """One point in a process of its own, from its start to its end."""
    config = compose("method=lora", *list_overrides(texts), *map("=".join, zip(AXES, point, strict=True)))
    settings = {
        "model": weights.locate(config.model),
        "data": folder,
        "max-length": texts.naive_length,
        "steps": config.train.max_steps,
        "batch": config.train.micro_batch_size,
        "warmup": config.train.warmup_steps,
        "eval-steps": config.train.eval_steps,
        "seed": config.seed,
        "r": config.lora.r,
        "alpha": config.lora.alpha,
        "dropout": config.lora.dropout,
        "lr": config.train.lr,
    }
    given = itertools.chain.from_iterable((f"--{name}", str(value)) for name, value in settings.items())
    command = [sys.executable, str(Path(__file__).with_name("naive.py")), *given]
    begun = time.monotonic()
    found: dict[str, float] = answer(command)
    return found | {"wall_seconds": time.monotonic() - begun}


def _run_bench(
    title: str, texts: Texts, axes: Mapping[str, Sequence[str]], overrides: Sequence[str], folder: Path
) -> Side:
    """The sweep of these axes, from the command's start to its end; its start counts once."""
    begun = time.time()
    seconds, results = sweep(title, texts, axes, overrides, folder)
    once = datetime.fromisoformat(results[0].started_at).timestamp() - begun
    count = len(points(axes))
    whole = once + (seconds - once) * len(points(AXES)) / count
    trained = [one for one in results if not is_stopped(one)]
    return Side(
        title,
        count,
        whole,
        statistics.mean(map(_read_seconds, trained)),
        {read_point(one): one.metrics["test"]["accuracy"] for one in trained},
    )


def sweep(
    title: str, texts: Texts, axes: Mapping[str, Sequence[str]], overrides: Sequence[str], folder: Path
) -> tuple[float, list[Result]]:
    """The seconds of a sweep of these axes and its records, in the order of their starts."""
    swept = [f"{key}={','.join(values)}" for key, values in axes.items()]
    shared = ["method=lora", "track.mode=offline", f"results_dir={folder}", f"cache_dir={folder}-cache"]
    command = [sys.executable, "-m", "bench", "sweep", *shared, *list_overrides(texts), *swept, *overrides]
    begun = time.time()
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    seconds = time.time() - begun
    results = sorted(Store(folder).read_all()[0], key=lambda one: one.started_at)
    asked = {configuration_key(one) for one in results}
    if len(asked) != len(points(axes)) or done.returncode != 0:
        raise SystemExit(f"{title}: the sweep ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return seconds, results


def _read_seconds(result: Result) -> float:
    """What training the point took; in a pack its part of all that the pack took, loading included."""
    if result.packed is not None:
        return float(result.packed["pack_seconds"] / result.packed["size"])
    return float(result.time["train_seconds"])


def read_point(result: Result) -> tuple[str, ...]:
    """The record's point in the words of AXES."""
    lora, train = result.config["lora"], result.config["train"]
    values: dict[str, Any] = {f"lora.{key}": value for key, value in lora.items()} | {"train.lr": train["lr"]}
    return tuple(
        next(word for word in words if float(word) == float(values[key])) for key, words in AXES.items()
    )


def _bound(texts: Texts, naive: Side, folder: Path) -> str:
    """How long the matrix products of the whole grid take at the peak: no packed training can be faster."""
    config = compose("method=lora", *list_overrides(texts), f"cache_dir={folder}-cache")
    train, sizes, cpu = config.train, step.settings(), torch.device("cpu")
    precision = choose_precision(train.precision, cpu)
    splits, padding, _ = tokenise(
        config, dataset.load(config.data), model_folder=weights.locate(config.model)
    )
    trained = tokens.train_batches(
        tokens.Stream(splits["train"], config.seed),
        micro_batch_size=train.micro_batch_size,
        micro_batches=texts.steps,
        group_by_length=train.group_by_length,
        padding=padding,
    )

    def count(batches: Iterable[tokens.Batch], method: str | None) -> float:
        shapes = (batch["input_ids"].shape for batch in batches)
        return sum(step.count_flops(sizes, *shape, method=method, whole=False) for shape in shapes)

    def evaluate(split: str) -> float:
        found = tokens.eval_batches(splits[split], batch_size=train.micro_batch_size, padding=padding)
        return count((batch for _, batch in found), None)

    evaluations = -(-texts.steps // train.eval_steps)
    flops = count(trained, "lora") + evaluations * evaluate("validation") + evaluate("test")
    peak = machine.measure_peak(step.DTYPES[precision])
    least = len(points(AXES)) * flops / peak
    return (
        f"The matrix products alone of all {len(points(AXES))} points, {flops / 1e12:.2f} TFLOP each, take "
        f"{least / 60:.1f} min at this machine's {precision} peak of {peak / 1e9:.0f} GFLOP/s: where all "
        f"are trained to the end, at most {ratio(naive.makespan, least)} against naive. Halving trains fewer."
    )


def _describe(sides: Sequence[Side]) -> str:
    """Each side beside the naive one; accuracies are of the points that both have."""
    naive, count = sides[0], len(points(AXES))
    rows = []
    for side in sides:
        shared = sorted(set(naive.accuracies) & set(side.accuracies))
        tested = [side.accuracies[point] for point in shared]
        rows.append(
            [
                side.title,
                f"{side.measured} of {count}",
                f"{side.makespan / 60:.1f} min" + (" (scaled)" if side.measured < count else ""),
                f"{side.makespan / count:.1f} s",
                ratio(naive.makespan, side.makespan),
                f"{side.train_seconds:.1f} s",
                ratio(naive.train_seconds, side.train_seconds),
                f"{statistics.mean(tested):.1%}" if tested else "",
                f"{max(tested):.1%}" if tested else "",
            ]
        )
    head = ["side", "points run", "makespan", "a point", "against naive"]
    head += ["training alone", "against naive", "test accuracy, mean", "best"]
    return table(head, rows)
