"""Which runs a sweep makes: expand the grids, and drop what is the same run twice. Pure.

Hydra composes once per distinct choice of config groups; single values are then set on the dataclasses, so a
plan of thousands of points takes seconds.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.config.identity import Identity
from bench.config.overrides import override_line
from bench.config.schema import TRAINED, Config, is_field, read_field, replace_values
from bench.errors import ConfigError
from bench.results.selection import MethodKey

GROUPS = ("method", "model", "data", "train", "track", "experiment")

Axes = Mapping[str, Sequence[Any]]  # override key -> the values it takes
Compose = Callable[[Sequence[str]], Config]  # override lines -> configuration
Identify = Callable[[Config], Identity]


@dataclass(frozen=True)
class Point:
    """One planned run: the overrides that make it from the command line, and its configuration."""

    overrides: tuple[str, ...]
    config: Config
    identity: Identity

    @property
    def run_id(self) -> str:
        """The hash of what counts in the configuration."""
        return self.identity.run_id

    @property
    def method_key(self) -> MethodKey:
        """The method and its task, as selection.method_key reads them from the run's record."""
        canonical = self.identity.canonical
        return MethodKey(
            data_fingerprint=canonical["data"]["fingerprint"],
            model_revision=canonical.get("model", {}).get("revision"),
            method=self.config.method.name,
        )

    @property
    def is_trained(self) -> bool:
        """Whether the run trains a network in steps; a baseline takes next to no time."""
        return self.config.method.estimator in TRAINED


@dataclass(frozen=True)
class Plan:
    """The distinct runs of a sweep, and how many combinations they stand for."""

    points: tuple[Point, ...]
    combinations: int
    repeats: Mapping[str, int]  # run_id -> how many combinations are this run
    first: int = 0  # how many of the points, at their beginning, train before all others
    teachers: tuple[Point, ...] = ()  # what predicts for students among the points, and trains before these
    # seconds of the run whose configuration each of these has, by its own run_id; None: unknown
    teacher_seconds: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def every(self) -> tuple[Point, ...]:
        """The teachers' trainings, then the points."""
        return (*self.teachers, *self.points)

    def guess_seconds(self, point: Point) -> float | None:
        """Return what the run took whose configuration a teacher's training has; None of any other run."""
        return self.teacher_seconds.get(point.run_id)


def combine_axes(grids: Sequence[Mapping[str, Any]], *, swept: Axes, fixed: Mapping[str, Any]) -> list[Axes]:
    """Combine the sub-grids of a sweep file with the command line, which wins.

    What the command line sweeps is swept in every sub-grid; what it fixes is fixed in those that sweep it.
    ``method`` chooses among the sub-grids instead: points with other methods are left out.

    Raises:
        ConfigError: no sub-grid has the method.
    """
    methods = swept.get("method", [fixed["method"]] if "method" in fixed else None)
    result: list[Axes] = []
    for grid in grids:
        axes = {key: _as_list(value) for key, value in grid.items()}
        if methods is not None and "method" in axes:
            axes["method"] = [method for method in methods if method in axes["method"]]
        axes |= {key: list(values) for key, values in swept.items() if key != "method" or key not in axes}
        axes |= {key: [value] for key, value in fixed.items() if key in axes and key != "method"}
        if all(axes.values()):
            result.append(axes)
    if not result:
        known = sorted({str(method) for grid in grids for method in _as_list(grid.get("method", []))})
        raise ConfigError(
            f"method={','.join(map(str, methods or []))}: this sweep's grids have only {', '.join(known)}; "
            "add sweep=none to sweep only what the command line says"
        )
    return result


def expand(
    grids: Sequence[Axes], *, compose: Compose, constant: Sequence[str] = ()
) -> Iterator[tuple[tuple[str, ...], Config]]:
    """Yield every combination of every grid: its override lines and its configuration.

    ``constant`` are override lines of all combinations; a grid's own keys win over them.
    """
    for axes in grids:
        kept = [line for line in constant if line.lstrip("+").partition("=")[0] not in axes]
        group_keys = [key for key in axes if key in GROUPS]
        value_keys = [key for key in axes if key not in GROUPS]
        for choices in itertools.product(*(axes[key] for key in group_keys)):
            lines = [
                *kept,
                *(override_line(key, value) for key, value in zip(group_keys, choices, strict=True)),
            ]
            base = compose(lines)
            for values in itertools.product(*(axes[key] for key in value_keys)):
                config = replace_values(base, dict(zip(value_keys, values, strict=True)))
                yield (*lines, *(value_line(config, key) for key in value_keys)), config


def make_plan(
    expanded: Sequence[tuple[tuple[str, ...], Config]],
    identify: Identify,
    *,
    first: Sequence[Mapping[str, Any]] = (),
) -> Plan:
    """Plan the distinct runs: those with the values of one of ``first``, then the others in the grids' order.

    Runs that share base weights and data follow one another.

    Raises:
        ConfigError: ``first`` names no setting, or has a value of the wrong type.
    """
    points: dict[str, Point] = {}
    repeats: Counter[str] = Counter()
    ahead: set[str] = set()
    for overrides, config in expanded:
        point = Point(overrides, config, identify(config))
        points.setdefault(point.run_id, point)
        repeats[point.run_id] += 1
        if any(replace_values(config, values) == config for values in first):  # it has them already
            ahead.add(point.run_id)
    order: dict[tuple[Any, ...], int] = {}  # first place of each (data, model, quantization)
    for point in points.values():
        order.setdefault(_shared(point), len(order))
    ordered = sorted(points.values(), key=lambda point: (point.run_id not in ahead, order[_shared(point)]))
    return Plan(tuple(ordered), len(expanded), repeats, len(ahead))


def plan_finals(best: Sequence[Point], seeds: Sequence[int], identify: Identify) -> Plan:
    """Plan the best configuration of each method with each seed; a seed that cannot matter adds no run."""
    expanded = [
        ((*_without_seed(point.overrides), f"seed={seed}"), replace_values(point.config, {"seed": seed}))
        for point in best
        for seed in seeds
    ]
    return make_plan(expanded, identify)


def _shared(point: Point) -> tuple[Any, ...]:
    config = point.config
    return (repr(config.data), repr(config.model), config.method.quantization)


def _without_seed(overrides: Sequence[str]) -> list[str]:
    return [line for line in overrides if not line.startswith("seed=")]


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def value_line(config: Config, key: str) -> str:
    """Return the override that sets the field to its value here, as Hydra refuses 8.0 for an integer."""
    value = read_field(config, key)
    line = override_line(key, value)
    return line if is_field(key) and not isinstance(value, Mapping) else f"++{line}"  # ++: also new keys
