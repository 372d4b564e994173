"""Key findings: what the numbers say of memory, time and weights, each with the runs it rests on.

A difference in memory or time is one only if no pair of seeds contradicts it. If the numbers leave a question
open, the sentence says so. Of accuracy there is here only what quantised weights cost; the rest is in
answer.py and in the comparisons. Methods that did not train have no findings.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from bench.report.blocks import Block, Bullet, Bullets, Section
from bench.report.cells import format_count, format_gib
from bench.report.language.text import Text
from bench.report.naming import Titles, join_titles, place, say_needs
from bench.report.numbers.comparison import Comparison
from bench.report.numbers.contrast import Contrast, contrast, find_gap, group_rows
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
    measured = [row for row in rows if row.selection and not row.is_untrained]
    trained = [row for row in measured if not row.baseline]
    findings: list[KeyFinding] = []
    if random := [row for row in measured if row.has_random_weights]:
        findings.append(KeyFinding(text("findings.random_weights", titles=join_titles(random, text)), random))
    for measure in ("memory", "train_time"):
        findings += _find_contrasts(trained, measure, text)
    findings += _find_verdicts(trained, comparisons, text)
    findings += _find_shares(trained, text)
    findings += [
        KeyFinding(text("findings.none_succeeded", title=row.title, runs=row.runs), [])
        for row in rows
        if not row.selection
    ]
    return findings


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


def _find_verdicts(
    rows: Sequence[Row], comparisons: Sequence[Comparison], text: Text
) -> Iterator[KeyFinding]:
    """Compare the accuracy of each quantised method with that of its unquantised twin."""
    for row in rows:
        twin = _find_unquantised(row, rows)
        gap = find_gap(row, twin, comparisons) if twin else None
        if twin is None or gap is None:
            continue
        compared, better = gap.comparison, (row, twin) if gap.estimate > 0 else (twin, row)
        sentence = text(
            f"findings.verdicts.{compared.verdict}",
            one=better[0].title,
            other=better[1].title,
            percent=abs(100 * gap.estimate),
            points=text.format_points(compared.delta),
            needs=say_needs(compared.needs, text) if compared.needs else "",
        )
        yield KeyFinding(sentence, [row, twin])


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
