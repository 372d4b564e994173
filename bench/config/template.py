"""A text made of several columns: {name} stands for a column's value, {{ and }} for braces."""

import re
from collections.abc import Mapping, Sequence

from bench.errors import ConfigError

_PART = re.compile(r"(\{\{|\}\}|\{[^{}]*\})")


def list_columns(template: str) -> list[str]:
    """List the columns that a template names, each once, in their order.

    Raises:
        ConfigError: a brace alone, braces without a name, or no column.
    """
    columns = list(dict.fromkeys(part[1:-1] for part in _split(template) if _is_column(part)))
    if not columns or "" in columns:
        raise ConfigError(f"data.text_template={template}: must name a column in braces, {{title}}: {{body}}")
    return columns


def fill(template: str, values: Mapping[str, Sequence[str]]) -> list[str]:
    """Fill in each row's values. # values: (rows,) by column"""
    parts = _split(template)
    rows = zip(*(values[part[1:-1]] for part in parts if _is_column(part)), strict=True)
    braces = {"{{": "{", "}}": "}"}
    return [
        "".join(next(given) if _is_column(part) else braces.get(part, part) for part in parts)
        for given in map(iter, rows)
    ]


def _is_column(part: str) -> bool:
    return part not in ("{{", "}}") and part.startswith("{")


def _split(template: str) -> list[str]:
    parts = _PART.split(template)
    if alone := [part for part in parts[::2] if "{" in part or "}" in part]:
        raise ConfigError(
            f"data.text_template={template}: a brace stands alone in {alone[0]!r}; a column's name stands in "
            "braces, {title}, and a brace of the text is written twice, {{ or }}"
        )
    return parts
