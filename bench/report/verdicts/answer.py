"""The answer that a report opens with: one sentence on accuracy, memory, and what training gains.

Each part stands there only if the numbers carry it: a difference in accuracy if the paired comparison detects
it, a difference in memory if no pair of seeds contradicts it.
"""

from collections.abc import Iterator, Mapping, Sequence

from bench.report.cells import format_gib
from bench.report.language.text import Text
from bench.report.naming import join_titles, name_unit
from bench.report.numbers.comparison import Comparison
from bench.report.numbers.contrast import AccuracyGap, Contrast, contrast, find_gap
from bench.report.numbers.rows import Row

Gaps = Mapping[str, AccuracyGap | None]  # from the most accurate method to each other; None: not compared


def say_answer(rows: Sequence[Row], comparisons: Sequence[Comparison], text: Text) -> str:
    """Say in one sentence what the rows of one table answer."""
    measured = [row for row in rows if row.selection]
    pool = [row for row in measured if not row.baseline] or measured
    best = most_accurate(pool)
    if not pool:
        parts = [text("answer.nothing")]
    elif best is None or any(row.has_random_weights for row in pool):
        kind = "unscored" if best is None else "random"
        parts = [text(f"answer.no_scores.{kind}"), *_say_memory([], pool, text)]
    else:
        gaps = {row.method: find_gap(best, row, comparisons) for row in pool if row is not best}
        same = [best, *_choose(pool, gaps, "none")]
        parts = [_say_accuracy(best, pool, gaps, text), *_say_memory(same, pool, text)]
        compared = () if best.baseline else ("difference", "one_seed", "not_compared")  # baselines never are
        for verdict in compared:
            others = _choose(pool, gaps, verdict)
            # a sole winner's lead is said already
            if others and (verdict != "difference" or len(others) < len(gaps)):
                names = {"one": best.title, "titles": join_titles(others, text)}
                parts.append(text(f"answer.others.{verdict}", **names))
        parts += _say_gain(best, measured, comparisons, text)
    return text("answer.sentence", parts=text("join.semicolon").join(parts))


def most_accurate(rows: Sequence[Row]) -> Row | None:
    """Return the row of the highest mean accuracy on the test split; of equals, the first of the table."""
    known = [(row.accuracy.mean, row) for row in rows if row.accuracy]
    return max(known, key=lambda pair: pair[0], default=(0.0, None))[1]


def _choose(pool: Sequence[Row], gaps: Gaps, verdict: str) -> list[Row]:
    """Return the methods of which the comparison with the most accurate one says so."""
    verdicts = {name: gap.comparison.verdict if gap else "not_compared" for name, gap in gaps.items()}
    return [row for row in pool if verdicts.get(row.method) == verdict]


def _say_accuracy(best: Row, pool: Sequence[Row], gaps: Gaps, text: Text) -> str:
    """Name the most accurate method, or all that are not known to be less accurate."""
    names = {"one": best.title, "here": _say_percent(best, text)}
    same, known = _choose(pool, gaps, "none"), [gap for gap in gaps.values() if gap]
    equal = [row for row in pool if row is not best and _round(row) == _round(best)]
    if same and all(gap.comparison.is_alike for gap in known if gap.other in same):
        return text("answer.alike", titles=join_titles([best, *same], text), here=names["here"])
    if equal and all(row in equal for row in same):
        return text("answer.equal", titles=join_titles([best, *equal], text), here=names["here"])
    if same:
        titles = [text("answer.scored", title=row.title, here=_say_percent(row, text)) for row in same]
        return text("answer.same", titles=text.join(titles), **names)
    if known and len(_choose(pool, gaps, "difference")) == len(gaps):
        nearest = min(known, key=lambda gap: gap.estimate)
        return text("answer.best", points=100 * nearest.estimate, other=nearest.other.title, **names)
    return text("answer.highest", **names) if gaps else text("answer.only", **names)


def _say_memory(same: Sequence[Row], pool: Sequence[Row], text: Text) -> Iterator[str]:
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
        verdict = gap.comparison.verdict
        if verdict == "difference" and gap.estimate < 0:
            verdict = "worse"
        elif gap.comparison.is_alike:
            verdict = "alike"
        yield text(
            f"answer.gain.{verdict}",
            other=gap.other.title,
            there=_say_percent(gap.other, text),
            points=100 * gap.estimate,
        )


def _say_percent(row: Row, text: Text) -> str:
    return text.format_percent(row.accuracy.mean) if row.accuracy else text("unknown")


def _round(row: Row) -> float | None:
    """Round the accuracy so that only a true difference shows."""
    return round(row.accuracy.mean, 9) if row.accuracy else None
