"""The comparison table: one row per method, from the records alone, as Markdown and CSV.

table.md is for reading: one table for each task and kind of memory, then notes. table.csv has the same
columns under the same headers, with plain numbers where a spreadsheet would calculate (memory in GiB, exact
counts, accuracy and F1 as fractions), and more columns after them: data, model, memory kind, status, bytes,
seconds. Both are byte-identical when made again from the same records. runs.csv is for machines, see runs.py.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from bench.report.cells import (
    GIB,
    UNKNOWN,
    clean,
    escape_markdown,
    format_count,
    format_gib,
    format_number,
    superscript,
    to_csv,
    to_markdown,
)
from bench.report.rows import Row, Task, build_rows
from bench.report.runs import render_runs
from bench.report.text import COLUMNS, EXTRAS, Text, read_language
from bench.store import STARTED, STATUSES, BadRecord, Result, Store

__all__ = ["Row", "build_rows", "render_csv", "render_markdown", "write_tables"]

_LEFT = (COLUMNS.index("method"), COLUMNS.index("hyperparameters"))  # the other columns are numbers
_LONGEST_ERROR = 200  # characters of a message; the record has all of it


def write_tables(store: Store, *, lang: str) -> list[Path]:
    """Writes table.csv, table.md and runs.csv beside runs/, in place of those before; returns their paths.

    Raises:
        ConfigError: no such language.
        StoreError: the folder cannot be written.
    """
    text = read_language(lang)
    results, bad = store.read_all()
    rows = build_rows(results)
    named = [(_relative(one, store.folder), one.reason) for one in bad]
    files = {
        "table.csv": render_csv(rows, text=text),
        "table.md": render_markdown(rows, results=results, bad=named, text=text),
        "runs.csv": render_runs(results),
    }
    return [store.write_report(name, body) for name, body in files.items()]


def render_markdown(
    rows: Sequence[Row], *, results: Sequence[Result], bad: Sequence[tuple[str, str]], text: Text
) -> str:
    """table.md: a heading and a table for each task, then notes; bad: (path, reason) of records left out."""
    notes: list[str] = []
    parts = [] if rows else [f"{text.empty}\n"]
    headings = _title_tasks([row.task for row in rows], text)
    for task, of_task in groupby(rows, key=lambda row: row.task):
        parts.append(f"## {headings[task]}\n")
        for kind, of_kind in groupby(of_task, key=lambda row: row.memory_kind):
            header = dict(text.columns)
            header["memory"] = text.memory_columns.get(kind or "", header["memory"])
            cells = [_to_cells(row, text=text, notes=notes) for row in of_kind]
            table = [[row[name] for name in COLUMNS] for row in cells]
            parts.append(to_markdown([header[name] for name in COLUMNS], table, left=_LEFT))
    general = _explain(rows, text) + _count_unsuccessful(results, bad, text)
    marked = [f"{superscript(number)} {note}" for number, note in enumerate(notes, start=1)]
    if general or marked:
        parts.append(f"{text.notes}\n\n" + "".join(f"- {note}\n" for note in general + marked))
    return "\n".join(parts)


def render_csv(rows: Sequence[Row], *, text: Text) -> str:
    """table.csv: the columns of table.md and then EXTRAS, a row per method; unknown is an empty cell."""
    header = [text.columns[name] for name in COLUMNS] + [text.extras[name] for name in EXTRAS]
    values = [_to_values(row, text) for row in rows]
    return to_csv(header, [[row[name] for name in (*COLUMNS, *EXTRAS)] for row in values])


def _to_cells(row: Row, *, text: Text, notes: list[str]) -> dict[str, str]:
    """The row's cells as Markdown; what a cell cannot say goes to the notes, and its number to the cell."""

    def percent(share: float) -> str:
        return text.percent.format(100 * share)

    title = escape_markdown(row.title)
    interval = _clip(row)
    cells = {
        "method": title,
        "memory": _format(row.peak_memory_bytes, format_gib),
        "train_time": _format(row.train_seconds, lambda seconds: format_duration(seconds, text)),
        "accuracy": _format(row.accuracy.mean if row.accuracy else None, percent),
        "f1_macro": _format(row.f1_macro.mean if row.f1_macro else None, percent),
        "trainable": _format(row.trainable_parameters, format_count),
        "seeds": (str(len(row.seeds)) if row.seeds else text.any_seed) if row.selection else UNKNOWN,
        "interval": text.interval.format(*(100 * one for one in interval)) if interval else UNKNOWN,
        "hyperparameters": escape_markdown(_join_hyperparameters(row, text)) if row.selection else UNKNOWN,
        "runs": f"{row.runs}/{row.failed_runs}",
    }

    def mark(column: str, note: str) -> None:
        notes.append(note)
        cells[column] += superscript(len(notes))

    if row.selection is None:
        cells["accuracy"] = text.statuses[row.status]
        note = text.no_success.format(title=title, counts=_join_counts(row.statuses, text))
        if row.error:
            note += text.first_error.format(error=escape_markdown(_shorten(row.error)))
        mark("accuracy", note)
    for column in (name for name in COLUMNS if name in row.unknown):
        reason = escape_markdown(row.unknown[column]) or text.no_reason
        mark(column, text.unknown.format(title=title, column=text.columns[column], reason=reason))
    if row.lost_seeds:
        mark("seeds", text.some_seeds.format(title=title, counts=_join_counts(row.lost_seeds, text)))
    return cells


