"""The advice of `bench recommend`: what to take and why, each method's numbers, the article's advice."""

from collections.abc import Iterator, Sequence
from functools import partial

from bench.config.reporting import ArticleAdvice
from bench.report.across.groups import choose_leader, group_sizes
from bench.report.across.models import list_panels
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
    title_splits,
    title_tasks,
)
from bench.report.numbers.comparison import Comparison, Known
from bench.report.numbers.contrast import AccuracyGap, find_gap, read_hardware
from bench.report.numbers.equivalence import merge_needs
from bench.report.numbers.evidence import Evidence, narrow
from bench.report.numbers.rows import Row, build_rows
from bench.report.verdicts.answer import most_accurate
from bench.report.verdicts.labels import LabelBudget, keep_nearest, say_more, say_size
from bench.report.verdicts.recommend import (
    Place,
    Read,
    Recommendation,
    TrainingLimits,
    fail_outside,
    find_changes,
    is_predicted,
    recommend,
)


def describe_advice(
    evidence: Evidence,
    read: Read,
    *,
    limits: TrainingLimits,
    text: Text,
    card: str | None = None,
    labels: LabelBudget | None = None,
) -> tuple[list[Block], bool]:
    """Return the advice, and whether anything fits the limits.

    Args:
        evidence: of the user's results; for a card that these did not run on, from ``move_to_card``.
        card: that card's name.
        labels: for which of the learning curves' sizes, if not for the tables'.
    """
    known: Known = {}
    delta = evidence.report.delta
    headings, of_splits = title_tasks(evidence.tasks, text), title_splits(evidence.tasks, text)
    curves = list[list[Row]]()
    if labels:
        curves = group_sizes(build_rows(fail_outside(evidence.results, limits)))
        evidence = narrow(evidence, keep_nearest(evidence.results, labels.labels), read)
    advice = recommend(evidence.results, read, limits=limits, delta=delta, text=text, known=known)
    change = partial(find_changes, evidence.results, read, limits=limits, delta=delta, text=text, known=known)
    blocks = list[Block]()
    for place, value in advice.items():
        lines = [*_say_memory(place, limits, card, text), *_explain(value, limits, text)]
        if labels:
            curve = _find_curve(value, curves)
            lines = [say_size(labels, curve, text), *lines]
            lines += say_more(labels, curve, value, delta=delta, text=text)
        changes = [_say_change(*one, text) for one in change(place=place, chosen=value.chosen)]
        said = make_bullets([*lines, *changes])
        if value.chosen and value.chosen.edges:
            said = Bullets([*said.items, say_edges(value.chosen, text)])
        tables = (_tabulate(place, value, text), _compare_with_article(place, evidence, read, text))
        heading = of_splits[place[0]] if isinstance(place[0], str) else headings[place[0]]
        blocks.append(Section(heading, [said, *tables]))
    if not advice:
        blocks.append(say_empty(text))
    if evidence.imported:
        blocks.append(Paragraph(text("advice.imports_left_out", count=len(evidence.imported))))
    return blocks, any(one.chosen for one in advice.values())


def _find_curve(advice: Recommendation, curves: Sequence[Sequence[Row]]) -> Sequence[Row]:
    """Return the rows of the learning curve that the advice is of."""
    data = {row.task.fingerprint for row in (*advice.fitting, *(row for row, _ in advice.rejected))}
    return next(curve for curve in curves if data & {row.task.fingerprint for row in curve})


def _say_change(kind: str, size: float, row: Row | None, text: Text) -> str:
    """Say what to take with other memory."""
    if row is None:
        return text("advice.changes.nothing", gib=format_gib(size))
    return text(f"advice.changes.take.{kind}", gib=format_gib(size), title=row.title)


def _say_memory(place: Place, limits: TrainingLimits, card: str | None, text: Text) -> Iterator[str]:
    """Say the limits, and which memory is compared with them."""
    said = _say_limits(limits, text)
    if limits.vram_gib is None:
        yield from [text("advice.limits", limits=said)] if said else []
        return
    if card is None:
        yield text("advice.budget", limits=said, kind=name_kind(place[1], text))
    else:
        yield text("advice.predicted", limits=said, card=card)
    if place[1] == "cpu_resident":
        yield text("advice.resident")


