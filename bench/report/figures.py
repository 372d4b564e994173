"""Every figure of a report, with its numbers as a table for who cannot see it."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.cards import GIB
from bench.report import charts
from bench.report.answers import count_confusion, score_labels
from bench.report.captions import Captions
from bench.report.cells import UNKNOWN, clean, format_number
from bench.report.charts import Key, Spec
from bench.report.contrast import Group, group_rows
from bench.report.details import Course, Details
from bench.report.evidence import Evidence
from bench.report.rows import PEAKS, Row, flatten, stands_alone
from bench.report.stats import summarise
from bench.report.text import Text, format_duration
from bench.selection import read_number, read_seed
from bench.store import Result

_PHASES = ("load", "train", "eval")
_MOST_STEPS = 120  # of a curve: more cannot be told apart on the page
_MOST_LABELS = 20  # of a confusion matrix
_BELOW = 10  # points of accuracy under the trained methods; what is lower would press them together


@dataclass(frozen=True)
class Figure:
    """One chart, and in words and numbers what it shows."""

    kind: str  # a key of Captions.figures
    name: str  # of its files
    title: str
    caption: str
    spec: Spec
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


Drawn = Iterator[tuple[str, Figure]]


def draw_all(evidence: Evidence, details: Details, *, text: Text) -> dict[Group, list[Figure]]:
    """The figures of each table, in the order of the page; none where there is nothing to show."""
    figures = {}
    names: set[str] = set()
    for group, rows in group_rows(evidence.rows).items():
        key = Key({_title(row): row.baseline for row in rows}, text.captions)
        make = partial(_make, names=names, words=text.captions)
        figures[group] = [
            figure
            for found in (
                _draw_pareto(rows, key, text, make),
                _draw_heatmaps(rows, text, make),
                _draw_effects(rows, key, text, make),
                _draw_curves([one for one in details.courses if one.row in rows], key, text, make),
                _draw_phases(rows, text, make),
                _draw_predicted(rows, key, text, make),
                _draw_answers([one for one in details.answers if one.row in rows], key, text, make),
            )
            for figure in found
        ]
    return figures


def _make(
    kind: str, *, names: set[str], words: Captions, part: str = "", more: str = "", **shown: Any
) -> Figure:
    """The figure with its words and a name that no other has, whatever the name of the part."""
    title, caption = words.figures[kind]
    stem = name = "-".join(filter(None, [kind, re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-")[:40]]))
    while name in names:
        name = f"{stem}-{sum(one.startswith(stem) for one in names) + 1}"
    names.add(name)
    title = words.of_method.format(title=title, name=part) if part else title
    caption = " ".join(filter(None, [caption, more]))
    shown["spec"] = shown["spec"] | {"description": f"{title}. {caption}"}
    return Figure(kind=kind, name=name, title=title, caption=caption, **shown)


def _title(row: Row) -> str:
    return clean(row.title) or row.method


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 4)


def _show(value: float | None, form: str = ".1f") -> str:
    return UNKNOWN if value is None else format(value, form)


def _draw_pareto(rows: Sequence[Row], key: Key, text: Text, make: Any) -> Iterator[Figure]:
    words, axes = text.captions, text.captions.axes
    points = [_locate(row, text) for row in rows]
    domains = {"memory": _span([point["memory"] for point in points]), "accuracy": _span_accuracy(points)}
    floor, right = domains["accuracy"][0], domains["memory"][1]
    drawn, slots = [], 0
    for point in points:
        memory, accuracy = point["memory"], point["accuracy"]
        if memory is not None and accuracy is not None and accuracy >= floor:
            drawn.append({**point, "kind": "point"})
            continue
        edge = {**point, "kind": "edge", "memory": memory if memory is not None else right}
        edge["accuracy"] = floor if accuracy is None else max(accuracy, floor)
        if memory is None and accuracy is None:
            slots += 1
            edge["accuracy"] += (domains["accuracy"][1] - floor) * 0.07 * slots
        edge["side"] = "left" if edge["memory"] < sum(domains["memory"]) / 2 else "right"
        drawn.append(edge)
    front = _find_front([point for point in drawn if point["kind"] == "point"])
    lines = [
        [
            point["title"],
            _show(point["memory"], ".2f"),
            _show(point["accuracy"]) if point["status"] is None else point["status"],
            point["interval"],
            point["time"],
        ]
        for point in points
    ]
    names = ("method", "memory", "accuracy", "interval", "train_time")
    yield make(
        "pareto",
        spec=charts.draw_pareto([*front, *drawn], domains=domains, key=key, words=words),
        header=[axes[name] for name in names],
        rows=lines,
    )


def _locate(row: Row, text: Text) -> dict[str, Any]:
    """The row's numbers as a plot has them, and its label where it has no place in it."""
    peak, accuracy = row.peak_memory_bytes, _percent(row.accuracy.mean if row.accuracy else None)
    ends = [_percent(row.interval.low), _percent(row.interval.high)] if row.interval else [None, None]
    words, status = text.captions, None if row.selection else text.statuses[row.status]
    shown = UNKNOWN if accuracy is None else text.percent.format(accuracy)
    label = words.at_edge.format(title=_title(row), accuracy=status or shown)
    return {
        "title": _title(row),
        "memory": None if peak is None else round(peak / GIB, 4),
        "accuracy": accuracy,
        "low": ends[0],
        "high": ends[1],
        "interval": text.intervals[row.interval.over].format(*ends) if row.interval else UNKNOWN,
        "seconds": row.train_seconds,
        "time": UNKNOWN if row.train_seconds is None else format_duration(row.train_seconds, text),
        "status": status,
        "baseline": row.baseline,
        "label": label,
    }


