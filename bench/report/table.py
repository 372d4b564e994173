"""The comparison table: one row per method, from the results alone, as Markdown and CSV.

table.md is for reading: for each task and kind of memory the answer, the table and its figure, then the
sections of sections.py. table.csv has the same columns under the same headers, with plain numbers where a
spreadsheet would calculate (memory in GiB, exact counts, accuracy and F1 as fractions), and more columns
after them: data, model, memory kind, status, bytes, seconds. Both are byte-identical when made again from the
same results. runs.csv and comparisons.csv are for scripts.
"""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench.config.cards import GIB
from bench.config.reporting import ReportConfig
from bench.report.blocks import (
    Beside,
    Block,
    Bullet,
    Bullets,
    Cell,
    Figure,
    Figures,
    Paragraph,
    Section,
    Stack,
    Table,
    make_bullets,
    write_markdown,
)
from bench.report.cells import (
    UNKNOWN,
    clean,
    format_count,
    format_gib,
    format_known,
    format_number,
    round_six,
    superscript,
    to_csv,
)
from bench.report.imported import describe_imported
from bench.report.language.text import Text, read_language
from bench.report.latency import describe_latencies
from bench.report.naming import (
    Titles,
    join_hyperparameters,
    name_columns,
    name_unit,
    say_edges,
    say_empty,
    say_untrained,
    title_tasks,
)
from bench.report.numbers.contrast import Group
from bench.report.numbers.evidence import Evidence, gather, price_training
from bench.report.numbers.rows import OVER, Row
from bench.report.runs import render_runs
from bench.report.sections import (
    describe_budgets,
    describe_comparisons,
    describe_health,
    describe_pivots,
    render_comparisons,
)
from bench.report.verdicts.answer import say_answer
from bench.report.verdicts.claims import describe_claims
from bench.report.verdicts.findings import describe_findings
from bench.results.store import STARTED, STATUSES, Result, Store

COLUMNS = (  # of both tables; the first six are fixed by the contract
    *("method", "memory", "train_time", "accuracy", "f1_macro", "trainable"),
    *("seeds", "interval", "hyperparameters", "runs"),
)
EXTRAS = (  # of table.csv alone
    *("data", "model", "memory_kind", "status", "memory_bytes", "train_seconds", "joules", "validation"),
    *("accuracy_low", "accuracy_high", "interval_over", "texts_low", "texts_high", "accuracy_sd"),
    *("f1_macro_low", "f1_macro_high", "f1_macro_sd", "total", "weights", "run_ids"),
    *("edges", "untrained"),
)
MAIN_FIGURE = "pareto"  # beside each table
# On the page, where width is dear: what stands below what.
_BELOW = {"method": "hyperparameters", "memory": "unit", "accuracy": "interval", "seeds": "runs"}
_LEFT = (COLUMNS.index("method"), COLUMNS.index("hyperparameters"))  # the other columns are numbers
_LONGEST_ERROR = 200  # characters of a message; the record has all of it


Drawn = Mapping[Group, Sequence[Figure]]  # the figures of each table


def write_tables(store: Store, *, lang: str, report: ReportConfig) -> list[Path]:
    """Write the four files beside runs/, in place of those before; return their paths.

    Raises:
        ConfigError: no such language.
        StoreError: the folder cannot be written.
    """
    text, evidence = read_language(lang), gather(store, report)
    files = render_files(evidence, describe_all(evidence, text=text), text=text)
    return [store.write_report(name, body) for name, body in files.items()]


def write_unfinished(store: Store, *, report: ReportConfig, ended: int, planned: int) -> str:
    """Write the four files of a sweep that still runs, and return its tables so far as Markdown.

    ``ended`` of at least ``planned`` runs have ended; table.md opens with that.

    Raises:
        StoreError: the folder cannot be written.
    """
    text, evidence = read_language("en"), gather(store, report)
    opening = Paragraph(text("table.still_running", ended=ended, planned=planned), strong=True)
    blocks = [opening, *describe_all(evidence, text=text)]
    for name, body in render_files(evidence, blocks, text=text).items():
        store.write_report(name, body)
    tables, _ = describe_tables(evidence, text=text, drawn={})
    return write_markdown([opening, *tables])


def render_files(evidence: Evidence, blocks: Sequence[Block], *, text: Text) -> dict[str, str]:
    """Render the four files by name; ``blocks``: what table.md says."""
    return {
        "table.csv": render_csv(evidence, text=text),
        "table.md": write_markdown(blocks),
        "runs.csv": render_runs(evidence.results),
        "comparisons.csv": render_comparisons(evidence.comparisons),
    }


