"""What could mislead in the data: texts in two splits or with two labels, rare labels, texts cut short."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.results.selection import read_number, read_value
from bench.results.store import Result


@dataclass(frozen=True)
class DataHealth:
    """What the records of one task say of its data; None where none says it."""

    leaked: int | None  # rows of validation and test whose text is in another split too
    conflicting: int | None  # rows whose text has another label elsewhere
    imbalance: float | None  # train rows of the most frequent label for each of the rarest
    truncated: float | None  # the largest share of train's texts that a run had to cut
    windowed: float | None = None  # the share that a run read in windows


def describe_health(results: Sequence[Result]) -> DataHealth:
    """Describe the data's health, from all runs of one task: they share their texts."""

    def largest(path: str) -> int | float | None:
        values = (read_number(result, path) for result in results)
        return max((value for value in values if value is not None), default=None)

    leaked, conflicting = largest("data.duplicate_rows_across_splits"), largest("data.conflicting_labels")
    counts = (_read_counts(read_value(result, "data.label_counts.train")) for result in results)
    ratios = [max(found) / min(found) for found in counts if found]
    return DataHealth(
        leaked=None if leaked is None else int(leaked),
        conflicting=None if conflicting is None else int(conflicting),
        imbalance=max(ratios, default=None),
        truncated=largest("data.truncated_share"),
        windowed=max(filter(None, map(_read_windowed, results)), default=None),
    )


def _read_windowed(result: Result) -> float | None:
    is_windowed = read_value(result, "canonical_config.data.long_texts") == "windows"
    return read_number(result, "data.long_share") if is_windowed else None


def _read_counts(value: Any) -> list[float]:
    """Return train's rows of each label, or none if a label has none: then there is no ratio."""
    counts = list(value.values()) if isinstance(value, Mapping) else []
    return counts if all(isinstance(count, int) and count > 0 for count in counts) else []
