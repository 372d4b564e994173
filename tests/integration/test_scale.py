"""All tables of 10,000 runs: how long they take."""

import os
import time
from pathlib import Path

import pytest
from records import NO_PRICES, make_predictions, make_run

from bench.report.table import write_tables
from bench.store import Store

RUNS = 10_000


@pytest.mark.slow
def test_ten_thousand_runs_are_in_all_tables_within_ten_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    store = Store(tmp_path)
    runs = [
        make_run(
            ("lora", "qlora", "dora")[number % 3],
            r=4 + number // 100,
            lr=1e-5 * (1 + number % 100),
            validation=0.5 + number % 397 / 1000,
            status="oom" if number % 50 == 0 else "success",
        )
        for number in range(RUNS)
    ]
    for run in runs:
        store.write(run)
        if run.status == "success" and run.metrics["validation"]["accuracy"] > 0.89:
            store.write_predictions(run.run_id, make_predictions(run))
    started = time.process_time()
    written = write_tables(store, lang="en", report=NO_PRICES)
    seconds = time.process_time() - started
    assert seconds < 10
    assert len(written[2].read_text(encoding="utf-8").splitlines()) == 1 + RUNS
    assert " vs " in written[1].read_text(encoding="utf-8")
