"""The section of table.md with what a method's seeds answer together, by the mean of their probabilities."""

from collections.abc import Mapping, Sequence
from itertools import groupby

from bench.config.cards import GIB
from bench.config.schema import MULTI_LABEL
from bench.report.blocks import Block, Bullet, Bullets, Section, Table
from bench.report.language.text import Text
from bench.report.naming import Titles, name_unit, place
from bench.report.numbers.evidence import Evidence, Latency
from bench.report.numbers.rows import Row, Together
from bench.report.sections.methods import say_points
from bench.report.sections.probabilities import say_number, say_percent

_COMMAND = "bench latency best:METHOD --seeds"


def describe_together(evidence: Evidence, *, titles: Titles, text: Text) -> Section:
    """Tabulate each method's seeds as one classifier, beside the mean of the seeds alone."""
    blocks, several = list[Block](), False
    measured = {frozenset(found["run_ids"]): found for _, found in evidence.latencies if found.get("run_ids")}
    for key, same in groupby(evidence.rows, key=lambda row: (row.task, row.memory_kind)):
        joined = [(row, row.together) for row in same if row.together and not row.is_untrained]
        if joined:
            several |= any(one.several for _, one in joined)
            blocks += place(key, titles, [_tabulate(joined, measured, text)])
    cost = Bullet(text("together.cost", command=_COMMAND), command=_COMMAND)
    thresholds = [Bullet(text("together.thresholds"))] * several
    how = Bullets([Bullet(text("together.how")), *thresholds, cost])
    return Section(text("together.title"), [*blocks, how] if blocks else [])


def _tabulate(
    joined: Sequence[tuple[Row, Together]], measured: Mapping[frozenset[str], Latency], text: Text
) -> Table:
    lines = []
    for row, one in joined:
        low, high = 100 * one.interval.low, 100 * one.interval.high
        lines.append(
            [
                text("together.row", title=row.title, count=one.seeds),
                text("probabilities.percent", value=100 * one.accuracy, low=low, high=high),
                say_points(one.gain, text),
                text.format_percent(one.f1_macro),
                *_say_worth(one, text),
                *_say_costs(measured.get(frozenset(row.run_ids)), text),
            ]
        )
    columns = text.under("together.several") if joined[0][1].several else text.under("together.columns")
    return Table([*columns.values()], lines, left=[0], has_cards=True)


def _say_worth(one: Together, text: Text) -> list[str]:
    """Say what the probabilities are worth, or where texts may have several labels the scores of these."""
    if one.calibration is None:
        return [text.format_percent(one.several[name]) for name in MULTI_LABEL]
    estimates = one.calibration.estimates
    return [
        say_percent(estimates["ece"], text),
        say_number(estimates["brier"], text),
        say_percent(estimates["tempered_ece"], text),
    ]


def _say_costs(found: Latency | None, text: Text) -> list[str]:
    """Say the peak memory while answering, and the milliseconds of a text alone, if they were measured."""
    if found is None:
        return [text("together.not_measured")] * 2
    memory = found.get("memory") or {}
    peak, unit = memory.get("peak_bytes"), name_unit(memory.get("kind"), text)
    alone = next((form["p50_ms"] for form in found["forms"] if form["batch_size"] == 1), None)
    return [
        text("unknown") if peak is None else text("together.memory", gib=peak / GIB, unit=unit),
        text("unknown") if alone is None else text("together.latency", ms=alone),
    ]
