"""What the blocks of a record may hold, checked once when it is read: what reads a record later may trust it.

An unknown value is null everywhere. A block may lack fields, as records of earlier versions do, and may have
more, as those of later ones will; what it has under a known name is of the known kind.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from functools import cache
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from bench.config.reporting import ReportConfig
from bench.config.schema import Config

_LARGEST = 2**63  # of any number: larger ones cannot be counted with as floats or times
_DEEPEST = 20  # blocks within blocks
_LONGEST = 100_000  # characters of a text
_NAME = 200  # characters of a name in a table

Kind = Callable[[Any], bool] | dict[str, "Kind"]  # "*" in a dict stands for every other name


def is_number(value: Any) -> bool:
    """Tell whether it is a number that can be counted with; a bool is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST


def is_amount(value: Any) -> bool:
    """Tell whether it is a number of at least 0."""
    return is_number(value) and value >= 0


def is_count(value: Any) -> bool:
    """Tell whether it is an integer of at least 0."""
    return isinstance(value, int) and is_amount(value)


def is_share(value: Any) -> bool:
    """Tell whether it is a number from 0 to 1."""
    return is_number(value) and 0 <= value <= 1


def is_text(value: Any) -> bool:
    """Tell whether it is a text."""
    return isinstance(value, str)


def is_name(value: Any) -> bool:
    """Tell whether it is a text that a table can show."""
    return isinstance(value, str) and len(value) <= _NAME


