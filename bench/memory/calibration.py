"""The ratio of measured to predicted time on a card: from finished runs, else from gpu-check. No torch."""

import logging
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import StoreError
from bench.files import read_object

FOLDER = "gpu"  # beside the results folders: what gpu-check wrote
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    """How measured times compare with what was predicted for them."""

    ratio: float  # measured seconds by predicted ones, or by operations where no card's speed is known
    error: float | None  # the largest deviation of a run from it; None: of a single run, or of gpu-check
    runs: int  # finished ones that it is from; 0: it is gpu-check's
    eval_ratio: float | None = None  # of evaluation; None: it is in the other
    measured_at: str | None = None  # by gpu-check, UTC


def tell_source(calibrations: Mapping[str, Calibration]) -> str:
    """Say where a plan's times come from, for a person; runs come before gpu-check, which fills in."""
    runs = calibrations.get("")
    check = next(
        (calibration for calibration in calibrations.values() if calibration.measured_at is not None), None
    )
    words = []
    if runs is not None and runs.measured_at is None:
        error = "" if runs.error is None else f", each within {runs.error:.0%}"
        words.append(f"as {runs.runs} finished run{'' if runs.runs == 1 else 's'} took{error}")
    if check is not None:
        others = "other methods " if words else ""
        words.append(f"{others}as measured by gpu-check on {str(check.measured_at)[:10]}")
    if not words:
        words = ["at the card's full speed, which no run reaches", "finished runs will correct it"]
    return "; ".join(words)


def name_family(trainable: str, quantization: str, *, gradient_checkpointing: bool) -> str:
    """Name the runs whose times err alike, by the fields of their method and of how they train."""
    return f"{trainable} {quantization} {gradient_checkpointing}"


def read_measured(folder: Path, target: str) -> dict[str, Calibration]:
    """Read what gpu-check measured on the card, by family; ``""`` is the median of all, nothing is no report.

    A report that cannot be read counts as none, with a warning.
    """
    newest: dict[str, Any] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            report = read_object(path) or {}
        except StoreError as error:
            _logger.warning("%s; no plan is calibrated by it", error)
            continue
        if report.get("card") == target and report.get("written_at", "") > newest.get("written_at", ""):
            newest = report
    rows = newest.get("calibration", [])
    families = {row["family"]: _read_row(row, newest["written_at"]) for row in rows}
    if rows:
        middle = {name: statistics.median(row[name] for row in rows) for name in ("ratio", "eval_ratio")}
        families[""] = _read_row(middle, newest["written_at"])
    return families


def _read_row(row: Mapping[str, Any], measured_at: str) -> Calibration:
    return Calibration(row["ratio"], None, 0, eval_ratio=row["eval_ratio"], measured_at=measured_at)
