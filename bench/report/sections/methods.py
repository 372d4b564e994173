"""The sections below the tables: comparisons of methods, the search's budget, and r against alpha."""

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

from bench.report.across.choices import SCORES
from bench.report.across.models import judge, list_panels
from bench.report.blocks import Bar, Block, Cell, Paragraph, Section, Table, make_bullets
from bench.report.cells import UNKNOWN, format_known, format_number, round_six, to_csv
from bench.report.language.text import Text
from bench.report.naming import Titles, name_models, name_row, place, say_needs
from bench.report.numbers.columns import list_scores
from bench.report.numbers.comparison import FEWEST_DISCORDANT, Comparison, count_looks
from bench.report.numbers.evidence import Evidence
from bench.report.numbers.health import DataHealth
from bench.report.numbers.rows import ReportTask, Row
from bench.report.numbers.statistics import Difference, expect_best
from bench.report.tabulate import name_score, say_interval, say_score

_MOST_PAIRS = 15  # all of five methods and a baseline; the rest is in comparisons.csv
_MARKS = {"difference": "disc", "one_seed": "diamond", "equal": "square", "undecided": "ring"}
_HOW = "docs/statistics.md"
_DRAWS = (1, 3)
_COMPARISON_COLUMNS = (
    *("data", "model", "memory_kind", "method", "other_method", "test_texts"),
    *("accuracy_difference", "accuracy_low", "accuracy_high"),
    *("f1_macro_difference", "f1_macro_low", "f1_macro_high"),
    *("texts_told_apart", "discordant_share", "standard_error_texts", "standard_error_seeds"),
    *("p", "p_holm", "detectable_difference", "verdict"),
    *("equivalence_margin", "p_equivalence", "p_equivalence_holm"),
    *("decided_by", "deciding_texts", "deciding_seeds"),
)


def describe_comparisons(evidence: Evidence, *, titles: Titles, text: Text) -> Section:
    """Say of each two methods of a table whether they differ, as a forest plot where one can be drawn."""
    blocks = list[Block]()
    for split, panel in list_panels(evidence, text).items():
        shown = panel.across
        if len(shown) > _MOST_PAIRS:
            shown = [one for one in shown if judge(panel.gaps[one.one.title]) != "less"]
        hidden = len(panel.across) - len(shown)
        said = make_bullets([text("models.further", count=hidden)] * bool(hidden))
        if panel.across:
            blocks += place(split, titles, [*([_tabulate(shown, text)] if shown else []), said])
    within = [pair for pair in evidence.comparisons if not pair.is_across]
    for key, compared in groupby(within, key=lambda pair: (pair.one.task, pair.one.memory_kind)):
        members = list(compared)
        shown = members if len(members) <= _MOST_PAIRS else _with_leader(members)
        further = [text("comparisons.further", count=len(members) - len(shown))] * (len(shown) < len(members))
        blocks += place(key, titles, [_tabulate(shown, text), make_bullets(further)])
    blocks.append(
        make_bullets(
            text("comparisons.left_out", title=one.row.title, reason=one.reason) for one in evidence.left_out
        )
    )
    if untrained := [row for row in evidence.rows if row.is_untrained]:
        models = name_models(evidence.tasks, text)
        if len({row.task.revision for row in evidence.rows} - {None}) > 1:
            untrained = [name_row(row, models, text) for row in untrained]
        titles_of = text.join(list(dict.fromkeys(row.title for row in untrained)))
        blocks.append(make_bullets([text("comparisons.untrained", titles=titles_of)]))
    if evidence.comparisons:
        texts = text("join.or").join(
            map(str, sorted({comparison.rows for comparison in evidence.comparisons}))
        )
        count, points = len(evidence.comparisons), text.format_points(evidence.report.delta)
        how = text("comparisons.how", texts=texts, count=count, points=points, page=_HOW)
        blocks.append(Paragraph(how, command=_HOW, link=evidence.docs and f"{evidence.docs}/statistics.md"))
        if (looks := count_looks(evidence.rows)) > 1:
            blocks.append(Paragraph(text("comparisons.looks", count=looks)))
        p_values = [
            comparison.detectable for comparison in evidence.comparisons if comparison.detectable is not None
        ]
        if p_values:
            ends = dict.fromkeys(f"{100 * end:.1f}" for end in (min(p_values), max(p_values)))
            blocks.append(Paragraph(text("comparisons.detectable", points=text("join.to").join(ends))))
    return Section(text("comparisons.title"), blocks)


