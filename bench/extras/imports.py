"""Other people's results as records that are shown and never counted: PEFT's method_comparison, plain tables.

An imported record has the schema of a run's, so that a report reads both alike, and lies apart, in imported/
of the results folder, so that no statistic, choice or advice can take it for a measurement of bench.
Nothing of a file is trusted: a text is stored as text, a number only within its range.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.config.cards import GIB
from bench.config.identity import hash_canonical
from bench.errors import DataError, MissingError, first_line
from bench.redaction import redact
from bench.results.store import RECORD, Result, Store, find_imported

MOST_RECORDS = 1000  # of one import; all are shown in one table
_LONGEST = 200  # characters of a text
# what a record may take from a file -> the least and the greatest number that can be meant
_RANGES: dict[str, tuple[float, float]] = {
    "peak_memory_bytes": (0, 2**50),
    "train_seconds": (0, 1e9),
    "accuracy": (0, 1),
    "validation_accuracy": (0, 1),
    "f1_macro": (0, 1),
    "trainable": (0, 1e15),
    "total": (0, 1e15),
    "r": (1, 1e6),
    "alpha": (0, 1e6),
    "dropout": (0, 1),
    "lr": (0, 1e3),
    "seed": (0, 2**63),
}
_STATUSES = {
    "success": "success",
    "failed": "failed",
    "canceled": "failed",
}  # PEFT cancels what raises an error
_PEAKS = {
    "cuda": "peak_reserved_bytes",
    "cpu_resident": "peak_resident_bytes",
    None: "peak_unspecified_bytes",
}
# columns of a plain table, as _name writes them, table.csv's in both languages too -> (field, unit).
# Where two name one field, the one that stands higher here is read.
_COLUMNS: dict[str, tuple[str, float]] = {
    "method": ("title", 1),
    "方法": ("title", 1),
    "peak_memory_bytes": ("peak_memory_bytes", 1),
    "显存占用_字节": ("peak_memory_bytes", 1),
    "peak_memory_gib": ("peak_memory_bytes", GIB),
    "peak_memory_gb": ("peak_memory_bytes", 1e9),
    "显存占用": ("peak_memory_bytes", GIB),
    "memory_kind": ("memory_kind", 1),
    "显存类型": ("memory_kind", 1),
    "train_seconds": ("train_seconds", 1),
    "train_time_s": ("train_seconds", 1),
    "训练时间_秒": ("train_seconds", 1),
    "train_hours": ("train_seconds", 3600),
    "train_time_h": ("train_seconds", 3600),
    "accuracy": ("accuracy", 1),
    "准确率": ("accuracy", 1),
    "f1_macro": ("f1_macro", 1),
    "f1": ("f1_macro", 1),
    "f1分数": ("f1_macro", 1),
    "trainable_parameters": ("trainable", 1),
    "可训练参数": ("trainable", 1),
    "total_parameters": ("total", 1),
    "总参数": ("total", 1),
    "data": ("data", 1),
    "数据": ("data", 1),
    "model": ("model", 1),
    "模型": ("model", 1),
    "r": ("r", 1),
    "alpha": ("alpha", 1),
    "dropout": ("dropout", 1),
    "lr": ("lr", 1),
    "seed": ("seed", 1),
}
_NEEDED = ("title", "peak_memory_bytes", "train_seconds", "accuracy")  # columns; a cell may be empty


def read_peft(folder: Path) -> list[Result]:
    """Read the results of PEFT's method_comparison in the folder's JSON files, a record for each.

    Raises:
        MissingError: there is no such folder.
        DataError: it has no JSON file, or some are not such results; each is named, with its fault.

    Source: github.com/huggingface/peft, method_comparison: MetaMathQA/run.py writes them.
    """
    if not folder.is_dir():
        raise MissingError(f"{folder}: there is no such folder; give one with PEFT's result files (*.json)")
    paths = sorted(folder.glob("*.json"))
    if not paths or len(paths) > MOST_RECORDS:
        raise DataError(
            f"{folder}: has {len(paths)} JSON files, expected 1 to {MOST_RECORDS}; "
            "give a folder such as method_comparison/MetaMathQA/results"
        )
    return _collect(paths, lambda path: _read_peft_file(path), where=lambda path: str(path))


def read_csv(path: Path) -> tuple[list[Result], list[str]]:
    """Read the rows of a plain table, a record for each, and the names of columns that bench does not know.

    Raises:
        MissingError: there is no such file.
        DataError: it is no such table; every row that is wrong is named, with its fault.
    """
    if not path.is_file():
        raise MissingError(f"{path}: there is no such file; give a CSV file with a header")
    try:
        text = path.read_text(encoding="utf-8-sig")
        header, *lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise DataError(
            f"{path}: is not a CSV file in UTF-8 with a header ({first_line(error)[:_LONGEST]})"
        ) from None
    rows = [(number, cells) for number, cells in enumerate(lines, start=1) if any(map(str.strip, cells))]
    columns = _match_columns(path, header)
    if not rows or len(rows) > MOST_RECORDS:
        raise DataError(f"{path}: has {len(rows)} rows, expected 1 to {MOST_RECORDS}")
    read_at = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")

    def read_row(row: tuple[int, list[str]]) -> Result:
        number, cells = row
        if len(cells) != len(header):
            raise _Fault(f"has {len(cells)} cells, the header has {len(header)}")
        values = {field: _parse_cell(field, cells[index], unit) for field, (index, unit) in columns.items()}
        identity = {"source": "csv", "file": path.name, "row": number}
        return _make_record(values | {"started_at": read_at}, identity=identity)

    known = {index for index, name in enumerate(header) if _name(name) in _COLUMNS}
    ignored = [name for index, name in enumerate(header) if index not in known]
    return _collect(rows, read_row, where=lambda row: f"{path}, row {row[0]}"), ignored


def save(store: Store, records: Sequence[Result]) -> int:
    """Put the records beside the runs; move away what the same files no longer bring.

    Returns how many records were already there, unchanged: the same import again changes nothing.

    Raises:
        StoreError: the disk refused them.
    """
    imported = find_imported(store)
    new = {record.run_id: record for record in records}
    files = {_file_of(record) for record in records}
    before = [one for one in imported.read_all()[0] if _file_of(one) in files]
    unchanged = {one.run_id for one in before if new.get(one.run_id) == one}
    for run_id in [one.run_id for one in before if one.run_id not in unchanged]:
        with imported.claim(run_id) as folder:
            imported.quarantine(folder / RECORD)
    for run_id in new.keys() - unchanged:
        with imported.claim(run_id):
            imported.write(new[run_id])
    return len(unchanged)


class _Fault(Exception):
    """What is wrong with one record of a file."""


def _collect(
    items: Sequence[Any], read: Callable[[Any], Result], *, where: Callable[[Any], str]
) -> list[Result]:
    """Make a record of each item, or raise one error with the faults of all."""
    records, faults = [], []
    for item in items:
        try:
            records.append(read(item))
        except _Fault as fault:
            faults.append(f"{where(item)}: {fault}")
    if faults:
        raise DataError("\n".join([*faults, "nothing was imported; mend or remove what is named"]))
    return records


def _file_of(record: Result) -> tuple[Any, Any]:
    return record.provenance.get("source"), record.provenance.get("file")


def _read_peft_file(path: Path) -> Result:
    try:
        if not path.is_file():  # reading a pipe would wait for ever
            raise _Fault("is not a file")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _Fault(f"cannot be read ({first_line(error)[:_LONGEST]})") from None
    run, train, meta = (_get(content, name) for name in ("run_info", "train_info", "meta_info"))
    for name, block in (("run_info", run), ("train_info", train)):
        if not isinstance(block, Mapping):
            raise _Fault(f"has no {name}; it is not a result of PEFT's method_comparison")
    settings, adapter, system = _get(run, "train_config"), _get(run, "peft_config"), _get(meta, "system_info")
    metrics = [metric for metric in train.get("metrics") or [] if isinstance(metric, Mapping)]
    hardware = _get(system, "accelerator") or _get(system, "gpu")
    values = {
        "title": run.get("experiment_name"),
        "method": _get(adapter, "peft_type") or "full fine-tuning",
        "model": _get(settings, "model_id"),
        "data": " / ".join(sorted(map(str, _get(meta, "dataset_info") or {}))) or None,
        "seed": _get(settings, "seed"),
        "lr": _get(_get(settings, "optimizer_kwargs"), "lr"),
        "r": _get(adapter, "r"),
        "alpha": _get(adapter, "lora_alpha"),
        "dropout": _get(adapter, "lora_dropout"),
        # files until 2025 say cuda where later ones say accelerator
        "peak_memory_bytes": train.get("accelerator_memory_max", train.get("cuda_memory_max")),
        "memory_kind": "cuda" if "cuda_memory_max" in train or "NVIDIA" in str(hardware) else None,
        "train_seconds": train.get("train_time"),
        "accuracy": _last(metrics, "test accuracy"),
        "validation_accuracy": _last(metrics, "valid accuracy"),
        "trainable": train.get("num_trainable_params"),
        "total": train.get("num_total_params"),
        "status": train.get("status"),
        "error": run.get("error_msg"),
        "started_at": run.get("created_at"),
        "hardware": hardware,
    }
    return _make_record(values, identity={"source": "peft", "file": path.name})


def _get(block: Any, name: str) -> Any:
    return block.get(name) if isinstance(block, Mapping) else None


def _last(metrics: Sequence[Mapping[str, Any]], name: str) -> Any:
    """Return the newest value of a metric that is not logged at every step."""
    return next((metric[name] for metric in reversed(metrics) if name in metric), None)


def _match_columns(path: Path, header: Sequence[str]) -> dict[str, tuple[int, float]]:
    """Find the index of each field's column and the unit of its numbers."""
    names = [_name(one) for one in header]
    columns: dict[str, tuple[int, float]] = {}
    for name, (field, unit) in _COLUMNS.items():
        if name in names and field not in columns:
            if names.count(name) > 1:
                raise DataError(f"{path}: has the column {name!r} more than once; leave one")
            columns[field] = (names.index(name), unit)
    if missing := [field for field in _NEEDED if field not in columns]:
        accepted = [name for name, (field, _) in _COLUMNS.items() if field == missing[0] and name.isascii()]
        raise DataError(
            f"{path}: has no column for {missing[0]}; name it {' or '.join(accepted)}. "
            f"A table needs at least method, peak memory, train time and accuracy"
        )
    return columns


