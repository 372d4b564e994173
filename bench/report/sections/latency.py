"""The section of table.md with what classifying a text takes, as ``bench latency`` measured it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.report.blocks import Block, Section, Table, make_bullets
from bench.report.cells import clean
from bench.report.language.text import Text
from bench.report.numbers.evidence import Latency
from bench.results.store import Result


def describe_latencies(latencies: Sequence[tuple[Result, Latency]], *, text: Text) -> Section:
    """Tabulate every form of every run that was measured, in the order of the runs."""
    lines, notes = list[list[str]](), list[str]()
    for result, found in latencies:
        title, seeds = result.config["method"]["title"], found.get("run_ids")
        if seeds:
            title = text("together.row", title=title, count=len(seeds))
        if tasks := found.get("tasks"):
            title = text("multitask.latency", title=title, tasks=text.join([*map(clean, tasks)]))
        name = f"{title} ({result.run_id})"
        lines += [[name, *cells] for cells in list_forms(found["forms"], text)]
        hardware = found.get("hardware") or {}
        machine = hardware.get("gpu") or hardware.get("cpu") or text("unknown")
        counts = {name: found.get(name) for name in ("threads", "texts")}
        notes.append(text("latency.how", machine=machine, **counts))
    header = [text("columns.method"), *text.under("latency.columns").values()]
    blocks: list[Block] = [Table(header, lines, left=[0, 1]), make_bullets(dict.fromkeys(notes))]
    return Section(text("latency.title"), blocks if lines else [])


def list_forms(forms: Iterable[Mapping[str, Any]], text: Text) -> list[list[str]]:
    """Return the cells of each form: name, batch size, milliseconds per text (p50, p95), texts per second."""
    names = text.under("latency.forms")
    return [
        [
            names.get(form["form"], form["form"]),
            str(form["batch_size"]),
            f"{form['p50_ms']:.2f}",
            f"{form['p95_ms']:.2f}",
            f"{form['texts_per_second']:.0f}",
        ]
        for form in forms
    ]
