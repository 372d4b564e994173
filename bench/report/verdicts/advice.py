"""The advice of `bench recommend`: what to take and why, each method's numbers, the article's advice."""

from collections.abc import Iterator, Sequence

from bench.config.reporting import ArticleAdvice
from bench.report.blocks import Block, Bullets, Paragraph, Section, Table, make_bullets
from bench.report.cells import UNKNOWN, format_gib, format_known
from bench.report.language.text import Text
from bench.report.naming import (
    join_hyperparameters,
    join_titles,
    name_columns,
    name_kind,
    say_edges,
    say_empty,
    say_needs,
    title_tasks,
)
from bench.report.numbers.contrast import AccuracyGap, Group, find_gap, read_hardware
from bench.report.numbers.equivalence import merge_needs
from bench.report.numbers.evidence import Evidence
from bench.report.numbers.rows import Row
from bench.report.verdicts.answer import most_accurate
from bench.report.verdicts.recommend import Read, Recommendation, TrainingLimits, recommend


def describe_advice(
    evidence: Evidence, read: Read, *, limits: TrainingLimits, text: Text
) -> tuple[list[Block], bool]:
    """Return the advice, and whether anything fits the limits."""
    advice = recommend(evidence.results, read, limits=limits, delta=evidence.report.delta, text=text)
    headings = title_tasks([row.task for row in evidence.rows], text)
    blocks = list[Block]()
    for group, value in advice.items():
        said = make_bullets(_explain(group, value, limits, text))
        if value.chosen and value.chosen.edges:
            said = Bullets([*said.items, say_edges(value.chosen, text)])
        tables = (_tabulate(group, value, text), _compare_with_article(group, evidence, read, text))
        blocks.append(Section(headings[group[0]], [said, *tables]))
    if not advice:
        blocks.append(say_empty(text))
    if evidence.imported:
        blocks.append(Paragraph(text("advice.imports_left_out", count=len(evidence.imported))))
    return blocks, any(one.chosen for one in advice.values())


def _explain(group: Group, advice: Recommendation, limits: TrainingLimits, text: Text) -> list[str]:
    """Say what to take and why, a line each."""
    chosen = advice.chosen
    lines = [text("advice.budget", limits=_say_limits(limits, text), kind=name_kind(group[1], text))]
    if group[1] == "cpu_resident":
        lines.append(text("advice.resident"))
    if chosen is None:
        nearest = advice.rejected[0] if advice.rejected else None
        names = {"title": nearest[0].title, "reason": nearest[1]} if nearest else {}
        return [*lines, text("advice.nothing_fits"), *([text("advice.nearest", **names)] if nearest else [])]
    title = chosen.title
    numbers, settings = _say_numbers(chosen, text), join_hyperparameters(chosen, text)
    if chosen.hyperparameters:
        lines.append(text("advice.take_with", title=title, settings=settings, numbers=numbers))
    else:
        lines.append(text("advice.take", title=title, numbers=numbers))
    lines += _say_why(advice, text)
    if chosen.has_random_weights:
        return lines
    if len(chosen.seeds) == 1:
        lines.append(text("advice.one_seed", title=title))
    interval = chosen.interval
    if limits.min_accuracy is not None and interval and interval.low < limits.min_accuracy:
        lines.append(text("advice.floor_unsure", low=100 * interval.low, limit=100 * limits.min_accuracy))
    if advice.baseline:
        names = {"baseline": advice.baseline.title, "title": title}
        lines.append(text("advice.baseline", numbers=_say_numbers(advice.baseline, text), **names))
    return lines


def _say_why(advice: Recommendation, text: Text) -> list[str]:
    """Say why to take this method before the others that fit, a line each."""
    chosen = advice.chosen
    assert chosen is not None
    title = chosen.title
    others = [row for row in advice.fitting if row is not chosen and row.baseline == chosen.baseline]
    if not others:
        return [text("advice.only_one", title=title)]
    if chosen.has_random_weights:
        return [text("advice.random", title=title)]
    if len(advice.same) > 1:
        best, *others = advice.same
        gaps = [gap for row in others if (gap := find_gap(best, row, advice.comparisons))]
        return [*_say_same(best, gaps, text), text("advice.least", title=title)]
    gaps = [gap for row in others if (gap := find_gap(chosen, row, advice.comparisons))]
    if len(gaps) == len(others) and all(gap.comparison.needs is None for gap in gaps):
        return [text("advice.more_accurate", title=title, titles=join_titles(others, text))]
    return [text("advice.not_compared", title=title, titles=join_titles(others, text))]


def _say_same(best: Row, gaps: Sequence[AccuracyGap], text: Text) -> Iterator[str]:
    """Say which methods equal the most accurate one, and of which that is undecided."""
    if equal := [gap.other for gap in gaps if gap.comparison.verdict == "equal"]:
        points = text.format_points(gaps[0].comparison.delta)
        yield text("advice.equal", best=best.title, titles=join_titles(equal, text), points=points)
    if undecided := [gap for gap in gaps if gap.comparison.needs]:
        needs = merge_needs([gap.comparison.needs for gap in undecided if gap.comparison.needs])
        titles = join_titles([best, *(gap.other for gap in undecided)], text)
        yield text("advice.undecided", titles=titles, needs=say_needs(needs, text))


