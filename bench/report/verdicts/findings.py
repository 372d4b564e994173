"""Key findings: what the numbers say in sentences, each with the runs it rests on.

A sentence appears only if the numbers support it: a difference in accuracy if the paired comparison detects
it, a difference in memory or time if no pair of seeds contradicts it. If the numbers leave a question open,
the sentence says so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from bench.report.blocks import Block, Bullet, Bullets, Section
from bench.report.cells import format_count, format_gib
from bench.report.language.text import Text
from bench.report.naming import Titles, join_titles, name_kind, place
from bench.report.numbers.comparison import Comparison
from bench.report.numbers.contrast import AccuracyGap, Contrast, contrast, find_gap, group_rows
from bench.report.numbers.evidence import Evidence
from bench.report.numbers.rows import Row

_NEGLIGIBLE = 0.02  # a difference in memory or time that nobody chooses a method for


@dataclass(frozen=True)
class KeyFinding:
    """One sentence, and the rows whose chosen runs it rests on."""

    sentence: str
    rows: Sequence[Row]


def describe_findings(evidence: Evidence, *, titles: Titles, text: Text) -> Section:
    """Describe what the results say, table by table; nothing where no run has succeeded."""
    blocks = list[Block]()
    for group, rows in group_rows(evidence.rows).items():
        items = [_cite(one, text) for one in find_all(rows, evidence.comparisons, text)]
        blocks += place(group, titles, [Bullets(items)])
    return Section(text("findings.title"), blocks)


def find_all(rows: Sequence[Row], comparisons: Sequence[Comparison], text: Text) -> list[KeyFinding]:
    """Find what one table says, in the order of what most people ask."""
    measured = [row for row in rows if row.selection]
    trained = [row for row in measured if not row.baseline]
    findings: list[KeyFinding] = []
    if random := [row for row in measured if row.has_random_weights]:
        findings.append(KeyFinding(text("findings.random_weights", titles=join_titles(random, text)), random))
    else:
        findings += _find_accuracy(trained, comparisons, text)
        findings += _find_gain(measured, comparisons, text)
    for measure in ("memory", "train_time"):
        findings += _find_contrasts(trained, measure, text)
    if not random:
        findings += _find_cheapest(trained, comparisons, text)
    findings += _find_shares(trained, text)
    findings += [
        KeyFinding(text("findings.none_succeeded", title=row.title, runs=row.runs), [])
        for row in rows
        if not row.selection
    ]
    return findings


def most_accurate(rows: Sequence[Row]) -> Row | None:
    """Return the row of the highest mean accuracy on the test split; of equals, the first of the table."""
    known = [(row.accuracy.mean, row) for row in rows if row.accuracy]
    return max(known, key=lambda pair: pair[0], default=(0.0, None))[1]


def _find_accuracy(
    rows: Sequence[Row], comparisons: Sequence[Comparison], text: Text
) -> Iterator[KeyFinding]:
    """Say what the paired comparisons with the most accurate method say."""
    best = most_accurate(rows)
    gaps = [gap for row in rows if best and row is not best and (gap := find_gap(best, row, comparisons))]
    for gap in (one for one in gaps if one.comparison.verdict != "none"):
        if gap.low is None or gap.high is None:
            continue
        numbers = {"points": 100 * gap.estimate, "low": 100 * gap.low, "high": 100 * gap.high}
        names = {"one": gap.one.title, "other": gap.other.title}
        sentence = text(
            f"findings.accuracy.{gap.comparison.verdict}", texts=gap.comparison.rows, **numbers, **names
        )
        yield KeyFinding(sentence, [gap.one, gap.other])
    if best and (same := [gap for gap in gaps if gap.comparison.verdict == "none"]):
        yield _say_same(best, same, text)
    if best and (
        missing := [row for row in rows if row is not best and row not in [gap.other for gap in gaps]]
    ):
        names = {"one": best.title, "titles": join_titles(missing, text)}
        yield KeyFinding(text("findings.not_compared", **names), [best, *missing])


def _say_same(best: Row, gaps: Sequence[AccuracyGap], text: Text) -> KeyFinding:
    """Name the methods without a detectable difference from the best, and what would be detected."""
    detectable = [gap.comparison.detectable for gap in gaps]
    known = [one for one in detectable if one is not None]
    sentence = text(
        "findings.accuracy.none",
        one=best.title,
        titles=join_titles([gap.other for gap in gaps], text),
        texts=gaps[0].comparison.rows,
    )
    if len(known) == len(detectable):
        sentence += text("findings.detectable", points=100 * max(known))
    return KeyFinding(sentence, [best, *(gap.other for gap in gaps)])


def _find_gain(rows: Sequence[Row], comparisons: Sequence[Comparison], text: Text) -> Iterator[KeyFinding]:
    """Say what the most accurate training gains over each baseline, which costs next to nothing."""
    best = most_accurate([row for row in rows if not row.baseline])
    for row in (row for row in rows if best and row.baseline):
        gap = find_gap(best, row, comparisons) if best else None
        if not gap or not best or not best.accuracy or not row.accuracy:
            continue
        verdict = gap.comparison.verdict
        if verdict == "difference" and gap.estimate < 0:
            verdict = "worse"
        yield KeyFinding(
            text(
                f"findings.gain.{verdict}",
                one=best.title,
                other=row.title,
                here=100 * best.accuracy.mean,
                there=100 * row.accuracy.mean,
                points=100 * abs(gap.estimate),
                texts=gap.comparison.rows,
            ),
            [best, row],
        )


def _find_contrasts(rows: Sequence[Row], measure: str, text: Text) -> Iterator[KeyFinding]:
    """Compare each quantised method with its unquantised twin, and the least with the most."""
    pairs = [(row, twin) for row in rows if (twin := _find_unquantised(row, rows))]
    numbers = [(row.peak_memory_bytes if measure == "memory" else row.train_seconds, row) for row in rows]
    if known := [(number, row) for number, row in numbers if number is not None]:
        ends = min(known, key=lambda pair: pair[0])[1], max(known, key=lambda pair: pair[0])[1]
        if ends not in pairs and ends[::-1] not in pairs and ends[0] is not ends[1]:
            pairs.append(ends)
    for one, other in pairs:
        contrasted = contrast(one, other, measure)
        if isinstance(contrasted, Contrast):
            yield KeyFinding(_say_contrast(contrasted, text), [one, other])
        elif contrasted == "hardware":
            names = {"one": one.title, "other": other.title}
            yield KeyFinding(text("findings.other_hardware", **names), [one, other])


def _say_contrast(contrasted: Contrast, text: Text) -> str:
    verdict = "less" if contrasted.high < 0 else "more" if contrasted.low > 0 else "overlap"
    if abs(contrasted.change) < _NEGLIGIBLE:
        verdict = "same"
    if contrasted.measure == "train_time" and contrasted.runs < 2:
        verdict = "open"
    here, there = (
        format_gib(value) if contrasted.measure == "memory" else text.format_duration(value)
        for value in contrasted.values
    )
    sentence = text(
        f"findings.contrasts.{contrasted.measure}.{verdict}",
        one=contrasted.one.title,
        other=contrasted.other.title,
        percent=abs(100 * contrasted.change),
        here=here,
        there=there,
        kind=name_kind(contrasted.one.memory_kind, text),
    )
    return sentence + (text("findings.one_run_each") if contrasted.runs < 2 and verdict != "open" else "")


def _find_unquantised(row: Row, rows: Sequence[Row]) -> Row | None:
    """Find the method that differs from this one only in that its base weights are not quantised."""

    def read(row: Row, *names: str) -> list[object]:
        method = row.selection.results[0].config.get("method") or {} if row.selection else {}
        return [method.get(name) for name in names]

    if read(row, "quantization")[0] in (None, "none"):
        return None
    same = ("estimator", "trainable", "adapter")
    twins = [
        one for one in rows if read(one, *same) == read(row, *same) and read(one, "quantization") == ["none"]
    ]
    return twins[0] if len(twins) == 1 else None


def _find_cheapest(
    rows: Sequence[Row], comparisons: Sequence[Comparison], text: Text
) -> Iterator[KeyFinding]:
    """Name the method of the least memory among those without a detectable difference from the best."""
    best = most_accurate(rows)
    if best is None:
        return
    gaps = [find_gap(best, row, comparisons) for row in rows if row is not best]
    same = [best, *(gap.other for gap in gaps if gap and gap.comparison.verdict == "none")]
    known = [row for row in same if row.peak_memory_bytes is not None]
    if len(known) < 2 or len(known) < len(same):
        return
    least, second = sorted(known, key=lambda row: row.peak_memory_bytes or 0.0)[:2]
    contrasted = contrast(least, second, "memory")
    if isinstance(contrasted, Contrast) and contrasted.high < 0:
        sentence = text(
            "findings.cheapest",
            one=least.title,
            best=best.title,
            titles=join_titles(same[1:], text),
            here=format_gib(contrasted.values[0]),
            kind=name_kind(least.memory_kind, text),
        )
        yield KeyFinding(sentence, same)


def _find_shares(rows: Sequence[Row], text: Text) -> Iterator[KeyFinding]:
    """Say how few parameters partly trained models train; equal shares in one sentence."""

    def count(row: Row) -> tuple[float, float]:
        return row.trainable_parameters or 0.0, row.total_parameters or 0.0

    partial = [row for row in rows if 0 < count(row)[0] < count(row)[1]]
    for (trainable, total), same in groupby(sorted(partial, key=count), key=count):
        members = list(same)
        numbers = {"trainable": format_count(trainable), "total": format_count(total)}
        share = 100 * trainable / total
        yield KeyFinding(
            text("findings.share", titles=join_titles(members, text), share=share, **numbers), members
        )


def _cite(finding: KeyFinding, text: Text) -> Bullet:
    """Return the sentence with its runs below it."""
    cited = [text("findings.run", title=row.title, runs=" ".join(row.run_ids)) for row in finding.rows]
    return Bullet(finding.sentence, label=text("findings.runs"), detail=text("join.semicolon").join(cited))
