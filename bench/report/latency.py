"""The section of table.md with what classifying a text takes, as ``bench latency`` measured it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.report.cells import escape_markdown, to_markdown
from bench.report.evidence import Latency
from bench.report.language.text import Text
from bench.report.sections import bullets, section
from bench.results.store import Result


def describe_latencies(latencies: Sequence[tuple[Result, Latency]], *, text: Text) -> str:
    """A table of every form of every run that was measured, in the order of the runs."""
    lines, notes = list[list[str]](), list[str]()
    for result, found in latencies:
        name = f"{result.config['method']['title']} ({result.run_id})"
        lines += [[escape_markdown(name), *cells] for cells in list_forms(found["forms"], text)]
        hardware = found.get("hardware") or {}
        machine = hardware.get("gpu") or hardware.get("cpu") or text("unknown")
        notes.append(
            text(
                "latency.how",
                machine=escape_markdown(str(machine)),
                threads=found.get("threads"),
                texts=found.get("texts"),
            )
        )
    if not lines:
        return ""
    header = [text("columns.method"), *text.under("latency.columns").values()]
    return section(
        text("latency.title"), [to_markdown(header, lines, left=[0, 1]), bullets(dict.fromkeys(notes))]
    )


def list_forms(forms: Iterable[Mapping[str, Any]], text: Text) -> list[list[str]]:
    """The cells of each form: its name, batch size, milliseconds per text (p50, p95), texts per second."""
    return [
        [
            escape_markdown(text.under("latency.forms").get(one["form"], one["form"])),
            str(one["batch_size"]),
            f"{one['p50_ms']:.2f}",
            f"{one['p95_ms']:.2f}",
            f"{one['texts_per_second']:.0f}",
        ]
        for one in forms
    ]
