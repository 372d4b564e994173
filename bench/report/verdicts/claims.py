"""The article's claims beside what was measured: reproduced, not reproduced, undecided, or not comparable.

conf/report/article.yaml has the article's numbers and how far a measurement may deviate; here each claim is
compared with the results, or with nothing where these say nothing of the article.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.config.reporting import ArticleClaim, ArticleConfig
from bench.report.blocks import Block, Paragraph, Section, Table
from bench.report.cells import UNKNOWN, format_count, format_gib
from bench.report.language.text import Text
from bench.report.naming import Titles, name_kind, place
from bench.report.numbers.contrast import contrast, find_gap, group_rows, read_hardware
from bench.report.numbers.evidence import Evidence
from bench.report.numbers.rows import Row

VERDICTS = ("reproduced", "not_reproduced", "undecided", "not_comparable")


@dataclass(frozen=True)
class Measured:
    """What the results say on one claim."""

    value: float
    low: float  # of what the measurement allows; equal to high where it is exact
    high: float
    shown: str  # the two methods' numbers


@dataclass(frozen=True)
class Judgement:
    """One claim, held against the results of one table."""

    claim: ArticleClaim
    verdict: str  # one of VERDICTS
    measured: Measured | None
    reasons: Sequence[str]


def describe_claims(evidence: Evidence, *, titles: Titles, text: Text) -> Section:
    """Judge the article's claims in each table that has one of its methods."""
    article = evidence.report.article
    blocks = list[Block]()
    for group, rows in group_rows(evidence.rows).items():
        judgements = [judge(claim, rows, evidence, text) for claim in article.claims]
        if not any(_find(rows, one.method) for one in article.table):
            continue
        table = [
            [
                _quote(judgement.claim, rows, article, text),
                judgement.measured.shown if judgement.measured else UNKNOWN,
                text(f"claims.verdicts.{judgement.verdict}"),
                text("join.semicolon").join(judgement.reasons) or UNKNOWN,
            ]
            for judgement in judgements
        ]
        shown: list[Block] = [Table([*text.under("claims.columns").values()], table)]
        if group[0].model == article.model:
            shown.append(Paragraph(text("claims.article_parameters")))
        blocks += place(group, titles, shown)
    return Section(text("claims.title"), [Paragraph(text("claims.rule")), *blocks] if blocks else [])


def judge(claim: ArticleClaim, rows: Sequence[Row], evidence: Evidence, text: Text) -> Judgement:
    """Judge the claim by the rows of one table; a verdict needs the article's model, data and card."""
    article = evidence.report.article
    method = _find(rows, claim.method)
    against = _find(rows, claim.against) if claim.against else method
    lacking = [
        name for name, row in ((claim.method, method), (claim.against, against)) if name and row is None
    ]
    if method is None or against is None:
        reasons = [text("claims.reasons.no_run", method=name) for name in lacking]
        return Judgement(claim, "not_comparable", None, reasons)
    if untrained := {row.method: row.title for row in (method, against) if row.is_untrained}:
        reasons = [text("claims.reasons.untrained", method=title) for title in untrained.values()]
        return Judgement(claim, "not_comparable", None, reasons)
    measured = _measure(claim, method, against, evidence, text)
    reasons = _list_differences(claim, method, against, article, text)
    if isinstance(measured, str):
        return Judgement(claim, "not_comparable", None, [measured, *reasons])
    if reasons:
        return Judgement(claim, "not_comparable", measured, reasons)
    low = -math.inf if claim.bounds == "high" else claim.says - claim.tolerance
    high = math.inf if claim.bounds == "low" else claim.says + claim.tolerance
    if claim.measure == "train_time" and min(len(method.run_ids), len(against.run_ids)) < 2:
        return Judgement(claim, "undecided", measured, [text("claims.reasons.one_run")])
    if claim.measure == "accuracy" and 1 in (len(method.seeds), len(against.seeds)):
        return Judgement(claim, "undecided", measured, [text("claims.reasons.one_seed")])
    if low <= measured.low and measured.high <= high:
        return Judgement(claim, "reproduced", measured, [])
    if measured.high < low or high < measured.low:
        return Judgement(claim, "not_reproduced", measured, [])
    return Judgement(claim, "undecided", measured, [text("claims.reasons.across")])


