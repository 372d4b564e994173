"""table.tex: the tables of table.md for a paper, each with its notes and its comparisons' tests below.

It needs the packages booktabs and graphicx, and for Chinese ctex with XeLaTeX or LuaLaTeX.
"""

import re
from collections.abc import Sequence

from bench.report.across.models import list_panels, tabulate_panel
from bench.report.blocks import Table, read_cell
from bench.report.cells import clean
from bench.report.language.text import Text
from bench.report.numbers.comparison import Comparison, count_looks
from bench.report.numbers.contrast import group_rows
from bench.report.numbers.evidence import Evidence
from bench.report.sections.methods import say_points, say_verdict
from bench.report.table import describe_tables
from bench.report.tabulate import tabulate

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': r"\textquotedbl{}",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "≥": r"$\geq$",
    "“": "``",
    "”": "''",
    "-": "-{}",  # else two of them are a dash
    "[": "{[}",  # else an argument after the end of a row, as the star
    "]": "{]}",
    "*": "{*}",
    "'": "'{}",
    **{mark: f"\\{mark}" for mark in "{}$&#_%"},
}
_DIGITS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_LEAST_P = 0.001


def render_latex(evidence: Evidence, *, text: Text) -> str:
    """Write a LaTeX table for each table of table.md."""
    _, titles = describe_tables(evidence, text=text, drawn={})
    packages = ["booktabs", "graphicx"] + ["ctex"] * (not text.sentences["latex.test"].isascii())
    parts = [f"% \\usepackage{{{', '.join(packages)}}}"]
    for split, panel in list_panels(evidence, text).items():
        table, marked = tabulate_panel(panel, evidence, text=text, is_page=False)
        notes = [note.text for note in marked.items]
        notes += _list_tests(panel.across, evidence, text)
        parts.append(_write_table(table, title=titles[split], notes=notes))
    within = [pair for pair in evidence.comparisons if not pair.is_across]
    for group, rows in group_rows(evidence.rows).items():
        table, marked = tabulate(rows, evidence, text=text, is_page=False)
        compared = [pair for pair in within if (pair.one.task, pair.one.memory_kind) == group]
        notes = [note.text for note in marked.items] + _list_tests(compared, evidence, text)
        parts.append(_write_table(table, title=titles[group], notes=notes))
    return "\n".join(parts) + "\n"


def _list_tests(compared: Sequence[Comparison], evidence: Evidence, text: Text) -> list[str]:
    """List each comparison with its p values, below what was tested and how."""
    if not compared:
        return []
    points, looks = text.format_points(compared[0].delta), count_looks(evidence.rows)
    return [
        text("latex.test", points=points, count=len(evidence.comparisons)),
        *([text("comparisons.looks", count=looks)] * (looks > 1)),
        *(
            text(
                "latex.comparison",
                pair=text("comparisons.pair", one=one.one.title, other=one.other.title),
                points=say_points(one.accuracy, text),
                p=_format_p(one.adjusted_p),
                equal_p=_format_p(one.adjusted_equal_p),
                verdict=say_verdict(one, text),
            )
            for one in compared
        ),
    ]


def _format_p(p_value: float) -> str:
    return f"< {_LEAST_P}" if p_value < _LEAST_P else f"= {p_value:.3f}"


def _write_table(table: Table, *, title: str, notes: Sequence[str]) -> str:
    left = range(len(table.header)) if table.left is None else table.left
    columns = "".join("l" if place in left else "r" for place in range(len(table.header)))
    header, *lines = (
        " & ".join(escape_latex(read_cell(cell)) for cell in row) + r" \\"
        for row in (table.header, *table.rows)
    )
    below = [rf"\par {escape_latex(note)}" for note in notes]
    return "\n".join(
        [
            r"\begin{table*}",
            r"\centering",
            rf"\caption{{{escape_latex(title)}}}",
            r"\resizebox{\linewidth}{!}{%",
            rf"\begin{{tabular}}{{{columns}}}",
            *(r"\toprule", header, r"\midrule", *lines, r"\bottomrule"),
            r"\end{tabular}}",
            *([r"\begin{minipage}{\linewidth}", r"\footnotesize", *below, r"\end{minipage}"] * bool(below)),
            r"\end{table*}",
        ]
    )


def escape_latex(text: str) -> str:
    """Write the text as LaTeX that shows it, in a cell or in a sentence, and does nothing else."""
    escaped = "".join(_SPECIAL.get(character, character) for character in clean(text))
    return re.sub(
        "[⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda found: rf"\textsuperscript{{{found[0].translate(_DIGITS)}}}", escaped
    )
