"""The section of table.md with what a teacher cost each student, and what it brought beside labels alone."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any

from bench.report.blocks import Block, Section, Table, make_bullets
from bench.report.cells import clean
from bench.report.language.text import Text
from bench.report.naming import Titles, place
from bench.report.numbers.comparison import Comparison
from bench.report.numbers.evidence import Evidence
from bench.report.numbers.rows import Row
from bench.report.numbers.statistics import Difference
from bench.report.sections.methods import say_points, say_verdict
from bench.results.selection import read_value
from bench.results.store import Result

_TRAINED_ALIKE = ("estimator", "trainable", "quantization", "adapter")  # fields of a method


def describe_distillation(evidence: Evidence, *, titles: Titles, text: Text) -> Section:
    """Tabulate each student: its teacher, what both cost, and its gain over the same on labels alone."""
    by_id = {one.run_id: one for one in evidence.results}
    blocks, notes = list[Block](), list[str]()
    for key, same in groupby(evidence.rows, key=lambda row: (row.task, row.memory_kind)):
        table = list(same)
        students = [row for row in table if row.run_ids and _find_teacher(by_id[row.run_ids[0]])]
        lines = [_tabulate(row, table, evidence, by_id, text) for row in students]
        if lines:
            columns = [*text.under("distillation.columns").values()]
            blocks += place(key, titles, [Table(columns, lines, left=[0, 1], has_cards=True)])
        for row in students:
            student = by_id[row.run_ids[0]]
            notes += [*_say_unlabelled(student, text), *_say_folder(student, row.title, text)]
    how = make_bullets([*dict.fromkeys(notes), text("distillation.how")])
    return Section(text("distillation.title"), [*blocks, how] if blocks else [])


def _find_teacher(result: Result) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = result.data.get("teacher")
    return found


def _tabulate(
    row: Row, table: list[Row], evidence: Evidence, by_id: Mapping[str, Result], text: Text
) -> list[str]:
    """Return the cells of one student."""
    student = by_id[row.run_ids[0]]
    teacher = _find_teacher(student) or {}
    accuracy, seconds = teacher.get("accuracy"), row.train_seconds
    gain, verdict = _compare(row, _find_labels_only(row, table, by_id), evidence, text)
    return [
        row.title,
        _say_teacher(teacher, text),
        text("unknown") if accuracy is None else text.format_percent(accuracy),
        _say_cost(teacher, text),
        text("unknown") if seconds is None else text.format_duration(seconds),
        _say_latency(row, evidence, text),
        gain,
        verdict,
    ]


def _say_teacher(teacher: Mapping[str, Any], text: Text) -> str:
    """Say which run taught, or an exported folder of which run."""
    method, model, run_id = (clean(str(teacher.get(name))) for name in ("method", "model", "run_id"))
    if "content" in teacher:
        return text("distillation.folder", method=method, model=model, run_id=run_id)
    return text("distillation.teacher", method=method, model=model, run_id=run_id)


def _say_cost(teacher: Mapping[str, Any], text: Text) -> str:
    """Say what the teacher's own run took, and the trainings that predicted, or a folder's answers."""
    if "content" in teacher:
        taken = {"own": teacher.get("seconds"), "answers": teacher.get("answer_seconds")}
        known = {
            name: text("unknown") if value is None else text.format_duration(value)
            for name, value in taken.items()
        }
        return text("distillation.answers", **known)
    own, folds = teacher.get("seconds"), teacher.get("fold_seconds")
    if own is None or folds is None:
        return text("unknown")
    parts = {"own": text.format_duration(own), "folds": text.format_duration(folds)}
    return text("distillation.cost", count=len(teacher.get("run_ids") or ()), **parts)


def _say_latency(row: Row, evidence: Evidence, text: Text) -> str:
    """Say the milliseconds of a text alone, where `bench latency` has measured one of the student's runs."""
    for result, found in evidence.latencies:
        if result.run_id in row.run_ids and not found.get("run_ids"):
            alone = [form["p50_ms"] for form in found["forms"] if form["batch_size"] == 1]
            if alone:
                return text("together.latency", ms=min(alone))
    return text("together.not_measured")


def _find_labels_only(row: Row, table: list[Row], by_id: Mapping[str, Result]) -> Row | None:
    """Return the row of the method that trains the same of the same model, without a teacher."""

    def read(one: Row) -> list[Any]:
        return [read_value(by_id[one.run_ids[0]], f"config.method.{name}") for name in _TRAINED_ALIKE]

    alike = [
        one
        for one in table
        if one.run_ids and not _find_teacher(by_id[one.run_ids[0]]) and read(one) == read(row)
    ]
    return alike[0] if alike else None


def _compare(row: Row, other: Row | None, evidence: Evidence, text: Text) -> tuple[str, str]:
    """Return the student's gain in points and the verdict, by the report's paired test."""
    if other is None:
        return text("unknown"), text("distillation.no_labels_only")
    pairs = [one for one in evidence.comparisons if {one.one.run_ids, one.other.run_ids} == _name(row, other)]
    if not pairs:
        return text("unknown"), text("distillation.not_compared")
    [pair] = pairs
    return say_points(_orient(pair, row), text), say_verdict(pair, text)


def _name(row: Row, other: Row) -> set[tuple[str, ...]]:
    return {row.run_ids, other.run_ids}


def _orient(pair: Comparison, row: Row) -> Difference:
    """Return the student's accuracy less the other's, whichever of them the comparison names first."""
    found = pair.accuracy
    if pair.one.run_ids == row.run_ids:
        return found
    low, high = (None if end is None else -end for end in (found.high, found.low))
    return replace(found, estimate=-found.estimate, low=low, high=high)


def _say_unlabelled(student: Result, text: Text) -> list[str]:
    """Say how many texts without labels the student read, and how many were left out, and why."""
    counts = student.data.get("unlabelled")
    if not counts:
        return []
    return [text("distillation.unlabelled", **{name: int(counts[name]) for name in counts})]


def _say_folder(student: Result, title: str, text: Text) -> list[str]:
    """Say what an exported folder was not asked about, and whether it may have seen test texts."""
    teacher = _find_teacher(student) or {}
    if "content" not in teacher:
        return []
    is_same = teacher.get("fingerprint") == read_value(student, "canonical_config.data.fingerprint")
    if is_same:
        return [text("distillation.same_texts", title=title)]
    return [text("distillation.other_texts", title=title)]
