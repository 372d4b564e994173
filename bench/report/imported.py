"""The section of table.md with other people's results: shown, and counted nowhere."""

from collections.abc import Sequence
from typing import Any

from bench.report.cells import (
    UNKNOWN,
    escape_markdown,
    format_count,
    format_gib,
    format_number,
    to_markdown,
)
from bench.report.language.text import Text
from bench.results.selection import read_number, read_value
from bench.results.store import Result

_LEFT = ("method", "model", "data", "settings", "kind", "source")
_SETTINGS = {"r": "config.lora.r", "alpha": "config.lora.alpha", "dropout": "config.lora.dropout"}
_SETTINGS |= {"lr": "config.train.lr", "seed": "config.seed"}


def describe_imported(results: Sequence[Result], *, bad: Sequence[tuple[str, str]], text: Text) -> str:
    """The section, or nothing where nothing was imported; bad: (path, reason) of records left out."""
    if not results and not bad:
        return ""
    columns = text.under("imported.columns")
    table = [_to_cells(one, text) for one in sorted(results, key=_order)]
    left = [index for index, name in enumerate(columns) if name in _LEFT]
    parts = [f"## {text('imported.title')}\n"]
    if table:
        parts.append(
            to_markdown(list(columns.values()), [[row[name] for name in columns] for row in table], left=left)
        )
    sources = {one.provenance.get("source") for one in results}
    notes = [text("imported.note")]
    notes += [note for source, note in text.under("imported.sources").items() if source in sources]
    if bad:
        records = [
            text("notes.bad_one", path=escape_markdown(path), reason=escape_markdown(why))
            for path, why in bad
        ]
        notes.append(text("imported.bad", records=text("join.comma").join(records)))
    return "\n".join([*parts, "".join(f"- {note}\n" for note in notes)])


def _order(result: Result) -> tuple[Any, ...]:
    origin = result.provenance
    return str(origin.get("source")), str(origin.get("file")), origin.get("row") or 0, result.run_id


def _to_cells(result: Result, text: Text) -> dict[str, str]:
    """The record's cells as Markdown, every text of it escaped."""

    def read_text(path: str) -> str:
        value = read_value(result, path)
        return UNKNOWN if value is None else escape_markdown(str(value))

    numbers = {
        "memory": next((one for one in (result.memory.get("train") or {}).values() if one is not None), None),
        "train_time": read_number(result, "time.train_seconds"),
        "accuracy": read_number(result, "metrics.test.accuracy"),
        "f1_macro": read_number(result, "metrics.test.f1_macro"),
        "trainable": read_number(result, "parameters.trainable"),
    }
    settings = {name: read_number(result, path) for name, path in _SETTINGS.items()}
    source, row = read_text("provenance.file"), result.provenance.get("row")

    def show(name: str, write: Any) -> str:
        return UNKNOWN if numbers[name] is None else str(write(numbers[name]))

    return {
        "method": read_text("config.method.title"),
        "model": read_text("config.model.name"),
        "data": read_text("config.data.name"),
        "settings": ", ".join(
            f"{name}={format_number(one)}" for name, one in settings.items() if one is not None
        )
        or UNKNOWN,
        "memory": show("memory", format_gib),
        "kind": read_text("memory.kind"),
        "train_time": show("train_time", text.format_duration),
        "accuracy": show("accuracy", text.format_percent)
        if result.status == "success"
        else text(f"statuses.{result.status}"),
        "f1_macro": show("f1_macro", text.format_percent),
        "trainable": show("trainable", format_count),
        "source": f"{read_text('provenance.source')}: "
        + (text("imported.row", file=source, row=row) if row else source),
    }