def describe_all(evidence: Evidence, *, text: Text, drawn: Drawn = MappingProxyType({})) -> list[Block]:
    """Return what table.md says: the answers, tables and their figures, then what follows from them."""
    tables, titles = describe_tables(evidence, text=text, drawn=drawn)
    others = [figure for figures in drawn.values() for figure in figures if figure.kind != MAIN_FIGURE]
    rest = Section(text("page.sections.figures"), [Figures(others)])
    return [*tables, *describe_sections(evidence, titles=titles, text=text).values(), rest]


def describe_sections(evidence: Evidence, *, titles: Titles, text: Text) -> dict[str, Section]:
    """Describe what follows from the tables, by name and in order; a section may be empty."""
    notes = _explain(evidence, text) + _count_unsuccessful(evidence.results, evidence.bad, text)
    return {
        "findings": describe_findings(evidence, titles=titles, text=text),
        "comparisons": describe_comparisons(evidence, titles=titles, text=text),
        "budget": describe_budgets(evidence.rows, titles=titles, text=text),
        "pivots": describe_pivots(evidence.rows, titles=titles, text=text),
        "latency": describe_latencies(evidence.latencies, text=text),
        "claims": describe_claims(evidence, titles=titles, text=text),
        "notes": Section(text("notes.title"), [make_bullets(notes)]),
        "imported": describe_imported(evidence.imported, bad=evidence.bad_imported, text=text),
    }


def describe_tables(
    evidence: Evidence, *, text: Text, drawn: Drawn, is_page: bool = False
) -> tuple[list[Block], Titles]:
    """Return a section of tables for each task, each below its answer, and each table's title.

    Each table is followed by its main figure, if there is one, and the notes that its cells refer to. On the
    page it is narrower, so that the figure has room beside it: settings and intervals are second lines.
    """
    blocks: list[Block] = [] if evidence.rows else [say_empty(text)]
    headings = title_tasks([row.task for row in evidence.rows], text)
    titles: dict[Group, str] = {}
    for task, of_task in groupby(evidence.rows, key=lambda row: row.task):
        parts = list[Block]()
        for kind, of_kind in groupby(of_task, key=lambda row: row.memory_kind):
            rows, figures = list(of_kind), drawn.get((task, kind), ())
            titles[task, kind] = f"{headings[task]}, {name_columns(kind, text)['memory']}"
            answer = Paragraph(say_answer(rows, evidence.comparisons, text), strong=True)
            table, notes = tabulate(rows, evidence, text=text, is_page=is_page)
            shown = Figures([figure for figure in figures if figure.kind == MAIN_FIGURE])
            parts += [answer, Beside([table, shown]), notes]
        blocks.append(Section(headings[task], parts))
    return blocks, titles


def tabulate(rows: Sequence[Row], evidence: Evidence, *, text: Text, is_page: bool) -> tuple[Table, Bullets]:
    """Return the table of one kind of memory, and the notes that its cells refer to."""
    columns, notes = _list_columns(evidence.report), list[Bullet]()
    header = name_columns(rows[0].memory_kind, text)
    cells = [_to_cells(row, evidence, text=text, notes=notes) for row in rows]
    marked = Bullets(
        [
            replace(note, text=f"{superscript(number)} {note.text}")
            for number, note in enumerate(notes, start=1)
        ]
    )
    if not is_page:
        lines = [[line[name] for name in columns] for line in cells]
        return Table([header[name] for name in columns], lines, left=_LEFT), marked
    kept = [name for name in columns if name not in _BELOW.values()]
    header |= {"memory": text("page.memory"), "unit": name_unit(rows[0].memory_kind, text)}
    header |= {"interval": text("figures.axes.interval")}

    def stack(line: Mapping[str, str]) -> list[Cell]:
        return [
            Stack(line[name], line.get(_BELOW[name], "")) if name in _BELOW else line[name] for name in kept
        ]

    return Table(stack(header), [*map(stack, cells)], left=[kept.index("method")], has_cards=True), marked


def render_csv(evidence: Evidence, *, text: Text) -> str:
    """Write table.csv: the columns of table.md and then EXTRAS, a row per method; unknown is empty."""
    names = [*COLUMNS, *EXTRAS, *_list_columns(evidence.report)[len(COLUMNS) :]]
    if any(row.paged_bytes for row in evidence.rows):
        names.append("paged")
    header = text.under("columns") | text.under("csv_columns")
    values = [_to_values(row, report=evidence.report, text=text) for row in evidence.rows]
    return to_csv([header[name] for name in names], [[row[name] for name in names] for row in values])


