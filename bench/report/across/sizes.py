"""How many labels: accuracy by train texts, from where on a method pays, and what more would bring."""

import math
from collections.abc import Mapping, Sequence

from bench.report.across.curve import TIMES, BreakEven, Curve, MethodCurve
from bench.report.blocks import Block, Paragraph, Section, Table
from bench.report.cells import UNKNOWN
from bench.report.language.text import Text
from bench.report.naming import name_data, name_models, name_row
from bench.report.numbers.evidence import Evidence
from bench.report.numbers.rows import ReportTask, Row


def describe_sizes(evidence: Evidence, *, text: Text) -> Section:
    """Tabulate each learning curve, and say what it shows of the labels that a method needs."""
    blocks = list[Block]()
    models = name_models(evidence.tasks, text)
    tasks = [curve.methods[0].largest.task for curve in evidence.curves]
    data = name_data(tasks, text, without=("train_rows", "train_size"))
    for curve, title in zip(evidence.curves, data, strict=True):
        rows = [row for method in curve.methods for row in method.rows.values()]
        names = dict.fromkeys(models[row.task] for row in rows if row.task in models)
        if len(names) == 1:
            title = text("heading.task", data=title, model=next(iter(names)))
        titles = name_methods(curve, models, text)
        blocks.append(
            Section(
                title,
                [
                    _tabulate(curve, titles, text),
                    *_tabulate_break_evens(curve, titles, text),
                    *_tabulate_forecasts(curve, titles, text),
                ],
            )
        )
    how = Paragraph(text("sizes.how"))
    return Section(text("sizes.title"), [how, *blocks] if blocks else [])


def name_methods(curve: Curve, models: Mapping[ReportTask, str], text: Text) -> list[str]:
    """Name the curve's methods, with their base models where there are several."""
    rows = [method.largest for method in curve.methods]
    if len({row.task.revision for row in rows if row.has_model}) < 2:
        return [row.title for row in rows]
    return [name_row(row, models, text).title for row in rows]


def _tabulate(curve: Curve, titles: Sequence[str], text: Text) -> Table:
    """Tabulate one curve, a row for each method and a column for each size."""
    header = [text("columns.method"), *(text("sizes.column", size=size) for size in curve.sizes)]
    lines = [
        [
            title,
            *(
                _say_accuracy(row, text) if (row := method.rows.get(size)) else UNKNOWN
                for size in curve.sizes
            ),
        ]
        for title, method in zip(titles, curve.methods, strict=True)
    ]
    return Table(header, lines, left=[0])


def _say_accuracy(row: Row, text: Text) -> str:
    """Write the accuracy with its interval, or why there is none."""
    if row.selection is None:
        return text(f"statuses.{row.status}")
    if row.has_random_weights:
        return UNKNOWN
    if row.is_untrained:
        return text("figures.untrained")
    if row.accuracy is None:
        return UNKNOWN
    here = text.format_percent(row.accuracy.mean)
    if row.interval is None:
        return here
    return text("sizes.cell", here=here, low=100 * row.interval.low, high=100 * row.interval.high)


def _tabulate_break_evens(curve: Curve, titles: Sequence[str], text: Text) -> list[Block]:
    """Tabulate from how many labels on each method is more accurate than each simpler one."""
    names = {method.largest.method: title for title, method in zip(titles, curve.methods, strict=True)}
    simpler = list(
        dict.fromkeys(even.simpler.method for method in curve.methods for even in method.break_evens)
    )
    if not simpler:
        return []
    lines = []
    for title, method in zip(titles, curve.methods, strict=True):
        cells = {even.simpler.method: _say_break_even(even, curve, text) for even in method.break_evens}
        if cells:
            lines.append([title, *(cells.get(name, "") for name in simpler)])
    header = [text("sizes.break_even.column"), *(names[name] for name in simpler)]
    return [Table(header, lines, left=[0]), Paragraph(text("sizes.break_even.how"))]


def _say_break_even(even: BreakEven, curve: Curve, text: Text) -> str:
    """Write the number of labels with its interval; ends beyond the sizes are told by the sizes."""
    least, most = curve.sizes[0], curve.sizes[-1]

    def say(labels: float) -> str:
        if math.isinf(labels):
            return text("sizes.break_even.beyond", most=most)
        return f"≤ {least}" if labels <= least else f"{_round(labels)}"

    here, low, high = say(even.labels), say(even.low), say(even.high)
    return here if here == low == high else text("sizes.break_even.cell", here=here, low=low, high=high)


def _round(labels: float) -> int:
    """Round to two digits, as no break-even is known better."""
    return int(float(f"{labels:.2g}"))


def _tabulate_forecasts(curve: Curve, titles: Sequence[str], text: Text) -> list[Block]:
    """Tabulate what more labels would bring the methods that are trained on them."""
    trained = [
        (title, method)
        for title, method in zip(titles, curve.methods, strict=True)
        if len(method.rows) > 1 and method.forecasts
    ]
    if not any(method.forecasts for _, method in trained):
        return []
    most = curve.sizes[-1]
    columns = (text("sizes.forecast.column", size=times * most, times=times) for times in TIMES)
    header = [text("columns.method"), text("sizes.column", size=most), *columns]
    lines = [
        [title, _say_accuracy(method.largest, text), *_list_forecasts(method, most, text)]
        for title, method in trained
    ]
    return [Table(header, lines, left=[0]), Paragraph(text("sizes.forecast.how"))]


def _list_forecasts(method: MethodCurve, most: int, text: Text) -> list[str]:
    if not method.forecasts or max(method.rows) != most:
        return [text("unknown")] * len(TIMES)
    return [
        text("sizes.cell", here=text.format_percent(one.estimate), low=100 * one.low, high=100 * one.high)
        for one in method.forecasts
    ]
