"""A hook of MkDocs: fills the marks ``settings``, ``commands`` and ``quickstart`` of pages from the code and
the README, so that nothing stands twice and nothing ages.
"""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from bench import cli  # noqa: E402
from bench.config import checks, schema  # noqa: E402

_SOURCES = ("config/schema.py", "config/cards.py", "config/reporting.py")  # that hold the schema


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with what comes from the code in place of its marks."""
    for name, write in (
        ("settings", write_settings),
        ("commands", write_commands),
        ("quickstart", read_table),
    ):
        if (mark := f"<!-- {name} -->") in markdown:
            markdown = markdown.replace(mark, write())
    return markdown


def read_table() -> str:
    """The quickstart's table and what it shows, from the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return text[text.index("| Method ") : text.index("Beside it lie")]


def write_settings() -> str:
    """A table for each section: every setting with its type, its values in conf/ and what it means."""
    comments = read_comments()
    parts = []
    for section, kind in {"": schema.Config, **sections(schema.Config)}.items():
        rows = [
            f"| `{section}{name}` | {_write(_name(hint))} | {describe_values(section, name)} "
            f"| {_write(explain(section + name, comments.get((kind.__name__, name), '')))} |"
            for name, hint in get_type_hints(kind).items()
            if not is_dataclass(hint)
        ]
        title = f"## {section.rstrip('.') or 'The whole run'}\n\n{(kind.__doc__ or '').splitlines()[0]}\n\n"
        parts.append(
            title
            + "| Setting | Type | Values in conf/ | Meaning and range |\n| --- | --- | --- | --- |\n"
            + "\n".join(rows)
        )
    return "\n\n".join(parts)


def explain(path: str, comment: str) -> str:
    """What the schema says of the setting, and the range that bench/config/checks.py holds it to."""
    ranges = checks._TRAIN_RANGES | checks._OTHER_RANGES
    return "; ".join(filter(None, [comment, ranges[path][1] if path in ranges else ""]))


def sections(schema: type, before: str = "") -> dict[str, type]:
    """Every part of the configuration that is a dataclass itself, by its path with a dot at the end."""
    found: dict[str, type] = {}
    for name, hint in get_type_hints(schema).items():
        if is_dataclass(hint):
            found |= {f"{before}{name}.": hint, **sections(hint, f"{before}{name}.")}
    return found


def describe_values(section: str, name: str) -> str:
    """The value in each file that sets it: one where all agree, else each with the files' names."""
    by_value: dict[str, list[str]] = {}
    for file, value in find_values(section, name):
        by_value.setdefault(_shorten(value), []).append(file)
    if len(by_value) == 1:
        return _code(next(iter(by_value)))
    shown = [
        f"{_code(value)} ({', '.join(files[:4])}{' and more' if len(files) > 4 else ''})"
        for value, files in sorted(by_value.items(), key=lambda one: -len(one[1]))[:4]
    ]
    return "; ".join([*shown, "..."] if len(by_value) > 4 else shown)


def find_values(section: str, name: str) -> Iterator[tuple[str, Any]]:
    """Where conf/ gives the setting a value: in config.yaml, or in a file of its group."""
    group, *inner = section.rstrip(".").split(".")
    for path in [ROOT / "conf/config.yaml", *sorted((ROOT / "conf" / (group or "-")).glob("*.yaml"))]:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        keys = (
            [*inner, name] if path.parent.name == group and group else [*filter(None, [group, *inner]), name]
        )
        for key in keys:
            if not isinstance(values, dict) or key not in values:
                break
            values = values[key]
        else:
            yield path.stem, values


def read_comments() -> dict[tuple[str, str], str]:
    """What the schema's source says behind each field, by class and field."""
    found = {}
    for file in _SOURCES:
        text = (ROOT / "bench" / file).read_text(encoding="utf-8")
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                for field in node.body:
                    if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                        source = "\n".join(lines[field.lineno - 1 : field.end_lineno])
                        note = re.search(r"  # (.*)", source)
                        found[node.name, field.target.id] = note[1] if note else ""
    return found


def write_commands() -> str:
    """Every command with its help, as the terminal has it."""
    parser = cli.make_parser()
    parts = []
    for name, one in parser.list_commands():
        text = one.format_help() if name != "run" else _read_run_help()
        parts.append(f"## bench {name}\n\n```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts)


def _read_run_help() -> str:
    """The part of Hydra's help for ``bench run`` that is bench's own."""
    values = yaml.safe_load((ROOT / "conf/config.yaml").read_text(encoding="utf-8"))
    return str(values["hydra"]["help"]["header"])


def _name(hint: Any) -> str:
    text = hint.__name__ if isinstance(hint, type) else str(hint)
    return "anything" if hint is Any else text.replace("typing.", "").replace("dict[str, Any]", "mapping")


def _shorten(value: Any) -> str:
    text = (
        yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
        .removesuffix("...\n")
        .strip()
    )
    return text if len(text) <= 60 else text[:57] + "..."


def _code(text: str) -> str:
    return f"`{_write(text)}`"


def _write(text: str) -> str:
    """The text in a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")
