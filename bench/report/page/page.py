"""report.html: one page that needs nothing else, in every language, made from the results alone.

Other people's texts are inert: the template and ``markup.py`` escape them, JSON inside the page cannot end
its element, and the policy allows only the page's own scripts, by hash, and no request.
"""

import base64
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from bench.config.reporting import ReportConfig
from bench.report.blocks import Block, Figures, Paragraph, Section, is_empty
from bench.report.cells import clean
from bench.report.language.text import LANGUAGES, Text, read_language
from bench.report.naming import place, title_tasks
from bench.report.numbers.evidence import Evidence, gather
from bench.report.page.details import Details, gather_details
from bench.report.page.figures import draw_all
from bench.report.page.images import render_images
from bench.report.page.inventory import list_apart, list_article, list_failures, list_provenance, list_runs
from bench.report.page.markup import write_html
from bench.report.table import Drawn, describe_all, describe_sections, describe_tables, render_files
from bench.results.store import Store

PAGE = "report.html"
_ORDER = (
    *(
        "methods",
        "datasets",
        "multitask",
        "sizes",
        "updates",
        "findings",
        "comparisons",
        "search",
        "training",
        "answers",
        "probabilities",
        "together",
        "distillation",
        "gates",
        "latency",
        "claims",
        "imported",
    ),
    *("runs", "failures", "notes", "provenance"),
)
# which figures stand in which section
_PLACES = {
    "search": ("effect", "heatmap"),
    "training": ("loss", "validation", "time", "memory", "predicted"),
    "answers": ("f1", "confusion"),
    "probabilities": ("reliability", "tempered"),
}


def write_report(store: Store, *, lang: str, report: ReportConfig) -> list[Path]:
    """Write figures/, the tables with them and report.html, which opens in ``lang``; return the paths.

    Raises:
        ConfigError: no such language.
        StoreError: the folder cannot be written.
    """
    text, evidence = read_language(lang), gather(store, report)
    details = gather_details(evidence, store)
    drawn = {code: draw_all(evidence, details, text=value) for code, value in LANGUAGES.items()}
    figures = [figure for same in drawn[lang].values() for figure in same]
    images = render_images(figures)
    blocks = describe_all(evidence, text=text, drawn=drawn[lang])
    files: dict[str, str | bytes] = {
        **images,
        **render_files(evidence, blocks, text=text),
        PAGE: render_page(evidence, details, drawn, lang=lang),
    }
    written = [store.write_report(name, body) for name, body in files.items()]
    store.keep_reports("figures", [path.name for path in written])
    return written


