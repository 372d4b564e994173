"""Bracketing: where a method's best lies at the end of an axis, further values beyond it. Pure.

A best value at the end of its axis says that a better one may lie beyond. Each round gives every method one
more run, so that none is searched more than another: beyond the end where its best lies, or, where that is
inside already, between the best and the better of its neighbours. Values are those of validation alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from bench.config.identity import uses_lora
from bench.config.overrides import override_line
from bench.config.schema import Config, read_field, replace_values
from bench.sweep.plan import Identify, Point
from bench.sweep.search.halving import survivors

MOST = 4  # rounds: with a step of 2 an axis then reaches 16 times further
_AXES = ("train.lr", "lora.r", "lora.alpha")  # whose values are ratios, by how much they matter

Scores = Mapping[str, float | None]  # by run_id; None: no success


def is_inside(points: Sequence[Point], scores: Scores) -> bool:
    """Return whether the best of points that compete lies at the end of none of their axes."""
    best = _find_best(points, scores)
    return best is None or next(_extend(best, points), None) is None


def propose(points: Sequence[Point], scores: Scores, *, identify: Identify) -> Point | None:
    """Propose the next run for points that compete, or None if none of them succeeded or has an axis.

    A value that failed is a value that was tried: beyond it nothing is proposed.
    """
    best = _find_best(points, scores)
    if best is None:
        return None
    known = {point.run_id for point in points}
    for values in [*_extend(best, points), *_refine(best, points, scores)]:
        config = replace_values(best.config, values)
        lines = [line for line in best.overrides if line.lstrip("+").partition("=")[0] not in values]
        point = Point(
            (*lines, *(override_line(key, value) for key, value in values.items())), config, identify(config)
        )
        if point.run_id not in known:
            return point
    return None


def _find_best(points: Sequence[Point], scores: Scores) -> Point | None:
    best = survivors(scores, keep=1)
    return next((point for point in points if point.run_id in best), None)


def _list_axes(points: Sequence[Point]) -> Iterator[tuple[str, list[float]]]:
    """Yield each axis on which the points differ, with its values in order."""
    for path in _AXES:
        if path.startswith("lora.") and not all(uses_lora(point.config.method) for point in points):
            continue
        values = sorted({read_field(point.config, path) for point in points})
        if len(values) > 1:
            yield path, values


def _extend(best: Point, points: Sequence[Point]) -> Iterator[dict[str, float]]:
    """Yield for each axis at whose end the best lies the value beyond it, as far as its neighbour is."""
    for path, values in _list_axes(points):
        value = read_field(best.config, path)
        if value in (values[0], values[-1]):
            neighbour = values[1] if value == values[0] else values[-2]
            beyond = _round(value * value / neighbour, best.config, path)
            if beyond > 0 and beyond not in values:
                yield {path: beyond}


def _refine(best: Point, points: Sequence[Point], scores: Scores) -> Iterator[dict[str, float]]:
    """Yield for each axis the geometric mean of the best value and its neighbours', the better one first."""

    def rate(path: str) -> Callable[[float], float]:
        def highest(value: float) -> float:
            alike = (scores[point.run_id] for point in points if read_field(point.config, path) == value)
            return max((score or 0.0 for score in alike), default=0.0)

        return highest

    for path, values in _list_axes(points):
        value = read_field(best.config, path)
        place = values.index(value)
        neighbours = [values[other] for other in (place - 1, place + 1) if 0 <= other < len(values)]
        for neighbour in sorted(neighbours, key=rate(path), reverse=True):
            between = _round((value * neighbour) ** 0.5, best.config, path)
            if between not in values:
                yield {path: between}


def _round(value: float, config: Config, path: str) -> float:
    """Round to three digits, or to a whole number where the axis has only those."""
    return round(value) if isinstance(read_field(config, path), int) else float(f"{value:.3g}")
