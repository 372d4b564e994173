"""What a method's search took, configurations and time, and the best score of each r and alpha."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.csv_text import to_csv
from bench.redaction import clean
from bench.results.selection import MethodKey, Selection, configuration_key, is_stopped, read_number
from bench.results.store import Result

UNTRIED = "untried.csv"  # beside runs/: the configurations that a sweep did not try, as its hours were used
_COLUMNS = ("run_id", "data_fingerprint", "model_revision", "method", "title", "run")


@dataclass(frozen=True)
class Budget:
    """How much was tried to find a method's best configuration: more draws alone find a better one."""

    configurations: int  # tried, with or without success
    scores: tuple[float, ...]  # validation, of each configuration that has one at the seed of the choice
    failed: int  # configurations without a success
    stopped: int  # configurations that halving ended early, so that they have no final score
    seconds: float  # of all the method's runs whose records say it
    untimed: int  # runs whose records do not
    pivot: Mapping[tuple[float, float], float]  # (r, alpha) -> the best score; empty: the method has neither
    untried: int = 0  # configurations that a sweep left, as its hours were used


@dataclass(frozen=True)
class Untried:
    """A configuration that a sweep did not try, as its hours were used."""

    run_id: str
    method_key: MethodKey
    title: str  # of the method
    run: str  # its name, by method and settings


def write_untried(untried: Iterable[Untried]) -> str:
    """Write UNTRIED."""
    return to_csv(_COLUMNS, ([one.run_id, *one.method_key, one.title, one.run] for one in untried))


def read_untried(text: str) -> list[Untried]:
    """Read UNTRIED; rows that name no run or no method are left out, as somebody changed them."""
    rows = (
        {name: clean(row.get(name) or "") for name in _COLUMNS} for row in csv.DictReader(text.splitlines())
    )
    return [
        Untried(
            row["run_id"],
            MethodKey(row["data_fingerprint"], row["model_revision"] or None, row["method"]),
            row["title"] or row["method"],
            row["run"],
        )
        for row in rows
        if row["run_id"] and row["method"]
    ]


def count_budget(results: Sequence[Result], selection: Selection | None) -> Budget:
    """Count what one method's runs on one task took; the scores are those that the selection compared."""
    tried: set[str] = set()
    succeeded: set[str] = set()
    stopped: set[str] = set()
    for result in results:
        key = configuration_key(result)
        tried.add(key)
        if result.is_success:
            (stopped if is_stopped(result) else succeeded).add(key)
    times = [read_number(result, "time.total_seconds") for result in results]
    known = [seconds for seconds in times if seconds is not None]
    return Budget(
        configurations=len(tried),
        scores=selection.scores if selection else (),
        failed=len(tried - succeeded - stopped),
        stopped=len(stopped - succeeded),
        seconds=math.fsum(known),
        untimed=len(times) - len(known),
        pivot=_pivot(selection) if selection else {},
    )


def _pivot(selection: Selection) -> dict[tuple[float, float], float]:
    best: dict[tuple[float, float], float] = {}
    for candidate, score in zip(selection.candidates, selection.scores, strict=True):
        r, alpha = (read_number(candidate, f"canonical_config.lora.{name}") for name in ("r", "alpha"))
        if r is not None and alpha is not None:
            best[r, alpha] = max(score, best.get((r, alpha), -math.inf))
    return best
