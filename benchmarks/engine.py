"""What a sweep costs beside its runs: the engine's time per run, its growth, its memory."""

import math
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from bench.model import weights
from bench.results.store import Result, Store
from benchmarks.settings import compose, environment, read_peak_bytes, table

PHASES = ("load_seconds", "train_seconds", "eval_seconds")


@dataclass(frozen=True)
class Swept:
    """A sweep of tiny runs, as seen from outside and from its records."""

    makespan: float
    results: Sequence[Result]  # in the order of their starts
    peak_bytes: int  # of the process that leads the sweep

    @property
    def intervals(self) -> list[float]:
        """Seconds from each run's start to the next one's."""
        starts = [datetime.fromisoformat(one.started_at).timestamp() for one in self.results]
        return [after - before for before, after in pairwise(starts)]

    @property
    def overheads(self) -> list[float]:
        """Of each interval what was neither loading, training nor evaluation."""
        known = [sum(one.time[phase] for phase in PHASES) for one in self.results]
        return [seconds - own for seconds, own in zip(self.intervals, known, strict=False)]


def report(folder: Path, *, short: bool) -> str:
    """The section: overhead per run, growth with the number of points, memory of the leading process."""
    sizes = [5, 15] if short else [10, 100, 1000]
    model = _make_model(folder)
    swept = {size: _sweep(size, model, folder / f"sweep-{size}") for size in sizes}
    largest = swept[sizes[-1]]
    quarter = max(len(largest.intervals) // 4, 1)
    ends = (largest.intervals[:quarter], largest.intervals[-quarter:])
    early, late = map(statistics.mean, ends)
    slope, once = statistics.linear_regression(sizes, [swept[size].makespan for size in sizes])
    power = _growth(sizes[0], swept[sizes[0]], sizes[-1], largest)
    verdict = "linear" if power < 1.1 and late < 1.1 * early else "**more than linear**"
    rows = [
        [
            f"{size:,}",
            f"{one.makespan:.1f} s",
            f"{statistics.median(one.overheads):.2f} s",
            f"{statistics.quantiles(one.overheads, n=20)[-1]:.2f} s",
            f"{one.peak_bytes / 2**20:.0f} MiB",
        ]
        for size, one in swept.items()
    ]
    head = ["points", "makespan", "overhead per run, median", "95th percentile", "peak memory of its process"]
    return "\n\n".join(
        [
            "## The engine",
            "Sweeps of tiny runs: a BERT of two layers, 2 steps, 400 validation and 400 test headlines, W&B "
            "offline. Overhead is the time from one run's start to the next one's beyond its loading, "
            "training and evaluation: composing, the process, texts and tokens, W&B and records.",
            table(head, rows),
            f"Makespan is {once:.1f} s + {slope:.2f} s a run (least squares). In the largest sweep a run "
            f"took {early:.2f} s in the first quarter and {late:.2f} s in the last; without the start, time "
            f"grows with the number of points to the power of {power:.2f}: {verdict}.",
        ]
    )


def _growth(few: int, small: Swept, many: int, large: Swept) -> float:
    """The exponent of time over points, without what a sweep needs once."""
    return math.log(sum(large.intervals) / sum(small.intervals)) / math.log((many - 1) / (few - 1))


def _make_model(folder: Path) -> Path:
    """A BERT of two layers with random weights and MiniLM's tokenizer."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

    place = folder / "model"
    AutoTokenizer.from_pretrained(weights.locate(compose().model)).save_pretrained(place)
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertForMaskedLM(BertConfig(**size)).save_pretrained(place)
    return place


def _sweep(size: int, model: Path, results: Path) -> Swept:
    """A sweep over so many seeds, its leading process watched."""
    command = [
        *(sys.executable, "-m", "bench", "sweep", "model=local", f"model.path={model}", "track.mode=offline"),
        *(f"results_dir={results}", f"cache_dir={results}-cache", f"seed=range({size})", "train.max_steps=2"),
        *("train.warmup_steps=0", "train.eval_steps=2"),
    ]
    begun, peak = time.monotonic(), 0
    with subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, read_peak_bytes(process.pid))
            time.sleep(0.2)
    found = Store(results).read_all()[0]
    if process.returncode != 0 or len(found) != size:
        raise SystemExit(f"a sweep of {size} tiny runs ended with {process.returncode}, {len(found)} records")
    return Swept(time.monotonic() - begun, sorted(found, key=lambda one: one.started_at), peak)