def _tabulate(compared: Sequence[Comparison], text: Text) -> Table:
    """Tabulate each pair with its difference, which the page draws, and its verdict in words."""
    differences = [one.accuracy for one in compared]
    known = (
        end
        for difference in differences
        for end in (difference.estimate, difference.low, difference.high)
        if end is not None
    )
    ends = [0.0, *known]
    ticks, rows = _choose_ticks(100 * min(ends), 100 * max(ends)), list[list[Cell]]()
    for one, found in zip(compared, differences, strict=True):
        bar = Bar(
            text=say_points(found, text),
            estimate=100 * found.estimate,
            interval=None if found.low is None or found.high is None else (100 * found.low, 100 * found.high),
            ticks=ticks,
            mark=_MARKS[one.verdict],
            band=100 * one.delta,
        )
        pair = text("comparisons.pair", one=one.one.title, other=one.other.title)
        rows.append([pair, bar, say_verdict(one, text)])
    header = [*text.under("comparisons.columns").values()]
    legend = text("comparisons.legend", points=text.format_points(compared[0].delta))
    return Table(header, rows, legend=legend, has_cards=True)


def _choose_ticks(low: float, high: float) -> list[float]:
    """Return the round numbers of an axis that holds both ends and 0, at most eight."""
    steps = (step * 10.0**power for power in range(-1, 2) for step in (1, 2, 5))
    step = next((one for one in steps if high - low <= 6 * one), 50.0)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(step * place, 1) for place in range(first, max(last, first + 1) + 1)]


def describe_budgets(rows: Sequence[Row], *, titles: Titles, text: Text) -> Section:
    """Tabulate what each method's best configuration was chosen from, and the best of equally many draws."""
    blocks = list[Block]()
    names = text.under("budget.columns")
    for key, same in groupby(rows, key=lambda row: (row.task, row.memory_kind)):
        members = list(same)
        counts = [len(row.budget.scores) for row in members if row.budget.scores and not row.baseline]
        common = min(counts, default=1)
        draws = sorted({*_DRAWS, common} & set(range(1, max(counts, default=1) + 1)))
        header = [names[name] for name in ("method", "configurations", "failed")]
        stopped = any(row.budget.stopped for row in members)
        untried = any(row.budget.untried for row in members)
        header += [names["stopped"]] * stopped + [names["untried"]] * untried + [names["seconds"]]
        for count in draws:
            column = text("budget.columns.draws", draws=count)
            header.append(text("budget.common", column=column) if count == common else column)
        lines = [_count(row, draws=draws, stopped=stopped, untried=untried, text=text) for row in members]
        blocks += place(key, titles, [Table([*header, names["all"]], lines, left=[0])])
    how = Paragraph(text("budget.how", metric=_name_metric(rows, text)))
    return Section(text("budget.title"), [how, *blocks] if blocks else [])


def _count(row: Row, *, draws: Sequence[int], stopped: bool, untried: bool, text: Text) -> list[str]:
    budget = row.budget
    duration = text.format_duration(budget.seconds)
    spent = text("budget.at_least", duration=duration) if budget.untimed else duration
    scores = [expect_best(budget.scores, count) for count in (*draws, len(budget.scores))]
    return [
        row.title,
        str(budget.configurations),
        str(budget.failed),
        *([str(budget.stopped)] * stopped),
        *([str(budget.untried)] * untried),
        spent if budget.untimed < row.runs else UNKNOWN,
        *(format_known(score, text.format_percent) for score in scores),
    ]


def describe_choices(evidence: Evidence, *, text: Text) -> Section:
    """Tabulate what each value of a setting brings a method: its best on validation, and that one's test."""
    blocks = list[Block]()
    for choice in evidence.choices:
        names = list_scores(choice.rows, list(dict.fromkeys([*SCORES, *evidence.report.columns])))
        columns = text.under("choices.columns")
        columns["validation"] = text("choices.columns.validation", metric=_name_metric(choice.rows, text))
        header = [*columns.values(), *(name_score(name, text) for name in names)]
        lines = [
            [
                value,
                f"{row.runs}/{row.failed_runs}",
                str(len(row.seeds) or UNKNOWN),
                format_known(row.validation, text.format_percent),
                format_known(row.accuracy.mean if row.accuracy else None, text.format_percent),
                say_interval(row, text) or UNKNOWN,
                format_known(row.f1_macro.mean if row.f1_macro else None, text.format_percent),
                *(say_score(row, name, text) for name in names),
            ]
            for value, row in zip(choice.values, choice.rows, strict=True)
        ]
        said = text("choices.method", title=choice.title, data=choice.rows[0].task.data, setting=choice.axis)
        blocks += [Paragraph(said), Table(header, lines, left=[0])]
    return Section(text("choices.title"), [Paragraph(text("choices.how")), *blocks] if blocks else [])


