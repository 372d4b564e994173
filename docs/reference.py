"""Pages that are made from the code, so that nothing stands twice and nothing ages.

``python docs/reference.py`` writes docs/settings.md from the schema. As a hook of MkDocs this fills the marks
``commands`` and ``quickstart`` of other pages, from the commands' help and from the README.
"""

import ast
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from bench import cli  # noqa: E402
from bench.config import fields, schema  # noqa: E402

_SOURCES = ("config/schema.py", "config/reporting.py")  # that hold the schema


SETTINGS = ROOT / "docs" / "settings.md"
_INTRODUCTION = """# Settings

Every setting can be given on the command line: `bench run lora.r=16 train.lr=1e-3`. Values live in `conf/`,
in the files named here; `bench run --cfg job` prints what a command comes to.

The last column says what is part of a run_id. A setting that is not (*no*) cannot change a result. Settings
of texts and models count *by content*: the same files under another name are the same run. A setting that
counts *unless* it has some value is off at that value, and runs from before it was there keep their ids.

`python docs/reference.py` writes this page from `bench/config/schema.py`; a test says when it is stale.
"""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put what comes from the code in place of a page's marks."""
    for name, write in (("commands", write_commands), ("quickstart", read_table)):
        if (mark := f"<!-- {name} -->") in markdown:
            markdown = markdown.replace(mark, write())
    return markdown


def read_table() -> str:
    """Read the quickstart's table and what it shows from the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return text[text.index("| Method ") : text.index("Beside it lie")]


def write_settings() -> str:
    """Write docs/settings.md: a table for each section of the schema."""
    comments, marks = read_comments(), fields.read_marks(schema.Config)
    parts = [_INTRODUCTION.strip()]
    for section, kind in {"": schema.Config, **sections(schema.Config)}.items():
        rows = [
            [
                f"`{section}{name}`",
                _write(_name(hint)),
                describe_values(section, name),
                _write(explain(comments.get((kind.__name__, name), ""), marks[section + name])),
                tell_counting(section, name, marks),
            ]
            for name, hint in get_type_hints(kind).items()
            if not is_dataclass(hint)
        ]
        heading = f"## {section.rstrip('.') or 'The whole run'}\n\n{(kind.__doc__ or '').splitlines()[0]}"
        header = "| Setting | Type | Values in conf/ | Meaning and range | Part of the run_id |\n"
        lines = "".join(f"| {' | '.join(row)} |\n" for row in rows)
        parts.append(f"{heading}\n\n{header}|{' --- |' * 5}\n{lines}".strip())
    return "\n\n".join(parts) + "\n"


def explain(comment: str, marks: Sequence[Any]) -> str:
    """Join what the schema says of a setting and the rules for its value."""
    return "; ".join(
        filter(None, [comment, *(one.expected for one in marks if isinstance(one, fields.Rule))])
    )


def tell_counting(section: str, name: str, marks: Mapping[str, Sequence[Any]]) -> str:
    """Say whether a setting is part of the run_id, as far as its own declaration decides it."""
    if fields.UNCOUNTED in (*marks.get(section.rstrip("."), ()), *marks[section + name]):
        return "no"
    if section in ("model.", "data.") and name not in ("template", "label_words", "long_texts"):
        return "by content"
    off = [one.value for one in marks[section + name] if isinstance(one, fields.Off)]
    return f"unless `{fields.write(off[0])}`" if off else "yes"


def sections(schema: type, before: str = "") -> dict[str, type]:
    """Return every section of the configuration, by its path with a dot at the end."""
    found: dict[str, type] = {}
    for name, hint in get_type_hints(schema).items():
        if is_dataclass(hint):
            found |= {f"{before}{name}.": hint, **sections(hint, f"{before}{name}.")}
    return found


def describe_values(section: str, name: str) -> str:
    """Return the value in each file that sets it: one where all agree, else each with the files' names."""
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
    """Find where conf/ gives the setting a value: in config.yaml, or in a file of its group."""
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
    """Read what the schema's source says behind or above each field, by class and field."""
    found = {}
    for file in _SOURCES:
        text = (ROOT / "bench" / file).read_text(encoding="utf-8")
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                for field in node.body:
                    if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                        source = "\n".join(lines[field.lineno - 1 : field.end_lineno])
                        above = re.match(r" +# (.*)", lines[field.lineno - 2])
                        note = re.search(r"  # (.*)", source) or above
                        found[node.name, field.target.id] = note[1] if note else ""
    return found


def write_commands() -> str:
    """Write every command with its help, as the terminal has it."""
    parser = cli.make_parser()
    parts = []
    for name, one in parser.list_commands():
        text = one.format_help() if name != "run" else _read_run_help()
        parts.append(f"## bench {name}\n\n```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts)


def _read_run_help() -> str:
    """Read the part of Hydra's help for ``bench run`` that is bench's own."""
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
    """Escape the text for a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    SETTINGS.write_text(write_settings(), encoding="utf-8")