def _find(rows: Sequence[Row], method: str | None) -> Row | None:
    return next((row for row in rows if row.method == method and row.selection), None)


def _list_differences(
    claim: ArticleClaim, method: Row, against: Row, article: ArticleConfig, text: Text
) -> list[str]:
    """List why the results say nothing of the article's claim."""
    task, hardware, reasons = method.task, read_hardware(method), list[str]()
    if claim.measure == "memory" and method.memory_kind != "cuda":
        reasons.append(text("claims.reasons.not_gpu_memory"))
    if claim.measure == "accuracy" and (method.has_random_weights or against.has_random_weights):
        reasons.append(text("claims.reasons.random_weights"))
    if "model" in claim.needs and task.model != article.model:
        reasons.append(text("claims.reasons.model", here=str(task.model), there=article.model))
    if "data" in claim.needs and task.data not in article.data:
        reasons.append(text("claims.reasons.data", here=task.data))
    if "card" in claim.needs and article.card not in (hardware or ""):
        here = hardware or text("unknown")
        reasons.append(text("claims.reasons.card", here=here, there=article.card))
    return reasons


def _measure(
    claim: ArticleClaim, method: Row, against: Row, evidence: Evidence, text: Text
) -> Measured | str:
    """Return what the results say, or why they say nothing."""
    names = {"one": method.title, "other": against.title}
    if claim.measure == "trainable":
        trainable, total = method.trainable_parameters, method.total_parameters
        if trainable is None or not total:
            return text("claims.no_contrast.unknown")
        counts = {"trainable": format_count(trainable), "total": format_count(total)}
        share = trainable / total
        return Measured(
            share, share, share, text("claims.measured.trainable", share=100 * share, **counts, **names)
        )
    if claim.measure == "accuracy":
        gap = find_gap(method, against, evidence.comparisons)
        if gap is None:
            return text("claims.reasons.not_paired")
        if gap.low is None or gap.high is None:
            return text("claims.reasons.too_few_apart")
        points = {"points": 100 * gap.estimate, "low": 100 * gap.low, "high": 100 * gap.high}
        shown = text("claims.measured.accuracy", **points, texts=gap.comparison.rows, **names)
        return Measured(gap.estimate, gap.low, gap.high, shown)
    contrasted = contrast(method, against, claim.measure)
    if isinstance(contrasted, str):
        return text(f"claims.no_contrast.{contrasted}")
    write = format_gib if claim.measure == "memory" else text.format_duration
    numbers = {
        "percent": 100 * contrasted.change,
        "here": write(contrasted.values[0]),
        "there": write(contrasted.values[1]),
    }
    kind = name_kind(method.memory_kind, text)
    shown = text(f"claims.measured.{claim.measure}", **numbers, kind=kind, **names)
    return Measured(contrasted.change, contrasted.low, contrasted.high, shown)


def _quote(claim: ArticleClaim, rows: Sequence[Row], article: ArticleConfig, text: Text) -> str:
    """Quote the claim with the article's own numbers and what counts as reproducing it."""
    table = {one.method: one for one in article.table}
    one, other = table[claim.method], table[claim.against or claim.method]
    titles = {row.method: row.title for row in rows}
    numbers = {
        "memory": (one.memory_gb, other.memory_gb),
        "accuracy": (100 * one.accuracy, 100 * other.accuracy),
        "train_time": (one.train_hours, other.train_hours),
        "trainable": (format_count(one.trainable_parameters), ""),
    }
    low, high = (
        text(f"claims.bound.{claim.measure}", percent=100 * (claim.says + sign * claim.tolerance))
        for sign in (-1, 1)
    )
    return text(
        f"claims.claims.{claim.measure}",
        one=titles.get(one.method, one.method),
        other=titles.get(other.method, other.method),
        says=100 * claim.says,
        here=numbers[claim.measure][0],
        there=numbers[claim.measure][1],
        counts=text(f"claims.bounds.{claim.bounds}", low=low, high=high),
    )
