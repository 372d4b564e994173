"""The page's lists: all runs, failures, provenance, texts on which two methods differ."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from bench.report.blocks import Block, Cell, Link, Paragraph, Section, Table
from bench.report.cells import UNKNOWN, clean, flatten, format_count, format_gib, format_known, format_number
from bench.report.language.text import ENGLISH, Text
from bench.report.numbers.evidence import Evidence
from bench.report.numbers.rows import Row, find_peak
from bench.report.page.answers import MethodAnswers, compare_answers
from bench.report.page.details import Details
from bench.results.selection import read_number, read_seed, read_value
from bench.results.store import Result

_MOST_TEXTS = 25  # of one method right and another wrong
_LONGEST_TEXT = 300  # characters of a text; the data has all of it
_MOST_VALUES = 6  # of one name of the provenance
_SETTINGS = {"r": "lora.r", "alpha": "lora.alpha", "dropout": "lora.dropout", "lr": "train.lr"}
_SCORES = {
    "accuracy": "metrics.test.accuracy",
    "f1_macro": "metrics.test.f1_macro",
    "validation": "metrics.validation.accuracy",
}


def list_runs(evidence: Evidence) -> Mapping[str, Any]:
    """List every run in the order of runs.csv: cells with what they sort by, None where unknown."""
    runs = [_read_run(result) for result in evidence.results]
    runs.sort(key=lambda run: [str(run[name]["text"]) for name in ("data", "model", "method", "run_id")])
    same = [name for name in ("data", "model") if len({run[name]["text"] for run in runs}) < 2]
    header = [name for name in ENGLISH.under("page.run_columns") if name not in same]
    return {
        "header": header,
        "statuses": sorted({run["status"]["status"] for run in runs}),
        "methods": sorted({run["method"]["text"] for run in runs}),
        "rows": [
            {
                "status": run["status"]["status"],
                "method": run["method"]["text"],
                "cells": [{"href": None, "status": None, **run[name]} for name in header],
            }
            for run in runs
        ],
    }


def _read_run(result: Result) -> dict[str, dict[str, Any]]:
    def cell(value: Any, text: str | None = None) -> dict[str, Any]:
        return {"value": value, "text": UNKNOWN if value is None else text or clean(format_number(value))}

    def show(value: float | None, write: Callable[[float], str]) -> dict[str, Any]:
        return cell(value, format_known(value, write))

    def percent(path: str) -> dict[str, Any]:
        return show(read_number(result, path), lambda share: f"{100 * share:.1f}")

    peak = read_number(result, find_peak(result, read_value(result, "memory.kind")))
    seconds = read_number(result, "time.train_seconds")
    title = clean(str(read_value(result, "config.method.title") or read_value(result, "config.method.name")))
    return {
        "run_id": cell(result.run_id) | {"href": f"runs/{result.run_id}/"},
        "status": cell(result.status) | {"status": result.status},
        "method": cell(title),
        **{name: percent(path) for name, path in _SCORES.items()},
        "memory": show(peak, format_gib),
        "train_time": show(seconds, lambda seconds: f"{seconds:.1f}" if seconds >= 1 else f"{seconds:.3f}"),
        **{name: cell(read_value(result, f"canonical_config.{path}")) for name, path in _SETTINGS.items()},
        "seed": cell(read_seed(result)),
        **{name: cell(str(read_value(result, f"config.{name}.name"))) for name in ("data", "model")},
    }


def list_failures(evidence: Evidence, *, text: Text) -> list[Block]:
    """List every run without success with its cause, and the records that cannot be trusted."""
    failed = sorted(
        (result for result in evidence.results if not result.is_success), key=lambda result: result.run_id
    )
    blocks = list[Block]()
    if failed:
        header = [*text.under("page.failure_columns").values(), text("page.log")]
        rows = [_tell_failure(one, text) for one in failed]
        blocks.append(Table(header, rows))
    elif evidence.results and not evidence.bad:
        blocks.append(Paragraph(text("page.none_failed")))
    if bad := [*evidence.bad, *evidence.bad_imported]:
        header = [text("page.failure_columns.run_id"), text("page.failure_columns.message")]
        blocks.append(Section(text("page.bad_records"), [Table(header, bad)]))
    return blocks


def _tell_failure(result: Result, text: Text) -> list[Cell]:
    folder = f"runs/{result.run_id}/"
    error = {name: clean(str(read_value(result, f"error.{name}") or "")) for name in ("type", "message")}
    title = read_value(result, "config.method.title") or read_value(result, "config.method.name")
    return [
        Link(result.run_id, folder),
        clean(str(title)),
        text(f"statuses.{result.status}"),
        text.under("figures.phases").get(result.phase, result.phase),
        error["type"] or UNKNOWN,
        _shorten(error["message"]) or UNKNOWN,
        Link("log.txt", f"{folder}log.txt"),
    ]


def list_provenance(evidence: Evidence, *, text: Text) -> list[Block]:
    """List machines, packages, code, model and data of the records, and how many runs have each."""
    counters = dict[str, Counter[str]]()
    for result in sorted(evidence.results, key=lambda result: result.run_id):
        fingerprint = read_value(result, "canonical_config.data.fingerprint")
        leaves = flatten({"data_fingerprint": fingerprint, **result.provenance})
        for name, value in leaves.items():
            if value is not None:
                counters.setdefault(name, Counter())[
                    clean(json.dumps(value) if isinstance(value, bool) else format_number(value))
                ] += 1
    rows = []
    for name in sorted(counters):
        counts = sorted(counters[name].items(), key=lambda pair: (-pair[1], pair[0]))
        values = [text("page.of_runs", value=value, count=count) for value, count in counts[:_MOST_VALUES]]
        shown = [counts[0][0]] if len(counts) == 1 else values
        rows.append([clean(name), text("join.semicolon").join(shown) + "…" * (len(counts) > _MOST_VALUES)])
    if not rows:
        return []
    header = [*text.under("page.provenance_columns").values()]
    return [Paragraph(text("page.provenance")), Table(header, rows)]


def list_article(evidence: Evidence, *, text: Text) -> list[Block]:
    """List the article's numbers beside these, for each of its methods that has a success."""
    blocks = list[Block]()
    for task, kind in dict.fromkeys((row.task, row.memory_kind) for row in evidence.rows):
        rows: list[list[Cell]] = []
        for one in evidence.report.article.table:
            same = [
                row
                for row in evidence.rows
                if (row.task, row.memory_kind, row.method) == (task, kind, one.method) and row.selection
            ]
            for row in same[:1]:
                title = row.title
                theirs = [
                    f"{one.memory_gb:g} GB",
                    text.format_duration(3600 * one.train_hours),
                    text.format_percent(one.accuracy),
                    text.format_percent(one.f1_macro),
                    format_count(one.trainable_parameters),
                ]
                rows.append([f"{title} ({text('page.article')})", *theirs])
                rows.append([f"{title} ({text('page.measured')})", *_measure(row, text)])
        if rows:
            blocks.append(Table([*text.under("page.article_columns").values()], rows))
    return [Paragraph(text("page.how_article")), *blocks] if blocks else []


