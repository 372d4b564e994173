"""table.tex: the numbers of table.md, in LaTeX that compiles, whatever the texts in it are."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from records import make_evidence, make_run
from report_folder import HOSTILE, make_hostile, make_sweep

from bench.report.blocks import read_cell
from bench.report.language.text import LANGUAGES, Text
from bench.report.latex import escape_latex, render_latex
from bench.report.numbers.contrast import group_rows
from bench.report.tabulate import tabulate
from bench.results.store import Result

ENGLISH, CHINESE = LANGUAGES["en"], LANGUAGES["zh"]
SPECIAL = r"\begin{x} \\[1ex] $a_b^c$ 100 % # & ~ {y} `z' -- \input{/etc/passwd} ^^41 *"
ENGINE = next((name for name in ("tectonic", "pdflatex") if shutil.which(name)), None)


def hostile() -> list[Result]:
    runs = make_hostile()
    names = {"title": SPECIAL, "data": SPECIAL, "model": SPECIAL}
    return [*runs, make_run("tfidf", names=names), make_run("full", names=names, lr=2e-3)]


def undo(latex: str) -> str:
    """The text that LaTeX shows, of what bench writes."""
    for shown, written in (
        *((mark, f"\\{mark}") for mark in "$&#_%"),
        *(("~", r"\textasciitilde{}"), ("^", r"\textasciicircum{}"), ("<", r"\textless{}")),
        *((">", r"\textgreater{}"), ("|", r"\textbar{}"), ("`", r"\textasciigrave{}")),
        *(("–", "--"), ("-", "-{}"), ("[", "{[}"), ("]", "{]}"), ("*", "{*}"), ("'", "'{}")),
        *(('"', r"\textquotedbl{}"), ("≥", r"$\geq$"), ("…", r"\ldots{}")),
        *(("{", r"\{"), ("}", r"\}"), ("\\", r"\textbackslash{}")),
    ):
        latex = latex.replace(written, shown)
    digits = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
    return re.sub(r"\\textsuperscript{(\d+)}", lambda found: found[1].translate(digits), latex)


@pytest.mark.parametrize("text", [ENGLISH, CHINESE], ids=lambda text: text.lang)
def test_its_rows_are_those_of_table_md(text: Text) -> None:
    evidence = make_evidence(make_sweep())
    (rows,) = group_rows(evidence.rows).values()
    table, _ = tabulate(rows, evidence, text=text, is_page=False)
    latex = render_latex(evidence, text=text)
    lines = [line.removesuffix(r" \\") for line in latex.splitlines() if line.endswith(r" \\")]
    cells = [[undo(cell) for cell in line.split(" & ")] for line in lines]
    assert cells == [[read_cell(cell) for cell in row] for row in (table.header, *table.rows)]
    assert r"\begin{tabular}{lrrrrrrrlr}" in latex


def test_each_comparison_has_its_test_and_p_values_below() -> None:
    worse = [make_run("lora", seed=seed, test=0.7) for seed in range(3)]
    evidence = make_evidence([*(make_run("full", seed=seed, test=0.9) for seed in range(3)), *worse])
    latex = render_latex(evidence, text=ENGLISH)
    assert r"\par Paired tests of accuracy over test texts and seeds (crossed random effects)." in latex
    (one,) = evidence.comparisons
    assert one.adjusted_p < 0.001
    (line,) = [line for line in latex.splitlines() if " vs " in line]
    assert re.fullmatch(
        r"\\par LoRA vs Full fine-{}tuning: -{}20\.0 \(.+\) points, "
        r"p \\textless{} 0\.001, p \(same\) = 1\.000: "
        r"Full fine-{}tuning is more accurate\.",
        line,
    )


def test_hostile_texts_are_only_shown() -> None:
    latex = render_latex(make_evidence(hostile()), text=ENGLISH)
    assert (
        latex.count(r"\begin{table*}")
        == latex.count(r"\end{table*}")
        == len(group_rows(make_evidence(hostile()).rows))
    )
    assert not re.search(r"\\(?:input|begin{x}|write|immediate)", latex)
    assert escape_latex(r"[1ex]* --'") == "{[}1ex{]}{*} -{}-{}'{}"  # after the end of a row, and as a dash
    shown = undo(escape_latex(SPECIAL))
    assert shown == SPECIAL
    assert undo(escape_latex(HOSTILE)) == HOSTILE
    plain = re.sub(r"\\.", "", latex)
    assert plain.count("{") == plain.count("}")
    assert "%" not in plain.replace("{!}{%", "").replace("% ", "", 1)
    for name in re.findall(r"\\begin{(\w+\*?)}", latex):
        assert latex.count(rf"\begin{{{name}}}") == latex.count(rf"\end{{{name}}}"), name


def test_rows_do_not_depend_on_the_order_of_the_runs() -> None:
    runs = make_sweep()
    assert render_latex(make_evidence(runs), text=ENGLISH) == render_latex(
        make_evidence(runs[::-1]), text=ENGLISH
    )


@pytest.mark.skipif(ENGINE is None, reason="neither tectonic nor pdflatex is on this machine")
def test_it_compiles(tmp_path: Path) -> None:
    runs = [replace(run, labels=["a", "b"]) for run in hostile()]
    body = render_latex(make_evidence([*make_sweep(), *runs]), text=ENGLISH)
    packages = r"\usepackage[T1]{fontenc}\usepackage{booktabs, graphicx}"
    document = rf"\documentclass{{article}}{packages}\begin{{document}}{body}\end{{document}}"
    (tmp_path / "paper.tex").write_text(document, encoding="utf-8")
    command = [str(ENGINE), *(["-interaction=nonstopmode"] if ENGINE == "pdflatex" else []), "paper.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "paper.pdf").stat().st_size > 0