def _name(header: str) -> str:
    """Write a header without its punctuation: ``Peak memory (GiB)`` is peak_memory_gib."""
    return re.sub(r"[\W_]+", "_", header.strip().lower()).strip("_")


def _parse_cell(field: str, cell: str, unit: float) -> Any:
    """Read the cell as its field's value, None if it is empty; ``88.9 %`` is 0.889."""
    cell = cell.strip()
    if not cell:
        return None
    if field not in _RANGES:
        return cell
    number, percent = (cell[:-1].strip(), 100) if cell.endswith("%") else (cell, 1)
    try:
        value = float(number) * unit / percent
    except ValueError:
        raise _Fault(f"{field}={cell[:40]!r}: is not a number; leave it empty if it is unknown") from None
    if field == "accuracy" and 1 < value <= 100:
        raise _Fault(f"accuracy={cell}: must be a share from 0 to 1, or end in %")
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _make_record(values: Mapping[str, Any], *, identity: Mapping[str, Any]) -> Result:
    """Make the record of one foreign result; what its file does not say is None, with that as the reason."""
    numbers = {field: _check_number(field, values.get(field)) for field in _RANGES}
    texts = {field: _check_text(field, value) for field, value in values.items() if field not in _RANGES}
    if not texts["title"]:
        raise _Fault("has no method; a result needs one")
    kind = texts.get("memory_kind")
    if kind not in _PEAKS:
        raise _Fault(f"memory_kind={kind}: must be cuda, cpu_resident or empty")
    status = texts.get("status") or "success"
    if status not in _STATUSES:
        raise _Fault(f"status={status}: must be one of {', '.join(_STATUSES)}")
    canonical = {"imported": dict(identity)}
    peak = numbers["peak_memory_bytes"]
    return Result(
        run_id=hash_canonical(canonical),
        status=_STATUSES[status],
        attempt=1,
        phase="eval",
        started_at=texts.get("started_at") or "",
        ended_at=None,
        config={
            "method": {"name": texts.get("method") or texts["title"], "title": texts["title"]},
            "model": {"name": texts.get("model")},
            "data": {"name": texts.get("data")},
            "lora": {name: numbers[name] for name in ("r", "alpha", "dropout")},
            "train": {"lr": numbers["lr"]},
            "seed": numbers["seed"],
        },
        canonical_config=canonical,
        metrics={
            "validation": {"accuracy": numbers["validation_accuracy"]},
            "test": {"accuracy": numbers["accuracy"], "f1_macro": numbers["f1_macro"]},
        },
        memory={"kind": kind, "train": {_PEAKS[kind]: peak}},
        time={"train_seconds": numbers["train_seconds"]},
        parameters={"trainable": numbers["trainable"], "total": numbers["total"]},
        provenance={**identity, "hardware": {"gpu": texts.get("hardware")}},
        error={"type": "ImportedError", "message": texts["error"]} if texts.get("error") else None,
        reasons={"*": "the imported file does not say"},
    )


def _check_number(field: str, value: Any) -> int | float | None:
    low, high = _RANGES[field]
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise _Fault(f"{field}={str(value)[:40]}: must be a number from {low:g} to {high:g}")
    return value


def _check_text(field: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise _Fault(f"{field}={str(value)[:40]}: must be text")
    value = redact(value).strip()
    return value if len(value) <= _LONGEST else f"{value[:_LONGEST]}…"