def _explain(advice: Recommendation, limits: TrainingLimits, text: Text) -> list[str]:
    """Say what to take and why, a line each."""
    chosen, lines = advice.chosen, list[str]()
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
        is_known = all(row.peak_memory_bytes is not None for row in advice.same)
        least = [text("advice.least", title=title)] if is_known else []
        return [*_say_same(best, gaps, text), *least]
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
    said = []
    if limits.vram_gib is not None:
        said.append(text("advice.at_most_memory", gib=limits.vram_gib))
    if limits.max_seconds is not None:
        said.append(text("advice.at_most_time", duration=text.format_duration(limits.max_seconds)))
    if limits.min_accuracy is not None:
        said.append(text("advice.at_least", percent=100 * limits.min_accuracy))
    return text("join.comma").join(said)


def _say_numbers(row: Row, text: Text) -> str:
    """Join memory, time and accuracy; leave out the scores of random weights."""
    peak, seconds = row.peak_memory_bytes, row.train_seconds
    kind = "predicted" if is_predicted(row) else "measured"
    said = [text(f"advice.peaks.{kind}", gib=format_gib(peak))] if peak is not None else []
    said += [text.format_duration(seconds)] if seconds is not None else []
    if row.accuracy and not row.has_random_weights:
        said.append(text("advice.accuracy", percent=100 * row.accuracy.mean))
    return text("join.comma").join(said) or UNKNOWN


def _tabulate(group: Place, advice: Recommendation, text: Text) -> Table:
    """Tabulate every method: the recommended one, those that fit, those that do not and why."""
    names = ("method", "hyperparameters", "memory", "train_time", "accuracy")
    rows = [*advice.fitting, *(row for row, _ in advice.rejected)]
    several = any(row.task.multi_label for row in rows)
    header = name_columns(group[1], text, multi_label=several)
    if any(map(is_predicted, rows)):
        header["memory"] = text("advice.predicted_memory")
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


def _compare_with_article(place: Place, evidence: Evidence, read: Read, text: Text) -> Table:
    """Tabulate the article's recommendations beside what the results say."""
    article = evidence.report.article
    if isinstance(place[0], str):
        panel = list_panels(evidence, text)[place[0], place[1]]
        rows, comparisons = panel.rows, panel.comparisons
    else:
        rows = [row for row in evidence.rows if (row.task, row.memory_kind) == place]
        comparisons = evidence.comparisons
    rows = [row for row in rows if row.selection]
    titles = {row.method: row.title for row in reversed(rows) if not isinstance(place[0], str)}
    lines = [
        [
            text(f"advice.cases.{one.case}", gb=one.memory_gb),
            titles.get(one.method, one.method),
            _answer(one, place, rows, comparisons, evidence, read, text),
        ]
        for one in article.advice
    ]
    return Table([*text.under("advice.columns").values()], lines)


def _answer(
    advice: ArticleAdvice,
    group: Place,
    rows: Sequence[Row],
    comparisons: Sequence[Comparison],
    evidence: Evidence,
    read: Read,
    text: Text,
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
    best = choose_leader(trained) if isinstance(group[0], str) else most_accurate(trained)
    if best is None:
        return text("advice.answers.unknown")
    gaps = [find_gap(best, row, comparisons) for row in trained if row is not best]
    said = text("advice.answers.take", title=best.title, numbers=_say_numbers(best, text))
    if equal := [gap.other for gap in gaps if gap and gap.comparison.verdict == "equal"]:
        points = text.format_points(evidence.report.delta)
        said += text("advice.answers.equal", titles=join_titles(equal, text), points=points)
    if undecided := [gap.other for gap in gaps if gap and gap.comparison.verdict == "undecided"]:
        said += text("advice.answers.undecided", titles=join_titles(undecided, text))
    return said if all(gaps) else said + text("advice.answers.not_compared")