def _say_limits(limits: TrainingLimits, text: Text) -> str:
    said = [text("advice.at_most_memory", gib=limits.vram_gib)]
    if limits.max_seconds is not None:
        said.append(text("advice.at_most_time", duration=text.format_duration(limits.max_seconds)))
    if limits.min_accuracy is not None:
        said.append(text("advice.at_least", percent=100 * limits.min_accuracy))
    return text("join.comma").join(said)


def _say_numbers(row: Row, text: Text) -> str:
    """Join memory, time and accuracy; leave out the scores of random weights."""
    peak, seconds = row.peak_memory_bytes, row.train_seconds
    said = [f"{format_gib(peak)} GiB"] if peak is not None else []
    said += [text.format_duration(seconds)] if seconds is not None else []
    if row.accuracy and not row.has_random_weights:
        said.append(text("advice.accuracy", percent=100 * row.accuracy.mean))
    return text("join.comma").join(said) or UNKNOWN


def _tabulate(group: Group, advice: Recommendation, text: Text) -> Table:
    """Tabulate every method: the recommended one, those that fit, those that do not and why."""
    names = ("method", "hyperparameters", "memory", "train_time", "accuracy")
    header = name_columns(group[1], text)
    ordered = sorted(advice.fitting, key=lambda row: row is not advice.chosen)
    verdicts = [
        (row, text("advice.chosen") if row is advice.chosen else text("advice.fits")) for row in ordered
    ]
    lines = []
    for row, verdict in [*verdicts, *advice.rejected]:
        known = row.selection is not None
        shown = row.accuracy.mean if row.accuracy and not row.has_random_weights else None
        lines.append(
            [
                row.title,
                join_hyperparameters(row, text) if known else UNKNOWN,
                format_known(row.peak_memory_bytes, format_gib),
                format_known(row.train_seconds, text.format_duration),
                format_known(shown, text.format_percent),
                verdict,
            ]
        )
    return Table([*(header[name] for name in names), text("advice.verdict")], lines, left=(0, 1, 5))


def _compare_with_article(group: Group, evidence: Evidence, read: Read, text: Text) -> Table:
    """Tabulate the article's recommendations beside what the results say."""
    article = evidence.report.article
    rows = [row for row in evidence.rows if (row.task, row.memory_kind) == group and row.selection]
    titles = {row.method: row.title for row in rows}
    lines = [
        [
            text(f"advice.cases.{one.case}", gb=one.memory_gb),
            titles.get(one.method, one.method),
            _answer(one, group, rows, evidence, read, text),
        ]
        for one in article.advice
    ]
    return Table([*text.under("advice.columns").values()], lines)


def _answer(
    advice: ArticleAdvice, group: Group, rows: Sequence[Row], evidence: Evidence, read: Read, text: Text
) -> str:
    """Say what the results say on one line of the article's advice."""
    trained = [row for row in rows if not row.baseline and not row.is_untrained]
    if advice.memory_gb is not None:
        if group[1] != "cuda":
            return text("advice.answers.no_gpu")
        limits = TrainingLimits(vram_gib=advice.memory_gb, max_seconds=None, min_accuracy=None)
        delta = evidence.report.delta
        chosen = recommend(evidence.results, read, limits=limits, delta=delta, text=text)[group].chosen
        if chosen is None:
            return text("advice.answers.nothing_fits")
        return text("advice.answers.take", title=chosen.title, numbers=_say_numbers(chosen, text))
    if advice.case == "speed":
        timed = [row for row in trained if row.train_seconds is not None]
        if not timed or len({read_hardware(row) for row in timed}) != 1 or read_hardware(timed[0]) is None:
            return text("advice.answers.unknown")
        quickest = min(timed, key=lambda row: row.train_seconds or 0.0)
        return text("advice.answers.take", title=quickest.title, numbers=_say_numbers(quickest, text))
    if any(row.has_random_weights for row in trained):
        return text("advice.answers.random")
    best = most_accurate(trained)
    if best is None:
        return text("advice.answers.unknown")
    gaps = [find_gap(best, row, evidence.comparisons) for row in trained if row is not best]
    said = text("advice.answers.take", title=best.title, numbers=_say_numbers(best, text))
    if equal := [gap.other for gap in gaps if gap and gap.comparison.verdict == "equal"]:
        points = text.format_points(evidence.report.delta)
        said += text("advice.answers.equal", titles=join_titles(equal, text), points=points)
    if undecided := [gap.other for gap in gaps if gap and gap.comparison.verdict == "undecided"]:
        said += text("advice.answers.undecided", titles=join_titles(undecided, text))
    return said if all(gaps) else said + text("advice.answers.not_compared")
