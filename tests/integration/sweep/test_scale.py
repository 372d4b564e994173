"""Tables of 10,000 runs; how long they take is a row of `make benchmark`."""

import os
from pathlib import Path

import pytest
from records import NO_PRICES, write_runs

from bench.report.table import write_tables
from bench.results.store import Store

RUNS = 10_000


@pytest.mark.slow
def test_ten_thousand_runs_are_in_all_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    store = Store(tmp_path)
    write_runs(store, RUNS)
    written = write_tables(store, lang="en", report=NO_PRICES)
    assert len(written[2].read_text(encoding="utf-8").splitlines()) == 1 + RUNS
    assert " vs " in written[1].read_text(encoding="utf-8")
