"""How much longer than predicted runs take on a card: by finished runs, else by gpu-check. No torch."""

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

    def describe(self) -> str:
        """Say where it comes from, for a person."""
        if self.measured_at is not None:
            return f"as gpu-check measured on {self.measured_at[:10]}, which finished runs will correct"
        return f"as {self.runs} finished runs took" + (
            "" if self.error is None else f", each within {self.error:.0%}"
        )


def name_family(trainable: str, quantization: str, *, gradient_checkpointing: bool) -> str:
    """Name the runs whose times err alike, by the fields of their method and of how they train."""
    return f"{trainable} {quantization} {gradient_checkpointing}"


def read_measured(folder: Path, target: str) -> dict[str, Calibration]:
    """Read what gpu-check measured on the card, by family; ``""`` is the median of all, nothing is no report.

    A report that cannot be read counts as none, with a warning.
    """
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            report = read_object(path) or {}
        except StoreError as error:
            _logger.warning("%s; no plan is calibrated by it", error)
            continue
        if report.get("card") == target and report.get("written_at", "") > found.get("written_at", ""):
            found = report
    rows = found.get("calibration", [])
    families = {row["family"]: _read_row(row, found["written_at"]) for row in rows}
    if rows:
        middle = {name: statistics.median(row[name] for row in rows) for name in ("ratio", "eval_ratio")}
        families[""] = _read_row(middle, found["written_at"])
    return families


def _read_row(row: Mapping[str, Any], measured_at: str) -> Calibration:
    return Calibration(row["ratio"], None, 0, eval_ratio=row["eval_ratio"], measured_at=measured_at)