def _measure(row: Row, text: Text) -> list[str]:
    return [
        format_known(row.peak_memory_bytes, lambda count: f"{format_gib(count)} GiB"),
        format_known(row.train_seconds, text.format_duration),
        format_known(row.accuracy.mean if row.accuracy else None, text.format_percent),
        format_known(row.f1_macro.mean if row.f1_macro else None, text.format_percent),
        format_known(row.trainable_parameters, format_count),
    ]


def list_apart(evidence: Evidence, details: Details, *, text: Text) -> list[Block]:
    """List the test texts that only one of two compared methods has right."""
    by_row = {id(answer.row): answer for answer in details.answers}
    blocks = list[Block]()
    for compared in (one for one in evidence.comparisons if not one.is_across):
        pair = [by_row.get(id(row)) for row in (compared.other, compared.one)]
        for one, other in (pair, pair[::-1]):
            if one and other and (block := _tell_apart(one, other, details, text)):
                blocks.append(block)
    unread: list[Block] = [
        Paragraph(text("page.unread", title=row.title, reason=why)) for row, why in details.unread
    ]
    if not blocks:
        return unread
    how = Paragraph(text("page.how_apart", comparisons=text("comparisons.title")))
    reasons = [
        text("page.texts_unread", reason=reason)
        for task in dict.fromkeys(answer.row.task for answer in details.answers)
        if isinstance(reason := details.texts[task], str)
    ]
    notes = map(Paragraph, dict.fromkeys(reasons))
    return [*unread, Section(text("page.apart"), [how, *notes, *blocks])]


def _tell_apart(
    method_answers: MethodAnswers, other: MethodAnswers, details: Details, text: Text
) -> Section | None:
    compared = compare_answers(method_answers, other)
    if compared is None or not compared.ids:
        return None
    names = [side.row.title for side in (method_answers, other)]
    texts = details.texts[method_answers.row.task]
    columns = text.under("page.text_columns")
    columns["other"] = text("page.text_columns.other", other=names[1])
    rows: list[list[Cell]] = []
    for key in compared.ids[:_MOST_TEXTS]:
        cells = {
            "id": str(key),
            "text": UNKNOWN if isinstance(texts, str) else _shorten(clean(texts.get(key, UNKNOWN))),
            "label": str(method_answers.test["label"][key]),
            "other": str(other.test["prediction"][key]),
        }
        rows.append([cells[name] for name in columns if name != "text" or not isinstance(texts, str)])
    if isinstance(texts, str):
        del columns["text"]
    summary = text("page.only_right", one=names[0], other=names[1], count=len(compared.ids))
    further = len(compared.ids) - len(rows)
    if further:
        rows.append(["…", text("page.further", count=further), *[""] * (len(columns) - 2)])
    return Section(summary, [Table([*columns.values()], rows)], is_folded=True)


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"