def describe_pivots(rows: Sequence[Row], *, titles: Titles, text: Text) -> Section:
    """Tabulate the best validation score of each r and alpha, for each method that varied them."""
    blocks = list[Block]()
    for key, same in groupby(rows, key=lambda row: (row.task, row.memory_kind)):
        tables = list[Block]()
        for row in same:
            if len(row.budget.pivot) < 2:
                continue
            ranks, alphas = (sorted(set(values)) for values in zip(*row.budget.pivot, strict=True))
            lines = [
                [
                    format_number(r),
                    *(format_known(row.budget.pivot.get((r, a)), text.format_percent) for a in alphas),
                ]
                for r in ranks
            ]
            tables.append(Paragraph(text("pivots.method", title=row.title)))
            tables.append(Table([text("pivots.corner"), *map(format_number, alphas)], lines, left=[]))
        if tables:
            blocks += place(key, titles, tables)
    title = text("pivots.title", metric=_name_metric(rows, text))
    return Section(title, [Paragraph(text("pivots.how")), *blocks] if blocks else [])


def describe_health(task: ReportTask, text: Text) -> str:
    """Describe the task's data as its records do; return nothing if they say nothing."""
    parts = list(_list_health(task.health, text, multi_label=task.multi_label))
    return text("notes.health", data=task.data, parts=text("join.semicolon").join(parts)) if parts else ""


def _list_health(health: DataHealth, text: Text, *, multi_label: bool) -> Iterator[str]:
    conflicting = "conflicting_sets" if multi_label else "conflicting"
    for name, count in (("leaked", health.leaked), (conflicting, health.conflicting)):
        if count is not None:
            yield text(f"notes.{name}.some", count=count) if count else text(f"notes.{name}.none")
    if health.imbalance is not None:
        yield text("notes.imbalance", ratio=health.imbalance)
    if health.truncated is not None:
        yield text("notes.truncated", share=100 * health.truncated)
    if health.windowed is not None:
        yield text("notes.windowed", share=100 * health.windowed)


def render_comparisons(comparisons: Sequence[Comparison]) -> str:
    """Write comparisons.csv: every comparison and all that its verdict rests on, by names for machines.

    If there are comparisons of two base models, a last column has the other method's.
    """
    has_models, lines = any(one.is_across for one in comparisons), []
    for comparison in comparisons:
        lines.append(
            [
                *(comparison.one.task.data, comparison.one.task.model, comparison.one.memory_kind),
                *(comparison.one.title, comparison.other.title, comparison.rows),
                *map(
                    round_six,
                    (comparison.accuracy.estimate, comparison.accuracy.low, comparison.accuracy.high),
                ),
                *map(
                    round_six,
                    (comparison.f1_macro.estimate, comparison.f1_macro.low, comparison.f1_macro.high),
                ),
                comparison.told_apart,
                *map(round_six, (comparison.discordant, comparison.error_texts, comparison.error_seeds)),
                *map(round_six, (comparison.p_value, comparison.adjusted_p, comparison.detectable)),
                comparison.verdict,
                *map(round_six, (comparison.delta, comparison.equal_p, comparison.adjusted_equal_p)),
                *((needs.kind, needs.texts, needs.seeds) if (needs := comparison.needs) else (None,) * 3),
                *([comparison.other.task.model] * has_models),
            ]
        )
    return to_csv([*_COMPARISON_COLUMNS, *(["other_model"] * has_models)], lines)


def say_verdict(comparison: Comparison, text: Text) -> str:
    """Say what a comparison shows, and what would decide where it shows nothing."""
    if comparison.is_alike:
        return text("comparisons.alike")
    needs = say_needs(comparison.needs, text) if comparison.needs else ""
    if needs and comparison.told_apart < FEWEST_DISCORDANT:
        return text("comparisons.too_few", count=comparison.told_apart, needs=needs)
    better = comparison.one if comparison.accuracy.estimate > 0 else comparison.other
    verdict = "slight" if comparison.is_slight else comparison.verdict
    points = text.format_points(comparison.delta)
    return text(f"comparisons.verdicts.{verdict}", title=better.title, points=points, needs=needs)


def say_points(difference: Difference, text: Text) -> str:
    """Write the difference in points with its interval, if it has one."""
    if difference.low is None or difference.high is None:
        return _points(difference.estimate)
    ends = (_points(value) for value in (difference.estimate, difference.low, difference.high))
    return text("comparisons.points", **dict(zip(("estimate", "low", "high"), ends, strict=True)))


def _points(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f}"  # + 0.0: never -0.0


def _with_leader(members: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons with the method that has the best validation score."""
    rows = {one.method: one for pair in members for one in (pair.one, pair.other)}
    leader = max(rows.values(), key=lambda row: row.validation or 0.0)
    return [pair for pair in members if leader in (pair.one, pair.other)]


def _name_metric(rows: Sequence[Row], text: Text) -> str:
    return text.name_metric(next((row.selection.select_by for row in rows if row.selection), "accuracy"))