def _list_columns(report: ReportConfig) -> tuple[str, ...]:
    """Return the columns of table.md: the cost of a training is one of them where there is a price."""
    return COLUMNS if report.price_per_hour is report.price_per_kwh is None else (*COLUMNS, "cost")


def _to_cells(row: Row, evidence: Evidence, *, text: Text, notes: list[Bullet]) -> dict[str, str]:
    """Write the row's cells; what a cell cannot say goes to the notes, and its number to the cell."""
    title = row.title
    cells = {
        "method": title,
        "memory": _describe_memory(row, text),
        "train_time": format_known(row.train_seconds, text.format_duration),
        "accuracy": format_known(row.accuracy.mean if row.accuracy else None, text.format_percent),
        "f1_macro": format_known(row.f1_macro.mean if row.f1_macro else None, text.format_percent),
        "trainable": format_known(row.trainable_parameters, format_count),
        "seeds": (str(len(row.seeds)) if row.seeds else text("table.any_seed")) if row.selection else UNKNOWN,
        "interval": _say_interval(row, text) or UNKNOWN,
        "hyperparameters": join_hyperparameters(row, text) if row.selection else UNKNOWN,
        "runs": f"{row.runs}/{row.failed_runs}",
        "cost": format_known(price_training(row, evidence.report), lambda cost: f"{cost:.2g}"),
    }

    def mark(column: str, note: str | Bullet) -> None:
        note = Bullet(note) if isinstance(note, str) else note
        if note not in notes:
            notes.append(note)
        cells[column] += superscript(notes.index(note) + 1)

    if row.selection is None:
        cells["accuracy"] = text(f"statuses.{row.status}")
        note = text("notes.no_success", title=title, counts=_join_counts(row.statuses, text))
        if row.error:
            note += text("notes.first_error", error=_shorten(row.error))
        mark("accuracy", note)
    for column in (name for name in COLUMNS if name in row.unknown):
        none_alone = row.not_alone == len(row.run_ids) and column in ("memory", "train_time")
        reason = (
            text("notes.none_alone") if none_alone else clean(row.unknown[column]) or text("notes.no_reason")
        )
        mark(column, text("notes.unknown", title=title, column=text(f"columns.{column}"), reason=reason))
    if row.has_random_weights and row.selection:
        mark("accuracy", text("notes.random_weights"))
        mark("f1_macro", text("notes.random_weights"))
    if row.untrained:
        mark("accuracy", say_untrained(row, evidence.causes, text))
    if 0 < row.not_alone < len(row.run_ids):
        mark("memory", text("notes.not_alone", title=title, count=row.not_alone, runs=len(row.run_ids)))
    if row.lost_seeds:
        mark("seeds", text("notes.some_seeds", title=title, counts=_join_counts(row.lost_seeds, text)))
    if row.edges:
        mark("hyperparameters", say_edges(row, text))
    if left := row.budget.untried:
        mark("runs", text("notes.untried", title=title, count=left, all=left + row.budget.configurations))
    return cells


def _to_values(row: Row, *, report: ReportConfig, text: Text) -> dict[str, Any]:
    """Return the row's cells of table.csv: numbers as numbers."""
    peak, accuracy, f1_macro = row.peak_memory_bytes, row.accuracy, row.f1_macro
    interval, texts, f1_interval = row.interval, row.texts_interval, row.f1_interval
    return {
        "method": row.title,
        "memory": round_six(None if peak is None else peak / GIB),
        "train_time": None if row.train_seconds is None else text.format_duration(row.train_seconds),
        "accuracy": round_six(accuracy.mean if accuracy else None),
        "f1_macro": round_six(f1_macro.mean if f1_macro else None),
        "trainable": row.trainable_parameters,
        "seeds": (len(row.seeds) or text("table.any_seed")) if row.selection else None,
        "interval": _say_interval(row, text),
        "hyperparameters": join_hyperparameters(row, text) if row.selection else None,
        # in words: a spreadsheet reads 12/1 as a date
        "runs": text("table.tried", tried=row.runs, failed=row.failed_runs),
        "data": row.task.data,
        "model": row.task.model,
        "memory_kind": row.memory_kind,
        "status": row.status,
        "memory_bytes": peak,
        "train_seconds": round_six(row.train_seconds),
        "joules": round_six(row.joules),
        "validation": round_six(row.validation),
        "accuracy_low": round_six(interval.low if interval else None),
        "accuracy_high": round_six(interval.high if interval else None),
        "interval_over": interval.over if interval else None,
        "texts_low": round_six(texts.low if texts else None),
        "texts_high": round_six(texts.high if texts else None),
        "accuracy_sd": round_six(accuracy.sd if accuracy else None),
        "f1_macro_low": round_six(f1_interval.low if f1_interval else None),
        "f1_macro_high": round_six(f1_interval.high if f1_interval else None),
        "f1_macro_sd": round_six(f1_macro.sd if f1_macro else None),
        "total": row.total_parameters,
        "weights": "random" if row.has_random_weights else "saved",
        "run_ids": row.run_ids,
        "edges": tuple(edge.path for edge in row.edges),
        "untrained": tuple(result.run_id for result in row.untrained),
        "cost": round_six(price_training(row, report)),
        "paged": round_six(None if row.paged_bytes is None else row.paged_bytes / GIB),
    }