def _to_values(row: Row, text: Text) -> dict[str, Any]:
    """The row's cells of table.csv: numbers as numbers."""
    interval = _clip(row)
    peak, accuracy = row.peak_memory_bytes, row.accuracy
    return {
        "method": row.title,
        "memory": None if peak is None else round(peak / GIB, 6),
        "train_time": None if row.train_seconds is None else format_duration(row.train_seconds, text),
        "accuracy": None if accuracy is None else round(accuracy.mean, 6),
        "f1_macro": None if row.f1_macro is None else round(row.f1_macro.mean, 6),
        "trainable": row.trainable_parameters,
        "seeds": (len(row.seeds) or text.any_seed) if row.selection else None,
        "interval": text.interval.format(*(100 * one for one in interval)) if interval else None,
        "hyperparameters": _join_hyperparameters(row, text) if row.selection else None,
        # in words: a spreadsheet reads 12/1 as a date
        "runs": text.tried.format(tried=row.runs, failed=row.failed_runs),
        "data": row.task.data,
        "model": row.task.model,
        "memory_kind": row.memory_kind,
        "status": row.status,
        "memory_bytes": peak,
        "train_seconds": None if row.train_seconds is None else round(row.train_seconds, 6),
        "accuracy_low": round(interval[0], 6) if interval else None,
        "accuracy_high": round(interval[1], 6) if interval else None,
        "accuracy_sd": round(accuracy.sd, 6) if accuracy and accuracy.sd is not None else None,
        "total": row.total_parameters,
        "run_ids": row.run_ids,
    }


def format_duration(seconds: float, text: Text) -> str:
    """Seconds as people say them: 0.012 s, 12.3 s, 4 min 05 s, 2.8 h."""
    moment, short, minutes, hours = text.durations
    if round(seconds, 3) < 1:
        return moment.format(seconds=seconds)
    if round(seconds, 1) < 60:
        return short.format(seconds=seconds)
    if round(seconds) < 3600:
        return minutes.format(minutes=round(seconds) // 60, rest=round(seconds) % 60)
    return hours.format(hours=seconds / 3600)


def _title_tasks(tasks: Sequence[Task], text: Text) -> dict[Task, str]:
    """Each task's heading; tasks of the same names are told apart by their content."""
    titles = {}
    for task in dict.fromkeys(tasks):
        heading = text.heading_without_model if task.model is None else text.heading
        titles[task] = heading.format(
            data=escape_markdown(task.data), model=escape_markdown(task.model or "")
        )
    counts = Counter(titles.values())
    for task, title in titles.items():
        if counts[title] > 1:
            title = text.of_content.format(
                heading=title,
                fingerprint=escape_markdown(task.fingerprint[:8]),
                revision=escape_markdown((task.revision or UNKNOWN)[:8]),
            )
        if task.test_size is not None:
            title = text.test_size.format(heading=title, size=task.test_size)
        titles[task] = title
    return titles


def _explain(rows: Sequence[Row], text: Text) -> list[str]:
    """How the numbers came about; nothing where there are none."""
    selections = [row.selection for row in rows if row.selection]
    if not selections:
        return []
    seeds = sorted({one.seed for one in selections if one.seed is not None})
    at_seed = text.at_seed.format(seeds=text.either.join(map(str, seeds))) if seeds else ""
    metric = text.metrics[selections[0].select_by]
    kinds = dict.fromkeys(row.memory_kind for row in rows if row.memory_kind)
    notes = [text.choice.format(metric=metric, at_seed=at_seed), text.numbers]
    notes += [text.memory_notes[kind] for kind in kinds]
    notes.append(text.spread)
    if any(row.selection and not row.seeds for row in rows):
        notes.append(text.any_seed_note)
    return notes


def _count_unsuccessful(results: Sequence[Result], bad: Sequence[tuple[str, str]], text: Text) -> list[str]:
    """What is not in the numbers: runs by status, and records that cannot be trusted by name."""
    statuses = Counter(one.status for one in results if one.status != "success")
    notes = [text.unsuccessful.format(counts=_join_counts(statuses, text))] if statuses else []
    if statuses[STARTED]:
        notes.append(text.unfinished)
    if bad:
        records = [
            text.bad_one.format(path=escape_markdown(path), reason=escape_markdown(_shorten(reason)))
            for path, reason in sorted(bad)
        ]
        notes.append(text.bad.format(records=text.comma.join(records)))
    return notes


def _join_counts(statuses: Mapping[str, int], text: Text) -> str:
    order = [one for one in (*STATUSES, STARTED) if statuses.get(one)]
    counted = (text.counted.format(count=statuses[one], status=text.statuses[one]) for one in order)
    return text.comma.join(counted)


def _join_hyperparameters(row: Row, text: Text) -> str:
    shown = (f"{name}={format_number(value)}" for name, value in row.hyperparameters.items())
    return ", ".join(shown) or text.nothing


def _clip(row: Row) -> tuple[float, float] | None:
    """The interval within what an accuracy can be, which costs no coverage."""
    if row.accuracy is None or row.accuracy.low is None or row.accuracy.high is None:
        return None
    return max(0.0, row.accuracy.low), min(1.0, row.accuracy.high)


def _format(value: float | None, write: Callable[[float], str]) -> str:
    return UNKNOWN if value is None else write(value)


def _shorten(message: str) -> str:
    message = clean(message)
    return message if len(message) <= _LONGEST_ERROR else f"{message[:_LONGEST_ERROR]}…"


def _relative(record: BadRecord, folder: Path) -> str:
    return record.path.relative_to(folder).as_posix()
