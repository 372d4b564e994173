"""Chosen hyperparameters at the edge of what was tried, beyond which the best may lie."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.config.overrides import list_overrides, override_line
from bench.config.schema import CRITERIA
from bench.report.cells import clean, format_number
from bench.results.selection import read_number, read_value
from bench.results.store import Result

# axis -> the least value that there is: beyond that a search cannot go
_AXES: Mapping[str, float | None] = {"train.lr": None, "lora.r": 1, "lora.alpha": None, "lora.dropout": 0.0}


@dataclass(frozen=True)
class Edge:
    """A chosen value that is the smallest or the largest of those that the method's runs tried."""

    path: str  # of the setting, such as train.lr
    value: float
    end: str  # smallest | largest
    beyond: float  # the next value to try

    @property
    def name(self) -> str:
        """The setting as a row of the table names it."""
        return self.path.rpartition(".")[2]

    @property
    def setting(self) -> str:
        """The setting with its value: lr=5e-5."""
        return f"{self.name}={format_number(self.value)}"


def find_edges(chosen: Result, results: Sequence[Result]) -> tuple[Edge, ...]:
    """Find the chosen run's values at the edge of those tried by the method's runs, with or without success.

    A value that every run has was not searched for, and has no edge.
    """
    edges = []
    for path, least in _AXES.items():
        value = read_number(chosen, f"canonical_config.{path}")
        numbers = {read_number(result, f"canonical_config.{path}") for result in results}
        tried = sorted(number for number in numbers if number is not None)
        if value is None or len(tried) < 2 or value not in (tried[0], tried[-1]):
            continue
        end, neighbour = ("largest", tried[-2]) if value == tried[-1] else ("smallest", tried[1])
        if end == "largest" or value != least:
            edges.append(Edge(path, value, end, _go_beyond(path, value, neighbour)))
    return tuple(edges)


def suggest_sweep(chosen: Result, edges: Sequence[Edge]) -> str | None:
    """Return the command that tries the chosen run's configuration beyond the edges, and sweeps nothing else.

    None: it cannot be told from the record, or cannot be shown as a line to type.
    """
    lines = list_overrides(chosen.config)
    if lines is None:
        return None
    kept = [
        line for line in lines if line.partition("=")[0] not in {*(edge.path for edge in edges), "data.fold"}
    ]
    swept = [f"{edge.path}={format_number(edge.value)},{format_number(edge.beyond)}" for edge in edges]
    if (folds := read_value(chosen, "config.data.folds")) is not None:
        swept.append(f"data.fold=range({folds})")
    sweep = read_value(chosen, "config.sweep") or {}
    settings = [
        override_line(f"sweep.{name}", sweep[name])
        for name, usual in (("final_seeds", []), ("select_by", CRITERIA[0]))
        if sweep.get(name, usual) != usual
    ]
    folder = [
        override_line(name, value)
        for name in ("results_dir",)
        if (value := read_value(chosen, f"config.{name}")) is not None
    ]
    command = shlex.join(["bench", "sweep", *kept, *swept, *settings, *folder])
    return command if clean(command) == command and "`" not in command else None


def _go_beyond(path: str, value: float, neighbour: float) -> float:
    """Return a round value that is about as many times the edge as the edge is its neighbour."""
    beyond = value * value / neighbour if neighbour else 2 * value
    if path == "lora.dropout":
        return round(min(beyond, (1 + value) / 2), 3)  # below 1
    if path == "train.lr":
        return float(f"{beyond:.1g}")
    return max(1, round(beyond)) if path == "lora.r" or beyond >= 1 else beyond