def is_texts(value: Any) -> bool:
    """Tell whether it is a list of texts."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def is_lists(value: Any) -> bool:
    """Tell whether it is a list of lists of texts."""
    return isinstance(value, list) and all(map(is_texts, value))


def is_counts(value: Any) -> bool:
    """Tell whether it is a list of integers of at least 0."""
    return isinstance(value, list) and all(map(is_count, value))


def is_amounts(value: Any) -> bool:
    """Tell whether it is a list of numbers of at least 0."""
    return isinstance(value, list) and all(map(is_amount, value))


def is_matrix(value: Any) -> bool:
    """Tell whether it is as many lists of shares from 0 to 1 as each holds."""
    return isinstance(value, list) and all(
        isinstance(row, list) and len(row) == len(value) and all(map(is_share, row)) for row in value
    )


def is_modules(value: Any) -> bool:
    """Tell whether it names the modules that an adapter is in."""
    return is_text(value) or is_texts(value)


_SCORES: dict[str, Kind] = {
    "accuracy": is_share,
    "f1_macro": is_share,
    "balanced_accuracy": is_share,
    "f1_micro": is_share,
    "f1_samples": is_share,
    "mean_average_precision": is_share,
    "f1_by_label": {"*": {"*": is_share}},  # f1, low, high
    "accuracy_by_task": {"*": is_share},
    "*": is_number,
}
_SPLITS: dict[str, Kind] = {"*": is_count}
_PEAKS: dict[str, Kind] = {"*": is_amount}
_ERROR: dict[str, Kind] = {"exit_code": is_number, "*": is_text}
_BLOCKS: dict[str, Kind] = {
    "labels": is_texts,
    "attempt": is_count,
    "started_at": is_name,
    "ended_at": is_name,
    "metrics": {"*": _SCORES},
    "memory": {"kind": is_name, "baseline_bytes": is_amount, "load": _PEAKS, "train": _PEAKS, "eval": _PEAKS},
    "time": {"*": is_amount},
    "parameters": {"*": is_amount},
    "throughput": {"*": is_amount},
    "energy": {"joules": is_amount, "source": is_text},
    "prediction": {
        "kind": is_name,
        "target": is_name,
        "predicted_peak_bytes": is_amount,
        "measured_peak_bytes": is_amount,
        "error": is_number,
        "paged_bytes": is_amount,
        "parts": {"*": is_amount},
        "phases": {"*": _PEAKS},
        "cost": {"*": is_amount},
    },
    "data": {
        "fingerprint": is_name,
        "sizes": _SPLITS,
        "label_counts": {"*": _SPLITS},
        "truncated_share": is_share,
        "long_share": is_share,
        "duplicate_rows_across_splits": is_count,
        "conflicting_labels": is_count,
        "label_sets": {"*": {"*": is_amount}},
        "unlabelled": _SPLITS,
        "teacher": {
            "run_id": is_name,
            "method": is_name,
            "model": is_name,
            "run_ids": is_texts,
            "seconds": is_amount,
            "fold_seconds": is_amount,
            "accuracy": is_share,
            "content": is_name,
            "fingerprint": is_name,
            "answer_seconds": is_amount,
        },
        "tasks": {"*": {"fingerprint": is_name, "labels": is_texts, "sizes": _SPLITS}},
    },
    "model": {
        "target_modules": is_modules,
        "new_modules": is_texts,
        "steps": is_count,
        "best_step": is_count,
        "skipped_steps": is_count,
        "processes": is_count,
        "prompt_readings": is_count,
        "gate_parameters": is_count,
        "thresholds": {"*": is_share},
        "resumed_from_step": is_count,
        "precision": is_name,
        "attention": is_name,
    },
    "updates": {
        "tests": is_counts,
        "new_labels": is_lists,
        "accuracy": is_matrix,
        "train_texts": is_counts,
        "train_seconds": is_amounts,
    },
    "provenance": {
        "hardware": {"gpu": is_text, "cpu": is_text},
        "packages": {"*": is_text},
        "source": is_text,
    },
    "tracking": {"*": is_text},
    "error": _ERROR,
}
_ATTEMPT: dict[str, Kind] = {
    "attempt": is_count,
    "status": is_name,
    "phase": is_name,
    "validation": _SCORES,
    "error": _ERROR,
    "packed": {"*": is_amount},
    "oom_halvings": is_count,
}


def find_fault(record: Mapping[str, Any]) -> str | None:
    """Name the first value of a record that is not what its readers take it for, or return None.

    Args:
        record: the fields of a Result, each of its declared type.
    """
    fault = _find_unfit(record, "") or next(misfits(record, _BLOCKS, ""), None)
    for number, attempt in enumerate(record["attempts"]):
        fault = fault or next(misfits(attempt, _ATTEMPT, f"attempts.{number}."), None)
    for name in ("config", "canonical_config"):
        fault = fault or next(misfits(record[name], _read_settings(), f"{name}."), None)
    method = record["config"].get("method")
    if fault is None and not (isinstance(method, dict) and method.get("name") and method.get("title")):
        return "its config.method has no name and title"
    return fault


def misfits(block: Mapping[str, Any], kinds: Mapping[str, Kind], path: str) -> Iterator[str]:
    """Yield a message for each value of a block that is not of its kind."""
    if _is_well(block, kinds):  # nearly every block; its messages are not written
        return
    for name, value in block.items():
        kind = kinds.get(name, kinds.get("*"))
        if value is None or kind is None:
            continue
        if isinstance(kind, dict):
            if isinstance(value, dict):
                yield from misfits(value, kind, f"{path}{name}.")
            else:
                yield f"its {path}{name} is {_shorten(value)}, which no run writes there"
        elif not kind(value):
            yield f"its {path}{name} is {_shorten(value)}, which no run writes there"


def _is_well(block: Mapping[str, Any], kinds: Mapping[str, Kind]) -> bool:
    """Tell whether misfits yields nothing."""
    others = kinds.get("*")
    for name, value in block.items():
        kind = kinds.get(name, others)
        if value is None or kind is None:
            continue
        if isinstance(kind, dict):
            if not isinstance(value, dict) or not _is_well(value, kind):
                return False
        elif not kind(value):
            return False
    return True


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _find_unfit(value: Any, path: str, depth: int = 0) -> str | None:
    """Name a number too large to count with, a text too long to read or blocks too deep, or return None."""
    if _is_fit(value, depth):  # nearly every record; its paths are not written
        return None
    where = path.removesuffix(".") or "record"
    if depth > _DEEPEST:
        return f"its {where[:_NAME]} holds blocks more than {_DEEPEST} deep"
    if isinstance(value, str):
        return f"its {where} is a text of {len(value)} characters"
    if isinstance(value, int | float):
        return f"its {where} is a number beyond 2**63"
    inner = value.items() if isinstance(value, Mapping) else enumerate(value)
    return next(unfit for key, item in inner if (unfit := _find_unfit(item, f"{path}{key}.", depth + 1)))


def _is_fit(value: Any, depth: int) -> bool:
    """Tell whether _find_unfit finds nothing."""
    kind = type(value)  # exact, as JSON has no other
    if kind is str:
        return len(value) <= _LONGEST and depth <= _DEEPEST
    if kind is dict or kind is list:
        inner = value.values() if kind is dict else value
        return depth <= _DEEPEST and all(_is_fit(item, depth + 1) for item in inner)
    return depth <= _DEEPEST and (value is None or abs(value) <= _LARGEST)


@cache
def _read_settings() -> Mapping[str, Kind]:
    """Make a kind of every setting of the schema, from its type; texts and models also count by content."""
    kinds = _to_kinds(Config)
    for section, name in (("data", "fingerprint"), ("model", "revision")):
        inner = kinds[section]
        assert isinstance(inner, dict)
        inner[name] = is_name
    return kinds


def _to_kinds(schema: Any) -> dict[str, Kind]:
    return {
        name: _to_kinds(hint) if is_dataclass(hint) else _make_check(hint)
        for name, hint in get_type_hints(schema).items()
        if hint is not ReportConfig  # which no run writes down
    }


def fits(value: Any, kind: Any) -> bool:
    """Tell whether it is of the declared type; a whole number serves as a float, and a bool is no number."""
    return _make_check(kind)(value)


@cache
def _make_check(kind: Any) -> Callable[[Any], bool]:
    """Return what tells whether a value is of the declared type; once, as a report asks it of millions."""
    if kind is Any:
        return lambda _: True
    if isinstance(kind, UnionType):
        checks = [_make_check(member) for member in get_args(kind)]
        return lambda value: any(check(value) for check in checks)
    if kind is float:
        return is_number
    plain, allows_bool = get_origin(kind) or kind, kind is bool
    of_items = None if Any in get_args(kind)[-1:] else [_make_check(item) for item in get_args(kind)[-1:]]

    def check(value: Any) -> bool:
        if not isinstance(value, plain) or (not allows_bool and isinstance(value, bool)):
            return False
        if not of_items:
            return True
        items = value.values() if plain is dict else value
        return all(map(of_items[0], items))

    return check
