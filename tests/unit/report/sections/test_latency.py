"""What `bench latency` measured of a run, in the table and on the page."""

import json
from pathlib import Path
from typing import Any

import pytest
from records import NO_PRICES, make_run
from report_folder import write_results

from bench.errors import StoreError
from bench.report.page.page import PAGE, write_report
from bench.report.table import write_tables
from bench.results.store import Store

FORMS = [
    {
        "form": "nf4 base + adapter",
        "batch_size": 1,
        "p50_ms": 17.7,
        "p95_ms": 20.25,
        "texts_per_second": 55.4,
    },
    {"form": "merged", "batch_size": 128, "p50_ms": 0.89, "p95_ms": 1.0, "texts_per_second": 1125.0},
]


def write_latency(folder: Path, **more: Any) -> Store:
    """Two runs, of which one was measured."""
    runs = [make_run("lora"), make_run("qlora")]
    store = write_results(folder, runs)
    found = {"forms": FORMS, "texts": 400, "threads": 2, "hardware": {"cpu": "A|B", "gpu": None}} | more
    store.write_report(f"runs/{runs[1].run_id}/latency.json", json.dumps(found))
    return store


def test_a_measured_run_has_its_forms_in_the_table(tmp_path: Path) -> None:
    store = write_latency(tmp_path)
    run_id = next(path.parent.name for path in tmp_path.glob("runs/*/latency.json"))
    write_tables(store, lang="en", report=NO_PRICES)
    lines = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
    rows = [
        [cell.strip() for cell in line.split("|")[2:-1]] for line in lines if run_id in line and "|" in line
    ]
    assert rows == [
        ["nf4 base + adapter", "1", "17.70", "20.25", "55"],
        ["merged", "128", "0.89", "1.00", "1125"],
    ]
    assert any("on A\\|B with 2 threads, over 400 texts" in line for line in lines)
    write_tables(store, lang="zh", report=NO_PRICES)
    chinese = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "## 推理延迟" in chinese
    assert "nf4 基座 + 适配器" in chinese


def test_and_on_the_page(tmp_path: Path) -> None:
    write_report(write_latency(tmp_path), lang="en", report=NO_PRICES)
    page = (tmp_path / PAGE).read_text(encoding="utf-8")
    assert "17.70" in page
    assert "推理延迟" in page


def test_without_a_measurement_there_is_no_section(tmp_path: Path) -> None:
    write_tables(write_results(tmp_path, [make_run("lora")]), lang="en", report=NO_PRICES)
    assert "Latency" not in (tmp_path / "table.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("forms", [None, [{"form": "merged"}], [FORMS[0] | {"p50_ms": "fast"}]])
def test_a_changed_file_is_named(tmp_path: Path, forms: Any) -> None:
    with pytest.raises(
        StoreError, match=r"latency.json: was changed; `bench latency [0-9a-f]{12}` writes it anew"
    ):
        write_tables(write_latency(tmp_path, forms=forms), lang="en", report=NO_PRICES)
