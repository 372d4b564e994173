"""Large sweeps without training: how long a plan takes and how long the tables of their results."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from bench.results.store import Store
from bench.run.app import prepare_hydra
from benchmarks.settings import ROOT, environment, read_peak_bytes, table

PLANS = {
    219: ["sweep=article", "train.lr=1e-5,5e-5,1e-4"],
    10_000: ["seed=range(2500)", "train.lr=1e-3,2e-3,3e-3,4e-3"],
}


def report(folder: Path, *, short: bool) -> str:
    """The section: seconds and peak memory of `bench plan` and `bench table`, with cold imports."""
    rows = []
    for count, overrides in PLANS.items():
        if not short or count < 1000:
            planned = _time(["plan", *overrides, f"results_dir={folder}/none"])
            rows.append([f"`bench plan`, {count:,} runs", *planned])
    records = 500 if short else 10_000
    _write_records(folder / "results", records)
    rows.append([f"`bench table`, {records:,} records", *_time(["table", "--results", f"{folder}/results"])])
    head = ["command", "time", "peak memory"]
    return "\n\n".join(["## Large sweeps", table(head, rows)])


def _time(arguments: Sequence[str]) -> tuple[str, str]:
    """Seconds from the command's start to its end, and its process's resident peak."""
    begun, peak = time.monotonic(), 0
    command = [sys.executable, "-m", "bench", *arguments]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, read_peak_bytes(process.pid))
            time.sleep(0.05)
    if process.returncode != 0:
        raise SystemExit(f"bench {' '.join(arguments)}: ended with {process.returncode}")
    return f"{time.monotonic() - begun:.1f} s", f"{peak / 2**20:.0f} MiB"


def _write_records(folder: Path, count: int) -> None:
    """So many records as tests make them; it is not the disk that is measured."""
    prepare_hydra()
    sys.path.append(str(ROOT / "tests"))
    from records import write_runs

    with mock.patch("os.fsync"):
        write_runs(Store(folder), count)
