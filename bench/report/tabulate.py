"""The rows of one table as cells: in table.md, narrower on the page, and as numbers in table.csv."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench.config.cards import GIB
from bench.config.reporting import ReportConfig
from bench.report.blocks import Bullet, Bullets, Cell, Stack, Table
from bench.report.cells import (
    UNKNOWN,
    clean,
    format_count,
    format_gib,
    format_known,
    round_six,
    superscript,
    to_csv,
)
from bench.report.language.text import Text
from bench.report.naming import join_hyperparameters, name_columns, name_unit, say_edges, say_untrained
from bench.report.numbers.calibration import Reliability
from bench.report.numbers.columns import list_scores
from bench.report.numbers.evidence import Evidence, price_training
from bench.report.numbers.rows import Row, order_row
from bench.results.store import STARTED, STATUSES

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
PROBABILITIES = (  # of table.csv alone, where the predictions of some method hold probabilities
    *("ece", "ece_low", "ece_high", "plain_ece", "brier", "brier_low", "brier_high", "temperatures"),
    *("tempered_ece", "tempered_ece_low", "tempered_ece_high"),
    *("tempered_brier", "tempered_brier_low", "tempered_brier_high"),
    *("answered_90", "answered_90_accuracy", "answered_95", "answered_95_accuracy"),
    *("answered_99", "answered_99_accuracy"),
)
# On the page, where width is dear: what stands below what.
_BELOW = {"method": "hyperparameters", "memory": "unit", "accuracy": "interval", "seeds": "runs"}
_LEFT = (COLUMNS.index("method"), COLUMNS.index("hyperparameters"))  # the other columns are numbers
_NO_SHARES = ("mcc", "loss")  # scores that are no percentage
_LONGEST_ERROR = 200  # characters of a message; the record has all of it


def tabulate(
    rows: Sequence[Row],
    evidence: Evidence,
    *,
    text: Text,
    is_page: bool,
    more: Sequence[Mapping[str, str]] = (),
) -> tuple[Table, Bullets]:
    """Return the table of one kind of memory, and the notes that its cells refer to.

    Args:
        more: further cells of each row by their headers, beside the method. The cells then refer to no notes,
            which stand below the tables of each model.
    """
    notes = list[Bullet]()
    header = name_columns(rows[0].memory_kind, text, multi_label=rows[0].task.multi_label)
    cells = [_to_cells(row, evidence, text=text, notes=None if more else notes) for row in rows]
    columns, left = [*_list_columns(rows, evidence.report)], [*_LEFT]
    header |= {name: name_score(name, text) for name in columns if name not in header}
    if more:
        names = [*more[0]]
        header |= dict(zip(names, names, strict=True))
        cells = [{**line, **beside} for line, beside in zip(cells, more, strict=True)]
        columns[1:1], left = names, [*range(len(names) + 1), _LEFT[-1] + len(names)]
    marked = Bullets(
        [
            replace(note, text=f"{superscript(number)} {note.text}")
            for number, note in enumerate(notes, start=1)
        ]
    )
    if not is_page:
        lines = [[line.get(name, UNKNOWN) for name in columns] for line in cells]
        return Table([header[name] for name in columns], lines, left=left), marked
    kept = [name for name in columns if name not in _BELOW.values()]
    header |= {"memory": text("page.memory"), "unit": name_unit(rows[0].memory_kind, text)}
    header |= {"interval": text("figures.axes.interval")}

    def stack(line: Mapping[str, str]) -> list[Cell]:
        return [
            Stack(line[name], line.get(_BELOW[name], "")) if name in _BELOW else line.get(name, UNKNOWN)
            for name in kept
        ]

    left = [place for place, name in enumerate(kept) if name == "method" or (more and name in more[0])]
    return Table(stack(header), [*map(stack, cells)], left=left, has_cards=True), marked


def render_csv(evidence: Evidence, *, text: Text) -> str:
    """Write table.csv: the columns of table.md and then EXTRAS, a row per method; unknown is empty."""
    rows = sorted((*evidence.rows, *evidence.smaller), key=order_row)
    scores = list_scores(rows, evidence.report.columns)
    names = [*COLUMNS, *EXTRAS, *_list_cost(evidence.report)]
    if any(row.paged_bytes for row in rows):
        names.append("paged")
    if any(row.calibration for row in rows):
        names += PROBABILITIES
    header = text.under("columns") | text.under("csv_columns")
    for name in scores:
        title = name_score(name, text)
        header |= {name: title, f"{name} low": text("scores.low", score=title)}
        header |= {f"{name} high": text("scores.high", score=title)}
        names += [name, f"{name} low", f"{name} high"]
    values = [_to_values(row, report=evidence.report, text=text) | _bound_scores(row, scores) for row in rows]
    return to_csv([header[name] for name in names], [[row[name] for name in names] for row in values])


def _list_columns(rows: Sequence[Row], report: ReportConfig) -> tuple[str, ...]:
    """Return the columns of table.md: also the cost of a training where there is a price, and more scores."""
    return (*COLUMNS, *_list_cost(report), *list_scores(rows, report.columns))


def _list_cost(report: ReportConfig) -> list[str]:
    return ["cost"] * ((report.price_per_hour, report.price_per_kwh) != (None, None))


def name_score(name: str, text: Text) -> str:
    """Return the header of a further score, a metric's own name where the language has no word for it."""
    kind, _, label = name.partition(".")
    return (
        text("scores.of_label", label=clean(label)) if label else text.under("scores.names").get(kind, kind)
    )