def _explain(evidence: Evidence, text: Text) -> list[str]:
    """Explain where the numbers come from, and what of the data could mislead."""
    rows = evidence.rows
    health = [describe_health(task, text) for task in dict.fromkeys(row.task for row in rows)]
    health += [text("notes.none_tried", title=title, count=count) for title, count in evidence.untried]
    selections = [row.selection for row in rows if row.selection]
    if not selections:
        return [note for note in health if note]
    seeds = sorted({selection.seed for selection in selections if selection.seed is not None})
    at_seed = text("notes.at_seed", seeds=text("join.or").join(map(str, seeds))) if seeds else ""
    metric = text.name_metric(selections[0].select_by)
    kinds = dict.fromkeys(row.memory_kind for row in rows if row.memory_kind)
    notes = [text("notes.choice", metric=metric, at_seed=at_seed), text("notes.numbers")]
    if any(row.as_it_is for row in rows):
        notes.append(text("notes.as_it_is"))
    notes += [text(f"notes.memory.{kind}") for kind in kinds]
    if any(row.paged_bytes for row in rows):
        notes.append(text("notes.paged"))
    errors = [
        abs(result.prediction["error"])
        for result in evidence.results
        if result.prediction.get("error") is not None
    ]
    if errors:
        figures = {"median": statistics.median(errors), "worst": max(errors), "runs": len(errors)}
        notes.append(text("notes.predicted", **figures))
    notes.append(text("notes.interval"))
    marked = {row.interval.over for row in rows if row.interval}
    notes += [
        text(f"notes.intervals.{over}")
        for over in OVER
        if over in marked and over in text.under("notes.intervals")
    ]
    if any(row.selection and not row.seeds for row in rows):
        notes.append(text("notes.any_seed"))
    prices = {name: getattr(evidence.report, name) for name in text.under("notes.prices")}
    if set(prices.values()) != {None}:
        said = (
            text(f"notes.prices.{name}", price=format_number(price))
            for name, price in prices.items()
            if price is not None
        )
        notes.append(text("notes.cost", prices=text("join.comma").join(said)))
    return notes + [note for note in health if note]


def _count_unsuccessful(results: Sequence[Result], bad: Sequence[tuple[str, str]], text: Text) -> list[str]:
    """Say what the numbers leave out: runs by status, and records that cannot be trusted by name."""
    statuses = Counter(result.status for result in results if not result.is_success)
    notes = [text("notes.unsuccessful", counts=_join_counts(statuses, text))] if statuses else []
    if statuses[STARTED]:
        notes.append(text("notes.unfinished"))
    if bad:
        records = [text("notes.bad_one", path=path, reason=_shorten(reason)) for path, reason in bad]
        notes.append(text("notes.bad", records=text("join.comma").join(records)))
    return notes


def _join_counts(statuses: Mapping[str, int], text: Text) -> str:
    order = [one for one in (*STATUSES, STARTED) if statuses.get(one)]
    counted = (text("notes.counted", count=statuses[one], status=text(f"statuses.{one}")) for one in order)
    return text("join.comma").join(counted)


def _say_interval(row: Row, text: Text) -> str | None:
    if row.interval is None:
        return None
    return text(
        f"table.intervals.{row.interval.over}", low=100 * row.interval.low, high=100 * row.interval.high
    )


def _describe_memory(row: Row, text: Text) -> str:
    """Write the peak in GiB, and what was paged to the machine's memory beside it."""
    peak = format_known(row.peak_memory_bytes, format_gib)
    if row.peak_memory_bytes is None or not row.paged_bytes:
        return peak
    return text("table.paged", memory=peak, paged=format_gib(row.paged_bytes))


def _shorten(message: str) -> str:
    message = clean(message)
    return message if len(message) <= _LONGEST_ERROR else f"{message[:_LONGEST_ERROR]}…"
