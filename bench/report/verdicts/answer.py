"""The answer that a report opens with: one sentence on accuracy, memory, and what training gains.

Each part stands there only if the numbers carry it: a difference in accuracy, or that there is none, if the
paired comparison shows it, a difference in memory if no pair of seeds contradicts it. Methods that did not
train are named and take part in nothing else.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from bench.report.cells import format_gib
from bench.report.language.text import Text
from bench.report.naming import join_titles, name_unit, say_needs
from bench.report.numbers.comparison import Comparison
from bench.report.numbers.contrast import AccuracyGap, Contrast, contrast, find_gap
from bench.report.numbers.equivalence import merge_needs
from bench.report.numbers.rows import Row

Gaps = Mapping[str, AccuracyGap | None]  # from the most accurate method to each other; None: not compared


def say_answer(rows: Sequence[Row], comparisons: Sequence[Comparison], text: Text) -> str:
    """Say in one sentence what the rows of one table answer."""
    measured = [row for row in rows if row.selection and not row.is_untrained]
    untrained = [row for row in rows if row.is_untrained]
    pool = [row for row in measured if not row.baseline] or measured
    best = most_accurate(pool)
    if not pool:
        parts = [] if untrained else [text("answer.nothing")]
    elif best is None or any(row.has_random_weights for row in pool):
        kind = "unscored" if best is None else "random"
        parts = [text(f"answer.no_scores.{kind}"), *say_least_memory([], pool, text)]
    else:
        gaps = {row.method: find_gap(best, row, comparisons) for row in pool if row is not best}
        same = [best, *_choose(pool, gaps, "equal", "undecided")]
        parts = [*_say_accuracy(best, pool, gaps, comparisons, text), *say_least_memory(same, pool, text)]
        compared = () if best.baseline else ("difference", "one_seed", "not_compared")  # baselines never are
        for verdict in compared:
            others = _choose(pool, gaps, verdict)
            # a sole winner's lead is said already
            if others and (verdict != "difference" or len(others) < len(gaps)):
                names = {"one": best.title, "titles": join_titles(others, text)}
                parts.append(text(f"answer.others.{verdict}", **names))
        parts += _say_gain(best, measured, comparisons, text)
    if untrained:
        parts.append(text("answer.untrained", titles=join_titles(untrained, text)))
    return text("answer.sentence", parts=text("join.semicolon").join(parts))


def most_accurate(rows: Sequence[Row]) -> Row | None:
    """Return the row of the highest mean accuracy on the test split; of equals, the first of the table."""
    known = [(row.accuracy.mean, row) for row in rows if row.accuracy]
    return max(known, key=lambda pair: pair[0], default=(0.0, None))[1]


def _choose(pool: Sequence[Row], gaps: Gaps, *verdicts: str) -> list[Row]:
    """Return the methods of which the comparison with the most accurate one has one of the verdicts."""
    known = {name: gap.comparison.verdict if gap else "not_compared" for name, gap in gaps.items()}
    return [row for row in pool if known.get(row.method) in verdicts]


def _say_accuracy(
    best: Row, pool: Sequence[Row], gaps: Gaps, comparisons: Sequence[Comparison], text: Text
) -> Iterator[str]:
    """Name the most accurate method, those equal to it, and those of which that is undecided."""
    here, known = _say_percent(best, text), [gap for gap in gaps.values() if gap]
    equal, undecided = _choose(pool, gaps, "equal"), _choose(pool, gaps, "undecided")
    level = [row for row in pool if row is not best and _round(row) == _round(best)]
    level = level if all(row in level for row in undecided) else []
    if equal and not undecided and all(gap.comparison.is_alike for gap in known if gap.other in equal):
        yield text("answer.alike", titles=join_titles([best, *equal], text), here=here)
    elif equal:
        points = text.format_points(known[0].comparison.delta)
        pairs = [find_gap(*pair, comparisons) for pair in combinations(equal, 2)]
        if all(gap and gap.comparison.verdict == "equal" for gap in pairs):
            yield text("answer.equal", titles=_join_scored([best, *equal], text), points=points)
        else:
            yield text(
                "answer.equal_to",
                one=best.title,
                here=here,
                titles=_join_scored(equal, text),
                points=points,
            )
    elif level:
        yield text("answer.level", titles=join_titles([best, *level], text), here=here)
    elif not undecided and known and len(_choose(pool, gaps, "difference")) == len(gaps):
        nearest = min(known, key=lambda gap: gap.estimate)
        points_above = 100 * nearest.estimate
        yield text("answer.best", one=best.title, here=here, points=points_above, other=nearest.other.title)
    elif not undecided:
        names = {"one": best.title, "here": here}
        yield text("answer.highest", **names) if gaps else text("answer.only", **names)
    if undecided:
        needs = [gap.comparison.needs for gap in known if gap.other in undecided and gap.comparison.needs]
        kind = "also" if equal or level else "alone"
        titles = _join_scored([best, *undecided], text)
        yield text(f"answer.undecided.{kind}", titles=titles, needs=say_needs(merge_needs(needs), text))


def _join_scored(rows: Sequence[Row], text: Text) -> str:
    return text.join([text("answer.scored", title=row.title, here=_say_percent(row, text)) for row in rows])


def say_least_memory(same: Sequence[Row], pool: Sequence[Row], text: Text) -> Iterator[str]:
    """Name the least memory: of the methods not told apart or, where one is alone the best, of all."""
    rows = same if len(same) > 1 else pool
    known = sorted(
        (row for row in rows if row.peak_memory_bytes is not None),
        key=lambda row: row.peak_memory_bytes or 0.0,
    )
    if len(known) < max(2, len(rows)):
        return
    least, second = known[:2]
    contrasted = contrast(least, second, "memory")
    if isinstance(contrasted, Contrast) and contrasted.high < 0:
        gib = f"{format_gib(contrasted.values[0])} {name_unit(least.memory_kind, text)}"
        yield text(f"answer.memory.{'of_these' if len(same) > 1 else 'of_all'}", one=least.title, here=gib)


def _say_gain(
    best: Row, measured: Sequence[Row], comparisons: Sequence[Comparison], text: Text
) -> Iterator[str]:
    """Say what the most accurate training gains over the best baseline, which costs next to nothing."""
    baselines = [row for row in measured if row.baseline and not best.baseline]
    gaps = [gap for row in baselines if (gap := find_gap(best, row, comparisons))]
    # As comparisons choose it: by validation, and of equals the first.
    for gap in sorted(gaps, key=lambda gap: -(gap.other.validation or 0.0))[:1]:
        compared = gap.comparison
        verdict = compared.verdict
        if verdict == "difference" and gap.estimate < 0:
            verdict = "worse"
        elif compared.is_alike:
            verdict = "alike"
        yield text(
            f"answer.gain.{verdict}",
            other=gap.other.title,
            there=_say_percent(gap.other, text),
            points=100 * gap.estimate,
            within=text.format_points(compared.delta),
            needs=say_needs(compared.needs, text) if compared.needs else "",
        )


def _say_percent(row: Row, text: Text) -> str:
    return text.format_percent(row.accuracy.mean) if row.accuracy else text("unknown")


def _round(row: Row) -> float | None:
    """Round the accuracy so that only a true difference shows."""
    return round(row.accuracy.mean, 9) if row.accuracy else None
