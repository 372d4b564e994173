"""Every figure of a report, with its numbers as a table for those who cannot see it."""

import math
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from bench.config.cards import GIB
from bench.report.across.groups import Split
from bench.report.across.models import Panel, list_panels
from bench.report.across.sizes import name_methods
from bench.report.blocks import Figure
from bench.report.cells import clean, flatten, format_known, format_number
from bench.report.language.text import Text
from bench.report.naming import name_models, title_splits
from bench.report.numbers.contrast import Group, group_rows
from bench.report.numbers.evidence import Evidence
from bench.report.numbers.rows import PEAKS, Row, stands_alone
from bench.report.numbers.statistics import summarise
from bench.report.page import charts
from bench.report.page.answers import count_confusion, score_labels
from bench.report.page.charts import Key
from bench.report.page.details import Course, Details
from bench.report.page.pareto import place_methods, to_percent
from bench.report.page.reliability import draw_reliability
from bench.results.selection import read_number, read_seed
from bench.results.store import Result

_PHASES = ("load", "train", "eval")
_MOST_STEPS = 120  # of a curve: more cannot be told apart on the page
_TENTHS, _HUNDREDTHS, _THREE_DIGITS = "{:.1f}".format, "{:.2f}".format, "{:.3g}".format
_MOST_LABELS = 20  # of a confusion matrix


Drawn = Iterator[tuple[str, Figure]]


def draw_all(evidence: Evidence, details: Details, *, text: Text) -> dict[Group | Split, list[Figure]]:
    """Draw the figures of each table, in the order of the page; none where there is nothing to show."""
    figures: dict[Group | Split, list[Figure]] = {}
    names: set[str] = set()
    for split, panel in list_panels(evidence, text).items():
        make = partial(_make, names=names, text=text, part=title_splits(evidence.tasks, text)[split[0]])
        figures[split] = [*_draw_panel(panel, text, make)]
    for group, rows in group_rows(evidence.rows).items():
        key = Key({row.title: row.baseline and not row.as_it_is for row in rows}, text)
        make = partial(_make, names=names, text=text)
        figures[group] = [
            figure
            for drawn in (
                _draw_pareto(rows, key, text, make),
                _draw_sizes(rows, evidence, text, make),
                _draw_heatmaps(rows, text, make),
                _draw_effects(rows, key, text, make),
                _draw_curves([course for course in details.courses if course.row in rows], key, text, make),
                _draw_phases(rows, text, make),
                _draw_predicted(rows, key, text, make),
                _draw_answers([answer for answer in details.answers if answer.row in rows], key, text, make),
                draw_reliability(rows, key, text, make),
            )
            for figure in drawn
        ]
    return figures