def _span(values: Sequence[float | None]) -> tuple[float, float]:
    """An axis with room for marks and for a label at its end."""
    known = [value for value in values if value is not None]
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    room = max(0.12 * (high - low), 0.03 * high)
    return round(max(0.0, low - room), 4), round(high + 2 * room, 4)


def _span_accuracy(points: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """From the lowest end of a trained method's interval, and of baselines that come near it."""

    def ends(some: Sequence[Mapping[str, Any]], name: str) -> list[float]:
        return [value for one in some if (value := one[name] if one[name] is not None else one["accuracy"])]

    known = [one for one in points if one["accuracy"] is not None]
    lows = ends([one for one in known if not one["baseline"]], "low") or ends(known, "low")
    if not lows:
        return 0.0, 100.0
    near = [one for one in known if one["accuracy"] >= min(lows) - _BELOW]
    low, high = min(ends(near, "low")), max(ends(near, "high"))
    room = max(0.08 * (high - low), 0.5)
    return math.floor(max(0.0, low - room)), math.ceil(min(100.0, high + room))


def _find_front(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Those that no other beats in memory and in accuracy, from the least memory on."""
    front: list[dict[str, Any]] = []
    for point in sorted(points, key=lambda one: (one["memory"], -one["accuracy"])):
        if not front or point["accuracy"] > front[-1]["accuracy"]:
            place = {name: point[name] for name in ("title", "memory", "accuracy")}
            front.append({**place, "kind": "front", "order": len(front)})
    return front


def _name_score(row: Row, text: Text) -> str:
    metric = text.metrics[row.selection.select_by if row.selection else "accuracy"]
    return text.captions.axes["score"].format(metric=metric)


def _draw_heatmaps(rows: Sequence[Row], text: Text, make: Any) -> Iterator[Figure]:
    axes, paths = text.captions.axes, ("train.lr", "lora.r", "lora.alpha")
    for row in (one for one in rows if one.selection and len(one.budget.pivot) > 1):
        best: dict[tuple[float, ...], float] = {}
        for run, score in zip(row.selection.candidates, row.selection.scores, strict=True):  # type: ignore[union-attr]
            place = tuple(read_number(run, f"canonical_config.{path}") for path in paths)
            if None not in place:
                best[place] = max(score, best.get(place, 0.0))  # type: ignore[index,arg-type]
        cells = [
            {
                **dict(zip(("lr", "r", "alpha"), map(format_number, place), strict=True)),
                "score": _percent(score),
            }
            for place, score in sorted(best.items())
        ]
        if cells:
            score = _name_score(row, text)
            yield make(
                "heatmap",
                part=_title(row),
                spec=charts.draw_heatmap(cells, score=score, words=text.captions),
                header=[axes["lr"], axes["r"], axes["alpha"], score],
                rows=[[one["lr"], one["r"], one["alpha"], _show(one["score"])] for one in cells],
            )


def _draw_effects(rows: Sequence[Row], key: Key, text: Text, make: Any) -> Iterator[Figure]:
    """One figure for each hyperparameter that the candidates of a trained method differ in."""
    axes, found = text.captions.axes, dict[str, list[dict[str, Any]]]()
    trained = [row for row in rows if row.selection and not row.baseline]
    for row in trained:
        candidates = row.selection.candidates if row.selection else ()
        leaves = [flatten(one.canonical_config) for one in candidates]
        scores = row.selection.scores if row.selection else ()
        for path in sorted(set().union(*leaves)):
            values = [one.get(path) for one in leaves]
            if len(set(map(repr, values))) > 1 and path != "seed":
                found.setdefault(path, []).extend(
                    {"title": _title(row), "raw": value, "score": _percent(score)}
                    for value, score in zip(values, scores, strict=True)
                )
    for path, points in found.items():
        raw = sorted({repr(one["raw"]): one["raw"] for one in points}.values(), key=_order)
        shown = [
            {
                "title": one["title"],
                "value": clean(format_number(one["raw"])),
                "place": raw.index(one["raw"]),
                "score": one["score"],
            }
            for one in sorted(points, key=lambda one: (key.titles.index(one["title"]), _order(one["raw"])))
        ]
        name, score = clean(path.rpartition(".")[2]), _name_score(trained[0], text)
        lines = []
        for title, value in dict.fromkeys((one["title"], one["value"]) for one in shown):
            same = [one["score"] for one in shown if (one["title"], one["value"]) == (title, value)]
            ends = (max(same), math.fsum(same) / len(same), min(same))
            lines.append([title, value, str(len(same)), *map(_show, ends)])
        header = [axes["method"], name, *(axes[one] for one in ("runs", "best", "mean", "worst"))]
        spec = charts.draw_effect(shown, name=name, score=score, key=key, words=text.captions)
        yield make("effect", part=name, spec=spec, header=header, rows=lines)


def _order(value: Any) -> tuple[bool, float, str]:
    is_number = isinstance(value, int | float)
    return not is_number, float(value) if is_number else 0.0, str(value)


def _draw_curves(courses: Sequence[Course], key: Key, text: Text, make: Any) -> Iterator[Figure]:
    words, axes = text.captions, text.captions.axes
    for kind, name, factor in (("loss", "loss", 1), ("validation", "validation_accuracy", 100)):
        points, lines, steps = [], [], 1
        for one in courses:
            logged = [
                (row["step"], factor * row[name])
                for row in one.history
                if all(_is_number(row.get(known)) for known in ("step", name))
            ]
            if not logged:
                continue
            seed = str(read_seed(one.run))
            every = math.ceil(len(logged) / _MOST_STEPS)
            steps = max(steps, every)
            kept = [*logged[:-1:every], logged[-1]]
            place = {"title": _title(one.row), "run": one.run.run_id, "seed": seed}
            points += [{**place, "step": step, "value": round(value, 5)} for step, value in kept]
            values = [value for _, value in logged]
            ends = (values[0], min(values), max(values), values[-1])
            best = ends[1] if kind == "loss" else ends[2]
            lines.append(
                [
                    place["title"],
                    one.run.run_id,
                    seed,
                    *(_show(end, ".3g") for end in (ends[0], best, ends[3])),
                ]
            )
        if points:
            header = [axes[one] for one in ("method", "run", "seed", "first", "best", "last")]
            more = words.thinned.format(step=steps) if steps > 1 else ""
            spec = charts.draw_curves(points, measure=kind, key=key, words=words)
            yield make(kind, more=more, spec=spec, header=header, rows=lines)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _draw_phases(rows: Sequence[Row], text: Text, make: Any) -> Iterator[Figure]:
    words, axes = text.captions, text.captions.axes
    kind = rows[0].memory_kind
    peak = PEAKS[kind].rpartition(".")[2] if kind else None
    seconds = {phase: f"time.{phase}_seconds" for phase in _PHASES}
    peaks = {"baseline": "memory.baseline_bytes", **{phase: f"memory.{phase}.{peak}" for phase in _PHASES}}
    for name, measure, paths in (("time", "seconds", seconds), ("memory", "memory", peaks if peak else {})):
        shown, lines = [], []
        for row in rows:
            runs = [one for one in row.selection.results if stands_alone(one)] if row.selection else []
            values = {phase: _measure(runs, path, measure) for phase, path in paths.items()}
            if any(value is not None for value in values.values()):
                shown += [
                    {
                        "title": _title(row),
                        "phase": words.phases[phase],
                        "place": place,
                        "value": round(value, 4),
                    }
                    for place, (phase, value) in enumerate(values.items())
                    if value is not None
                ]
                lines.append([_title(row), *(_show(value, ".2f") for value in values.values())])
        if shown:
            titles = [line[0] for line in lines]
            spec = charts.draw_phases(shown, measure=measure, phases=list(paths), titles=titles, words=words)
            header = [f"{axes['method']} ({axes[measure]})", *(words.phases[phase] for phase in paths)]
            yield make(name, spec=spec, header=header, rows=lines)


def _measure(runs: Sequence[Result], path: str, measure: str) -> float | None:
    """Mean seconds, or the highest peak in GiB; None unless every run has it."""
    values = [value for one in runs if (value := read_number(one, path)) is not None]
    if not values or len(values) < len(runs):
        return None
    return summarise(values).mean if measure == "seconds" else max(values) / GIB


def _draw_predicted(rows: Sequence[Row], key: Key, text: Text, make: Any) -> Iterator[Figure]:
    axes, points = text.captions.axes, []
    for row in rows:
        runs = (*row.selection.candidates, *row.selection.results) if row.selection else ()
        for run in {one.run_id: one for one in runs}.values():
            names = ("predicted_peak_bytes", "measured_peak_bytes", "error")
            predicted, measured, error = (read_number(run, f"prediction.{name}") for name in names)
            if predicted is not None and measured is not None and error is not None:
                numbers = {"predicted": round(predicted / GIB, 4), "measured": round(measured / GIB, 4)}
                place = {"kind": "point", "title": _title(row), "run": run.run_id}
                points.append({**place, **numbers, "error": f"{100 * error:+.1f} %"})
    if points:
        ends = [point[name] for point in points for name in ("predicted", "measured")]
        diagonal = [{"kind": "diagonal", "measured": end, "predicted": end} for end in (min(ends), max(ends))]
        names = ("method", "run", "predicted", "measured", "error")
        lines = [
            [one["title"], one["run"], *(f"{one[name]:.2f}" for name in names[2:4]), one["error"]]
            for one in points
        ]
        spec = charts.draw_predicted([*diagonal, *points], key=key, words=text.captions)
        yield make("predicted", spec=spec, header=[axes[name] for name in names], rows=lines)


def _draw_answers(found: Sequence[Any], key: Key, text: Text, make: Any) -> Iterator[Figure]:
    words, axes = text.captions, text.captions.axes
    counted = [(one, count_confusion(one)) for one in found]
    points = [
        {"title": _title(one.row), "label": clean(label), "f1": _percent(score)}
        for one, counts in counted
        for label, score in zip(one.labels, score_labels(counts), strict=True)
        if score is not None
    ]
    if points:
        labels = list(dict.fromkeys(point["label"] for point in points))
        scores = {(point["title"], point["label"]): point["f1"] for point in points}
        titles = list(dict.fromkeys(point["title"] for point in points))
        lines = [[label, *(_show(scores.get((title, label))) for title in titles)] for label in labels]
        spec = charts.draw_f1(points, labels=labels, key=key, words=words)
        yield make("f1", spec=spec, header=[f"{axes['label']} ({axes['f1']})", *titles], rows=lines)
    for one, counts in counted:
        wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()
        kept = sorted(sorted(range(len(one.labels)), key=lambda place: (-wrong[place], place))[:_MOST_LABELS])
        names = [clean(one.labels[place]) for place in kept]
        cells = [
            {
                "label": clean(one.labels[row]),
                "prediction": clean(one.labels[column]),
                "texts": int(counts[row, column]),
                "share": round(100 * float(counts[row, column] / counts[row].sum()), 2),
            }
            for row in kept
            for column in kept
            if counts[row, column]
        ]
        if cells:
            lines = [
                [names[place], *(str(counts[row, column]) for column in kept)]
                for place, row in enumerate(kept)
            ]
            cut = len(kept) < len(one.labels)
            more = words.fewer_labels.format(all=len(one.labels), shown=len(kept)) if cut else ""
            spec = charts.draw_confusion(cells, labels=names, words=words)
            header = [f"{axes['label']} \\ {axes['prediction']}", *names]
            yield make("confusion", part=_title(one.row), more=more, spec=spec, header=header, rows=lines)