def _bound_scores(row: Row, names: Sequence[str]) -> dict[str, float | None]:
    """Return the further scores and the ends of their intervals, for table.csv."""
    values = dict[str, float | None]()
    for name in names:
        found = row.columns.get(name)
        interval = found.interval if found else None
        values[name] = round_six(found.mean if found else None)
        values[f"{name} low"] = round_six(interval.low if interval else None)
        values[f"{name} high"] = round_six(interval.high if interval else None)
    return values


def say_score(row: Row, name: str, text: Text) -> str:
    """Write a further score with its interval."""
    if (found := row.columns.get(name)) is None:
        return UNKNOWN
    is_share = name.partition(".")[0] not in _NO_SHARES
    score = text.format_percent(found.mean) if is_share else f"{found.mean:.3f}"
    if found.interval is None:
        return score
    ends = (found.interval.low, found.interval.high)
    low, high = (f"{100 * end:.1f}" if is_share else f"{end:.3f}" for end in ends)
    return text("scores.bounded", score=score, low=low, high=high)


def _to_cells(row: Row, evidence: Evidence, *, text: Text, notes: list[Bullet] | None) -> dict[str, str]:
    """Write the row's cells; what a cell cannot say goes to the notes, if any, and its number to the cell."""
    title = row.title
    cells = {
        "method": title,
        "memory": _describe_memory(row, text),
        "train_time": format_known(row.train_seconds, text.format_duration),
        "accuracy": format_known(row.accuracy.mean if row.accuracy else None, text.format_percent),
        "f1_macro": format_known(row.f1_macro.mean if row.f1_macro else None, text.format_percent),
        "trainable": format_known(row.trainable_parameters, format_count),
        "seeds": _count_seeds(row, text) if row.selection else UNKNOWN,
        "interval": say_interval(row, text) or UNKNOWN,
        "hyperparameters": join_hyperparameters(row, text) if row.selection else UNKNOWN,
        "runs": f"{row.runs}/{row.failed_runs}",
        "cost": format_known(price_training(row, evidence.report), lambda cost: f"{cost:.2g}"),
        **{name: say_score(row, name, text) for name in list_scores([row], evidence.report.columns)},
    }

    def mark(column: str, note: str | Bullet) -> None:
        if notes is None:
            return
        note = Bullet(note) if isinstance(note, str) else note
        if note not in notes:
            notes.append(note)
        cells[column] += superscript(notes.index(note) + 1)

    if row.selection is None:
        cells["accuracy"] = text(f"statuses.{row.status}")
        note = text("notes.no_success", title=title, counts=join_counts(row.statuses, text))
        if row.error:
            note += text("notes.first_error", error=shorten(row.error))
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
        mark("seeds", text("notes.some_seeds", title=title, counts=join_counts(row.lost_seeds, text)))
    if row.gate_parameters and row.trainable_parameters:
        counts = (row.gate_parameters, row.trainable_parameters - row.gate_parameters)
        gate, rest = map(format_count, counts)
        mark("trainable", text("notes.gate", title=title, gate=gate, rest=rest))
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
        "interval": say_interval(row, text),
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
        **_list_probabilities(row.calibration),
    }


def _list_probabilities(calibration: Reliability | None) -> dict[str, Any]:
    """Return the cells of PROBABILITIES: numbers as numbers."""
    if calibration is None:
        return dict.fromkeys(PROBABILITIES)
    cells: dict[str, Any] = {
        "plain_ece": round_six(calibration.plain_ece),
        "temperatures": tuple("-" if one is None else f"{one:.6g}" for one in calibration.temperatures),
    }
    for name, estimate in calibration.estimates.items():
        ends = {"": estimate.value, "_low": estimate.low, "_high": estimate.high}
        cells |= {f"{name}{end}": round_six(value) for end, value in ends.items()}
    for one in calibration.coverages:
        name = f"answered_{100 * one.wished:.0f}"
        cells |= {name: round_six(one.share), f"{name}_accuracy": round_six(one.accuracy)}
    return cells


def join_counts(statuses: Mapping[str, int], text: Text) -> str:
    """Join how many runs ended in which way."""
    order = [one for one in (*STATUSES, STARTED) if statuses.get(one)]
    counted = (text("notes.counted", count=statuses[one], status=text(f"statuses.{one}")) for one in order)
    return text("join.comma").join(counted)


def say_interval(row: Row, text: Text) -> str | None:
    if row.interval is None:
        return None
    return text(
        f"table.intervals.{row.interval.over}", low=100 * row.interval.low, high=100 * row.interval.high
    )


def _count_seeds(row: Row, text: Text) -> str:
    """Count the seeds of the chosen runs, and their folds in a cross-validation."""
    if row.folds:
        return text("table.folds", seeds=len(set(row.seeds)), folds=row.folds)
    return str(len(row.seeds)) if row.seeds else text("table.any_seed")


def _describe_memory(row: Row, text: Text) -> str:
    """Write the peak in GiB, and what was paged to the machine's memory beside it."""
    peak = format_known(row.peak_memory_bytes, format_gib)
    if row.peak_memory_bytes is None or not row.paged_bytes:
        return peak
    return text("table.paged", memory=peak, paged=format_gib(row.paged_bytes))


def shorten(message: str) -> str:
    """Return the message, cut where it is long."""
    message = clean(message)
    return message if len(message) <= _LONGEST_ERROR else f"{message[:_LONGEST_ERROR]}…"