def _make(kind: str, *, names: set[str], text: Text, part: str = "", more: str = "", **shown: Any) -> Figure:
    """Return the figure with its words and a file name of its own."""
    title, caption = text(f"figures.titles.{kind}"), text(f"figures.captions.{kind}")
    stem = name = "-".join(filter(None, [kind, re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-")[:40]]))
    while name in names:
        name = f"{stem}-{sum(one.startswith(stem) for one in names) + 1}"
    names.add(name)
    title = text("figures.of_method", title=title, name=part) if part else title
    caption = " ".join(filter(None, [caption, more]))
    shown["spec"] = shown["spec"] | {"description": f"{title}. {caption}"}
    return Figure(kind=kind, name=name, title=title, caption=caption, **shown)


def _draw_pareto(
    rows: Sequence[Row], key: Key, text: Text, make: Any, cost: str = "memory"
) -> Iterator[Figure]:
    axes, (points, drawn, domains) = text.under("figures.axes"), place_methods(rows, text, cost=cost)
    lines = [
        [
            point.title,
            format_known(point.memory, _HUNDREDTHS),
            format_known(point.accuracy, _TENTHS) if point.status is None else point.status,
            point.interval,
            point.time,
        ]
        for point in points
    ]
    names = ("method", "memory", "accuracy", "interval", "train_time")
    has_edge = any(one["kind"] == "edge" for one in drawn)
    drawn = [one | key.name(one["title"]) for one in drawn]
    yield make(
        "pareto" if cost == "memory" else "speed",
        more=text("figures.edge") if has_edge else "",
        spec=charts.draw_pareto(drawn, domains=domains, key=key, text=text, cost=cost),
        header=[axes[name] for name in names],
        rows=lines,
    )


def _draw_panel(panel: Panel, text: Text, make: Any) -> Iterator[Figure]:
    """Draw accuracy over memory and over train time: methods differ in colour, models in shape."""
    looks = {
        title: (method, panel.models[title] or text("models.no_model"))
        for title, method in panel.titles.items()
    }
    key = Key({row.title: row.baseline and not row.as_it_is for row in panel.rows}, text, models=looks)
    yield from _draw_pareto(panel.rows, key, text, make)
    yield from _draw_pareto(panel.rows, key, text, make, cost="seconds")


def _draw_sizes(rows: Sequence[Row], evidence: Evidence, text: Text, make: Any) -> Iterator[Figure]:
    """Draw the learning curve whose table this is: a line for each method that has several sizes."""
    axes, models = text.under("figures.axes"), name_models(evidence.tasks, text)
    for curve in evidence.curves:
        named = dict(zip(name_methods(curve, models, text), curve.methods, strict=True))
        if not any(rows[0].task == row.task for method in named.values() for row in method.rows.values()):
            continue
        points = [
            {"title": title, "labels": size, **_place_size(row, text)}
            for title, method in named.items()
            for size, row in method.rows.items()
            if row.accuracy and not row.has_random_weights and not row.is_untrained
        ]
        if len({point["labels"] for point in points}) < 2:
            continue
        key = Key(
            {
                title: method.largest.baseline and not method.largest.as_it_is
                for title, method in named.items()
            },
            text,
        )
        names = ("method", "labels", "accuracy", "interval")
        yield make(
            "sizes",
            spec=charts.draw_sizes(points, key=key, text=text),
            header=[axes[name] for name in names],
            rows=[
                [
                    point["title"],
                    str(point["labels"]),
                    format_known(point["accuracy"], _TENTHS),
                    point["interval"],
                ]
                for point in points
            ],
        )


def _place_size(row: Row, text: Text) -> dict[str, Any]:
    """Return where a mark of a learning curve stands, in percent."""
    accuracy = row.accuracy.mean if row.accuracy else 0.0
    low, high = (row.interval.low, row.interval.high) if row.interval else (accuracy, accuracy)
    over = row.interval and text(f"table.intervals.{row.interval.over}", low=100 * low, high=100 * high)
    return {
        "accuracy": to_percent(accuracy),
        "low": to_percent(low),
        "high": to_percent(high),
        "interval": over or text("unknown"),
    }


def _name_score(row: Row, text: Text) -> str:
    metric = text.name_metric(row.selection.select_by if row.selection else "accuracy")
    return text("figures.score", metric=metric)


def _draw_heatmaps(rows: Sequence[Row], text: Text, make: Any) -> Iterator[Figure]:
    axes, paths = text.under("figures.axes"), ("train.lr", "lora.r", "lora.alpha")
    for row in (one for one in rows if one.selection and len(one.budget.pivot) > 1):
        best: dict[tuple[float, ...], float] = {}
        for run, score in zip(row.selection.candidates, row.selection.scores, strict=True):  # type: ignore[union-attr]
            place = tuple(read_number(run, f"canonical_config.{path}") for path in paths)
            if None not in place:
                best[place] = max(score, best.get(place, 0.0))  # type: ignore[index,arg-type]
        cells: list[dict[str, Any]] = [
            {
                **dict(zip(("lr", "r", "alpha"), map(format_number, place), strict=True)),
                "score": to_percent(score),
            }
            for place, score in sorted(best.items())
        ]
        if cells:
            score = _name_score(row, text)
            yield make(
                "heatmap",
                part=row.title,
                spec=charts.draw_heatmap(cells, score=score, text=text),
                header=[axes["lr"], axes["r"], axes["alpha"], score],
                rows=[
                    [cell["lr"], cell["r"], cell["alpha"], format_known(cell["score"], _TENTHS)]
                    for cell in cells
                ],
            )


def _draw_effects(rows: Sequence[Row], key: Key, text: Text, make: Any) -> Iterator[Figure]:
    """Draw a figure for each hyperparameter in which a method's candidates differ."""
    axes, by_path = text.under("figures.axes"), dict[str, list[dict[str, Any]]]()
    varied = [row for row in rows if row.selection and (row.as_it_is or not row.baseline)]
    for row in varied:
        candidates = row.selection.candidates if row.selection else ()
        leaves = [flatten(candidate.canonical_config) for candidate in candidates]
        scores = row.selection.scores if row.selection else ()
        for path in sorted(set().union(*leaves)):
            values = [leaf.get(path) for leaf in leaves]
            if len(set(map(repr, values))) > 1 and path != "seed":
                by_path.setdefault(path, []).extend(
                    {"title": row.title, "raw": value, "score": to_percent(score)}
                    for value, score in zip(values, scores, strict=True)
                )
    for path, points in by_path.items():
        raw = sorted({repr(point["raw"]): point["raw"] for point in points}.values(), key=_order)
        shown = [
            {
                "title": point["title"],
                "value": clean(format_number(point["raw"])),
                "place": raw.index(point["raw"]),
                "score": point["score"],
            }
            for point in sorted(
                points, key=lambda point: (key.titles.index(point["title"]), _order(point["raw"]))
            )
        ]
        name, score = clean(path.rpartition(".")[2]), _name_score(varied[0], text)
        lines = []
        for title, value in dict.fromkeys((one["title"], one["value"]) for one in shown):
            same = [one["score"] for one in shown if (one["title"], one["value"]) == (title, value)]
            ends = (max(same), math.fsum(same) / len(same), min(same))
            lines.append([title, value, str(len(same)), *map(_TENTHS, ends)])
        header = [axes["method"], name, *(axes[one] for one in ("runs", "best", "mean", "worst"))]
        spec = charts.draw_effect(shown, name=name, score=score, key=key, text=text)
        yield make("effect", part=name, spec=spec, header=header, rows=lines)


def _order(value: Any) -> tuple[bool, float, str]:
    is_number = isinstance(value, int | float)
    return not is_number, float(value) if is_number else 0.0, str(value)


def _draw_curves(courses: Sequence[Course], key: Key, text: Text, make: Any) -> Iterator[Figure]:
    axes = text.under("figures.axes")
    for kind, name, factor in (("loss", "loss", 1), ("validation", "validation_accuracy", 100)):
        points, lines, steps = [], [], 1
        for course in courses:
            logged = [
                (row["step"], factor * row[name])
                for row in course.history
                if all(_is_number(row.get(known)) for known in ("step", name))
            ]
            if not logged:
                continue
            seed = str(read_seed(course.run))
            every = math.ceil(len(logged) / _MOST_STEPS)
            steps = max(steps, every)
            kept = [*logged[:-1:every], logged[-1]]
            place = {"title": course.row.title, "run": course.run.run_id, "seed": seed}
            points += [{**place, "step": step, "value": round(value, 5)} for step, value in kept]
            values = [value for _, value in logged]
            ends = (values[0], min(values), max(values), values[-1])
            best = ends[1] if kind == "loss" else ends[2]
            lines.append(
                [
                    place["title"],
                    course.run.run_id,
                    seed,
                    *(format_known(end, _THREE_DIGITS) for end in (ends[0], best, ends[3])),
                ]
            )
        if points:
            header = [axes[one] for one in ("method", "run", "seed", "first", "best", "last")]
            more = text("figures.thinned", step=steps) if steps > 1 else ""
            spec = charts.draw_curves(points, measure=kind, key=key, text=text)
            yield make(kind, more=more, spec=spec, header=header, rows=lines)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _draw_phases(rows: Sequence[Row], text: Text, make: Any) -> Iterator[Figure]:
    axes = text.under("figures.axes")
    kind = rows[0].memory_kind
    peak = PEAKS[kind].rpartition(".")[2] if kind else None
    seconds = {phase: f"time.{phase}_seconds" for phase in _PHASES}
    peaks = {"baseline": "memory.baseline_bytes", **{phase: f"memory.{phase}.{peak}" for phase in _PHASES}}
    for name, measure, paths in (("time", "seconds", seconds), ("memory", "memory", peaks if peak else {})):
        shown, lines = [], []
        for row in rows:
            runs = (
                [result for result in row.selection.results if stands_alone(result)] if row.selection else []
            )
            values = {phase: _measure(runs, path, measure) for phase, path in paths.items()}
            if any(value is not None for value in values.values()):
                shown += [
                    {
                        "title": row.title,
                        "phase": text(f"figures.phases.{phase}"),
                        "place": place,
                        "value": round(value, 4),
                    }
                    for place, (phase, value) in enumerate(values.items())
                    if value is not None
                ]
                lines.append([row.title, *(format_known(value, _HUNDREDTHS) for value in values.values())])
        if shown:
            titles = [line[0] for line in lines]
            spec = charts.draw_phases(shown, measure=measure, phases=list(paths), titles=titles, text=text)
            header = [
                f"{axes['method']} ({axes[measure]})",
                *(text(f"figures.phases.{phase}") for phase in paths),
            ]
            yield make(name, spec=spec, header=header, rows=lines)


def _measure(runs: Sequence[Result], path: str, measure: str) -> float | None:
    """Return mean seconds, or the highest peak in GiB; None unless every run has it."""
    values = [value for run in runs if (value := read_number(run, path)) is not None]
    if not values or len(values) < len(runs):
        return None
    return summarise(values).mean if measure == "seconds" else max(values) / GIB


def _draw_predicted(rows: Sequence[Row], key: Key, text: Text, make: Any) -> Iterator[Figure]:
    axes, points = text.under("figures.axes"), list[dict[str, Any]]()
    for row in rows:
        runs = (*row.selection.candidates, *row.selection.results) if row.selection else ()
        for run in {one.run_id: one for one in runs}.values():
            names = ("predicted_peak_bytes", "measured_peak_bytes", "error")
            predicted, measured, error = (read_number(run, f"prediction.{name}") for name in names)
            if predicted is not None and measured is not None and error is not None:
                numbers = {"predicted": round(predicted / GIB, 4), "measured": round(measured / GIB, 4)}
                place = {"kind": "point", "title": row.title, "run": run.run_id}
                points.append({**place, **numbers, "error": f"{100 * error:+.1f} %"})
    if points:
        ends = [point[name] for point in points for name in ("predicted", "measured")]
        diagonal = [{"kind": "diagonal", "measured": end, "predicted": end} for end in (min(ends), max(ends))]
        header = ("method", "run", "predicted", "measured", "error")
        lines = [
            [point["title"], point["run"], *(f"{point[name]:.2f}" for name in header[2:4]), point["error"]]
            for point in points
        ]
        spec = charts.draw_predicted([*diagonal, *points], key=key, text=text)
        yield make("predicted", spec=spec, header=[axes[name] for name in header], rows=lines)


def _draw_answers(answers: Sequence[Any], key: Key, text: Text, make: Any) -> Iterator[Figure]:
    axes = text.under("figures.axes")
    points: list[dict[str, Any]] = [
        {"title": one.row.title, "label": clean(label), "f1": to_percent(score)}
        for one in answers
        for label, score in zip(one.labels, score_labels(one), strict=True)
        if score is not None
    ]
    if points:
        labels = list(dict.fromkeys(point["label"] for point in points))
        scores = {(point["title"], point["label"]): point["f1"] for point in points}
        titles = list(dict.fromkeys(point["title"] for point in points))
        lines = [
            [label, *(format_known(scores.get((title, label)), _TENTHS) for title in titles)]
            for label in labels
        ]
        spec = charts.draw_f1(points, labels=labels, key=key, text=text)
        yield make("f1", spec=spec, header=[f"{axes['label']} ({axes['f1']})", *titles], rows=lines)
    for one in answers:
        if one.separator is not None:  # of several labels none takes the place of another
            continue
        counts = count_confusion(one)
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
            more = text("figures.fewer_labels", all=len(one.labels), shown=len(kept)) if cut else ""
            spec = charts.draw_confusion(cells, labels=names, text=text)
            header = [f"{axes['label']} \\ {axes['prediction']}", *names]
            yield make("confusion", part=one.row.title, more=more, spec=spec, header=header, rows=lines)