def render_page(evidence: Evidence, details: Details, drawn: Mapping[str, Drawn], *, lang: str) -> str:
    """Render the whole page; ``drawn``: the figures of each table, by language."""
    parts = {code: _list_parts(evidence, details, drawn[code], text=text) for code, text in LANGUAGES.items()}
    charts, has_charts = _pack_charts(drawn)
    style, script, vega = _read_asset("report.css") + _hide_others(), _read_asset("report.js"), _bundle()
    policy = {
        "default-src": "'none'",
        "script-src": " ".join(map(_hash, [script] + [vega] * has_charts)),
        "style-src": _hash(style),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    template = _environment().from_string(_read_asset("report.html"))
    return template.render(
        lang=lang,
        languages=LANGUAGES,
        policy="; ".join(f"{name} {value}" for name, value in policy.items()),
        style=Markup(style),
        script=Markup(script),
        vega=Markup(vega),
        has_charts=has_charts,
        charts=Markup(charts),
        order=[name for name in _ORDER if name in parts[lang]],
        parts=parts,
        write_html=write_html,
        subtitles={code: _say_subtitle(evidence, text) for code, text in LANGUAGES.items()},
        runs=list_runs(evidence),
    )


def _say_subtitle(evidence: Evidence, text: Text) -> str:
    """Name the task, unless there are several, which stand over their tables, and count the runs."""
    shown, titles = {row.task for row in evidence.rows}, title_tasks(evidence.tasks, text)
    tasks = [title for task, title in titles.items() if task in shown]
    succeeded = sum(result.is_success for result in evidence.results)
    counted = text("page.lead", runs=len(evidence.results), succeeded=succeeded)
    return " · ".join([*(tasks if len(tasks) == 1 else ()), counted])


def _list_parts(evidence: Evidence, details: Details, drawn: Drawn, *, text: Text) -> dict[str, Section]:
    """Return the page's sections in one language by name, without those that say nothing."""
    tables, titles = describe_tables(evidence, text=text, drawn=drawn, is_page=True)
    if len(tables) == 1 and isinstance(tables[0], Section):  # its title is the page's
        tables = [*tables[0].blocks]
    described = describe_sections(evidence, titles=titles, text=text)

    def pick(name: str) -> list[Block]:
        blocks = list[Block]()
        for group, figures in drawn.items():
            chosen = [figure for kind in _PLACES[name] for figure in figures if figure.kind == kind]
            if chosen:
                blocks += place(group, titles, [Figures(chosen)])
        return blocks

    claims, probabilities = described["claims"].blocks, described["probabilities"].blocks
    own: dict[str, Sequence[Block]] = {
        "methods": tables,
        "search": [*pick("search"), replace(described["budget"], is_folded=True)],
        "training": [*pick("training"), *_explain_prediction(evidence, drawn, text)],
        "answers": [*pick("answers"), *list_apart(evidence, details, text=text)],
        "runs": [Paragraph(text("page.sort"))] if evidence.results else [],
        "failures": list_failures(evidence, text=text),
        "provenance": list_provenance(evidence, text=text),
    }
    named = text.under("page.sections")
    sections = {
        **described,
        "claims": Section(described["claims"].title, [*claims, *list_article(evidence, text=text)]),
        "probabilities": replace(described["probabilities"], blocks=[*probabilities, *pick("probabilities")]),
        **{name: Section(named[name], blocks) for name, blocks in own.items()},
    }
    return {name: section for name, section in sections.items() if not is_empty(section)}


def _explain_prediction(evidence: Evidence, drawn: Drawn, text: Text) -> list[Block]:
    """Say why there is no figure of predicted against measured memory, if there is none."""
    kinds = {figure.kind for figures in drawn.values() for figure in figures}
    if "predicted" in kinds or not any(row.selection for row in evidence.rows):
        return []
    reasons = [
        result.reasons[name]
        for result in evidence.results
        for name in ("prediction.error",)
        if name in result.reasons
    ]
    reason = f" ({clean(reasons[0])})" if reasons else ""
    return [Paragraph(text("page.nothing_predicted", reason=reason))]


def _pack_charts(drawn: Mapping[str, Drawn]) -> tuple[str, bool]:
    """Pack all charts as JSON, their rows once for all languages; return whether there is any."""
    data: dict[str, Any] = {}
    specs: dict[str, dict[str, Any]] = {}
    for code, groups in drawn.items():
        specs[code] = {}
        for figure in (one for figures in groups.values() for one in figures):
            data |= figure.spec["datasets"]
            specs[code][figure.name] = figure.spec | {"datasets": dict.fromkeys(figure.spec["datasets"])}
    packed = json.dumps({"data": data, "specs": specs}, ensure_ascii=False, sort_keys=True, allow_nan=False)
    for character in "<>&\u2028\u2029":  # so that no text ends the element that it stands in
        packed = packed.replace(character, f"\\u{ord(character):04x}")
    return packed, bool(data)


def _hide_others() -> str:
    """Write the style that hides all languages except the page's own."""
    others = (f'html[lang="{code}"] .say:not([lang="{code}"])' for code in LANGUAGES)
    return f"{', '.join(others)} {{ display: none; }}\n"


@functools.cache
def _bundle() -> str:
    """Return Vega, Vega-Lite and vega-embed with its interpreter, as one script."""
    bundle = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub asks for a snippet
    return str(bundle).replace("</script", "<\\/script")


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=False)


def _read_asset(name: str) -> str:
    return resources.files("bench.assets").joinpath(name).read_text(encoding="utf-8")


def _hash(body: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'"
