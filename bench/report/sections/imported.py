"""The section of table.md with other people's results: shown, and counted nowhere."""

from collections.abc import Callable, Sequence
from typing import Any

from bench.report.blocks import Section, Table, make_bullets
from bench.report.cells import UNKNOWN, format_count, format_gib, format_known, format_number
from bench.report.language.text import Text
from bench.results.selection import read_number, read_value
from bench.results.store import Result

_LEFT = ("method", "model", "data", "settings", "kind", "source")
_SETTINGS = {"r": "config.lora.r", "alpha": "config.lora.alpha", "dropout": "config.lora.dropout"}
_SETTINGS |= {"lr": "config.train.lr", "seed": "config.seed"}


def describe_imported(results: Sequence[Result], *, bad: Sequence[tuple[str, str]], text: Text) -> Section:
    """Show other people's results, if there are any; ``bad``: (path, reason) of records left out."""
    if not results and not bad:
        return Section(text("imported.title"), [])
    columns = text.under("imported.columns")
    cells = [_to_cells(result, text) for result in sorted(results, key=_order)]
    left = [index for index, name in enumerate(columns) if name in _LEFT]
    table = Table([*columns.values()], [[row[name] for name in columns] for row in cells], left=left)
    sources = {result.provenance.get("source") for result in results}
    notes = [text("imported.note")]
    notes += [note for source, note in text.under("imported.sources").items() if source in sources]
    if bad:
        records = [text("notes.bad_one", path=path, reason=why) for path, why in bad]
        notes.append(text("imported.bad", records=text("join.comma").join(records)))
    return Section(text("imported.title"), [*([table] if cells else []), make_bullets(notes)])


def _order(result: Result) -> tuple[Any, ...]:
    origin = result.provenance
    return str(origin.get("source")), str(origin.get("file")), origin.get("row") or 0, result.run_id


def _to_cells(result: Result, text: Text) -> dict[str, str]:
    """Return the record's cells by column."""

    def read_text(path: str) -> str:
        value = read_value(result, path)
        return UNKNOWN if value is None else str(value)

    def show(path: str, write: Callable[[float], str]) -> str:
        return format_known(read_number(result, path), write)

    peaks = (one for one in (result.memory.get("train") or {}).values() if one is not None)
    settings = {name: read_number(result, path) for name, path in _SETTINGS.items()}
    source, row = read_text("provenance.file"), result.provenance.get("row")
    accuracy = show("metrics.test.accuracy", text.format_percent)
    return {
        "method": read_text("config.method.title"),
        "model": read_text("config.model.name"),
        "data": read_text("config.data.name"),
        "settings": ", ".join(
            f"{name}={format_number(setting)}" for name, setting in settings.items() if setting is not None
        )
        or UNKNOWN,
        "memory": format_known(next(peaks, None), format_gib),
        "kind": read_text("memory.kind"),
        "train_time": show("time.train_seconds", text.format_duration),
        "accuracy": accuracy if result.is_success else text(f"statuses.{result.status}"),
        "f1_macro": show("metrics.test.f1_macro", text.format_percent),
        "trainable": show("parameters.trainable", format_count),
        "source": f"{read_text('provenance.source')}: "
        + (text("imported.row", file=source, row=row) if row else source),
    }
