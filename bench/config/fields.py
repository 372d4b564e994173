"""What the declaration of a setting says beside its type: which values it may have, and what it decides.

A field of the schema is ``name: Annotated[type, *marks]``; the checks, the run's id, packs, predictions of
memory and docs/settings.md read the marks.
"""

import math
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, get_args, get_type_hints

from bench.spelling import guess


class Mark(Enum):
    """What a setting does not decide, or all settings of a section."""

    UNCOUNTED = "cannot change a run's result, and is no part of its id"
    SHAPELESS = "cannot change a tensor's shape, and so no prediction of memory"
    OWN = "may differ between the runs that train together in one process"


UNCOUNTED, SHAPELESS, OWN = Mark
LONGEST_NAME = 100


@dataclass(frozen=True)
class Off:
    """At this value the setting does nothing, and runs from before it was there keep their ids."""

    value: Any


@dataclass(frozen=True)
class Rule:
    """What a setting's value must be; None is right wherever the type allows it."""

    expected: str
    holds: Callable[[Any], bool]
    near: Callable[[Any], str] = lambda _: ""  # which value may have been meant


def must(expected: str, holds: Callable[[Any], bool]) -> Rule:
    """State a rule in words, to go on after ``must``, and as a function."""
    return Rule(f"must {expected}", holds)


def positive(more: str = "") -> Rule:
    """Ask for a finite number above 0."""
    return must(f"be a positive number{more}", lambda value: 0 < value < math.inf)


def at_least(least: int, more: str = "") -> Rule:
    """Ask for a finite number that is not below the least."""
    words = f"be at least {least}" if least else "be 0 or more"
    return must(words + more, lambda value: least <= value < math.inf)


def matching(pattern: str, words: str) -> Rule:
    """Ask for a text that a regular expression matches as a whole."""
    return must(f"be {words}", lambda value: re.fullmatch(pattern, value, re.ASCII) is not None)


def one_of(*names: str) -> Rule:
    """Ask for one of a few words."""
    return Rule(f"must be one of {', '.join(names)}", names.__contains__, lambda value: guess(value, names))


def some_of(*names: str) -> Rule:
    """Ask for a list of nothing but these words."""
    return must(f"list some of {', '.join(names)}", lambda values: set(values) <= set(names))


def size(more: str = "") -> Rule:
    """Ask for a share of the rows or a whole number of them."""
    return must(
        f"be a share in (0, 1) or a number of rows{more}",
        lambda value: 0 < value < 1 or (1 <= value < math.inf and float(value).is_integer()),
    )


@cache
def read_marks(schema: Hashable) -> Mapping[str, tuple[Any, ...]]:
    """Return the marks of every section and setting of a schema, by dotted path, in its order."""
    return dict(_walk(schema, ""))


def _walk(schema: Any, section: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
    for name, kind in get_type_hints(schema, include_extras=True).items():
        marks = getattr(kind, "__metadata__", ())
        plain = get_args(kind)[0] if marks else kind
        yield f"{section}{name}", marks
        if is_dataclass(plain) and isinstance(plain, type):
            yield from _walk(plain, f"{section}{name}.")


def list_marked(schema: type, mark: Mark) -> tuple[str, ...]:
    """Return the paths of the sections and settings that carry the mark."""
    return tuple(path for path, marks in read_marks(schema).items() if mark in marks)


def find_faults(node: Any, section: str = "", *, hidden: Callable[[Any], bool]) -> Iterator[str]:
    """Name every value that breaks a rule of its field, in the order of the schema.

    Args:
        node: a dataclass of the schema, with values.
        section: its path with a dot at the end, empty for the whole configuration.
        hidden: whether a value must not be repeated, as it holds a password.
    """
    schema: Any = type(node)
    marks = read_marks(schema)
    for name, value in vars(node).items():
        path = f"{section}{name}"
        if value is not None and not hidden(value):
            rules = [mark for mark in marks[name] if isinstance(mark, Rule)]
            broken = [rule for rule in rules if not rule.holds(value)]
            yield from (f"{path}={write(value)}: {rule.expected}{rule.near(str(value))}" for rule in broken)
        for inner in value if isinstance(value, list) else [value]:
            if is_dataclass(inner):
                yield from find_faults(inner, f"{path}.", hidden=hidden)


def read_seconds(value: Any) -> float | None:
    """Read hours, as 1.5, 1.5h or 90m, as seconds; return None if the value is nothing of the kind."""
    text = str(value)
    try:
        return (
            float(text.removesuffix("m")) * 60 if text.endswith("m") else float(text.removesuffix("h")) * 3600
        )
    except ValueError:
        return None


def _is_seed(value: Any) -> bool:
    return type(value) is int and value in SEED_RANGE


def write(value: Any) -> str:
    """Write a value as an override has it, in one line that is not too long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value)
    return text if text.isprintable() and len(text) <= LONGEST_NAME else repr(text[:LONGEST_NAME])


NAME = must(
    f"be one line of 1 to {LONGEST_NAME} printable characters",
    lambda value: bool(value.strip()) and len(value) <= LONGEST_NAME and value.isprintable(),
)
TEACHER = must(
    "be best:METHOD, a run_id or the folder of an export, in printable characters",
    lambda value: bool(value.strip()) and value.isprintable(),
)
# Results lie in results/<data.name>.
FOLDER_NAME = must(
    "hold no / and not begin with a point, as a folder has this name; put results elsewhere with results_dir",
    lambda value: "/" not in value and not value.startswith("."),
)
HUB_ID = matching(r"([A-Za-z0-9][\w.-]*(/[\w.-]+)?)?", "a name on the hub, OWNER/NAME")
RUN_ID = matching(r"[0-9a-f]{12}", "a run_id, 12 hexadecimal digits, or null; `bench status` lists them")
DEVICES = matching(
    r"auto|cuda|cpu(\*[1-9]\d*)?|\d+(,\d+)*",
    "auto, cpu, cuda, cpu*N (N runs at once) or the numbers of GPUs, 0,1",
)
SEED_RANGE = range(2**32)
SEED = must("lie in [0, 2**32)", SEED_RANGE.__contains__)
SEEDS = must(
    "be auto or list seeds that lie in [0, 2**32), for example [0,1,2]",
    lambda value: value == "auto" or (isinstance(value, list) and all(map(_is_seed, value))),
)
HOURS = must(
    "be more than 0 hours, as 1.5, 1.5h or 90m, or null for no budget",
    lambda value: (seconds := read_seconds(value)) is not None and 0 < seconds < math.inf,
)
SEPARATOR = must(
    "be printable, without blanks at its ends, for example | or ,",
    lambda value: value != "" and value.strip() == value and value.isprintable(),
)
TARGETS = must(
    "be auto, all-linear or a list of module names, [query,value]",
    lambda value: (
        value in ("auto", "all-linear")
        or (isinstance(value, list) and value != [] and all(isinstance(name, str) for name in value))
    ),
)
PACK = must(
    "be auto, off or a number of runs from 2 on",
    lambda value: value in ("auto", "off") or (isinstance(value, int) and (value is False or value > 1)),
)
