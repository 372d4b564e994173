"""The section of table.md that says how far each method's probabilities can be trusted."""

import statistics
from collections.abc import Sequence
from itertools import groupby

from bench.report.blocks import Block, Bullet, Bullets, Paragraph, Section, Table, make_bullets
from bench.report.cells import UNKNOWN, clean
from bench.report.language.text import Text
from bench.report.naming import Titles, place
from bench.report.numbers.calibration import BINS, Coverage, Estimate, Reliability
from bench.report.numbers.evidence import Evidence
from bench.results.confidence import LEVEL

_HOW = "docs/statistics.md"
_COMMAND = "bench classify --min-accuracy"


def describe_probabilities(evidence: Evidence, *, titles: Titles, text: Text) -> Section:
    """Tabulate calibration error, Brier score and coverage of each method whose predictions are there."""
    blocks, sizes = list[Block](), set[int]()
    for key, same in groupby(evidence.rows, key=lambda row: (row.task, row.memory_kind)):
        members = list(same)
        known = [(row.title, row.calibration) for row in members if row.calibration]
        if not known:
            continue
        sizes |= {calibration.texts for _, calibration in known}
        unknown = [
            text("probabilities.unknown", title=row.title, reason=clean(row.unknown["calibration"]))
            for row in members
            if "calibration" in row.unknown
        ]
        tables: list[Block] = [
            _tabulate(known, text),
            _tabulate_coverages(known, text),
            make_bullets(unknown),
        ]
        blocks += place(key, titles, tables)
    texts = text("join.or").join(map(str, sorted(sizes)))
    notes = [
        Bullet(text("probabilities.ece", bins=BINS, texts=texts)),
        Bullet(text("probabilities.brier")),
        Bullet(text("probabilities.temperature")),
        Bullet(text("probabilities.coverage", level=100 * LEVEL, command=_COMMAND), command=_COMMAND),
    ]
    how = Paragraph(
        text("probabilities.how", page=_HOW),
        command=_HOW,
        link=evidence.docs and f"{evidence.docs}/statistics.md",
    )
    return Section(text("probabilities.title"), [*blocks, Bullets(notes), how] if blocks else [])


def _tabulate(known: Sequence[tuple[str, Reliability]], text: Text) -> Table:
    lines = []
    for title, calibration in known:
        temperatures = [one for one in calibration.temperatures if one is not None]
        estimates = calibration.estimates
        tempered = [
            say_percent(estimates["tempered_ece"], text),
            say_number(estimates["tempered_brier"], text),
        ]
        lines.append(
            [
                title,
                say_percent(estimates["ece"], text),
                say_number(estimates["brier"], text),
                f"{statistics.fmean(temperatures):.2f}" if temperatures else UNKNOWN,
                *(tempered if temperatures else [UNKNOWN] * len(tempered)),
            ]
        )
    return Table([*text.under("probabilities.columns").values()], lines, left=[0], has_cards=True)


def _tabulate_coverages(known: Sequence[tuple[str, Reliability]], text: Text) -> Table:
    """Tabulate what each method answers at each wished accuracy, and how much of it is right."""
    wished = [one.wished for one in known[0][1].coverages]
    header = [text("columns.method"), *(text("probabilities.wished", percent=100 * one) for one in wished)]
    lines = [
        [title, *(_say_coverage(one, len(calibration.temperatures), text) for one in calibration.coverages)]
        for title, calibration in known
    ]
    return Table(header, lines, left=[0], has_cards=True)


def _say_coverage(coverage: Coverage, seeds: int, text: Text) -> str:
    if coverage.seeds == 0:
        return text("probabilities.no_threshold")
    if coverage.accuracy is None:
        return text.format_percent(coverage.share)
    shares = {"here": text.format_percent(coverage.share), "right": text.format_percent(coverage.accuracy)}
    if coverage.seeds < seeds:
        return text("probabilities.answered_by_some", **shares, count=coverage.seeds, seeds=seeds)
    return text("probabilities.answered", **shares)


def say_percent(estimate: Estimate, text: Text) -> str:
    """Write the estimate in percent, with its interval."""
    low, high = 100 * estimate.low, 100 * estimate.high
    return text("probabilities.percent", value=100 * estimate.value, low=low, high=high)


def say_number(estimate: Estimate, text: Text) -> str:
    """Write the estimate as it is, with its interval."""
    return text("probabilities.number", value=estimate.value, low=estimate.low, high=estimate.high)
