"""Override lines in Hydra's grammar: made from values, and quoted where a person typed plain text."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from bench.config.schema import CONF_DIR, is_text, open_key

# Text that Hydra's grammar reads as that text without quotes: not a number, not null, not true.
_PLAIN = re.compile(r"(?!(?:null|true|false|inf|nan)$)[A-Za-z_/][A-Za-z0-9_./-]*", re.IGNORECASE)
_BEYOND_ASCII = re.compile(r"[^,\[\]()]*[^\x00-\x7f][^,\[\]()]*")  # one value of a list or a sweep
_GROUPS = ("method", "model", "data")  # whose files a record names
_NO_TEXT = re.compile(r"null|true|false|[+-]?[0-9.]+", re.IGNORECASE)  # to Hydra


def quote_text(argument: str) -> str:
    """Return the override with quotes around text that Hydra would refuse or take for something else.

    That is an option like ``model=null``, a value beyond ASCII like ``a=标题``, and for a setting that is
    a text, such as results_dir, what Hydra's grammar cannot read, or reads as a number or shorter.
    """
    key, equals, value = argument.partition("=")
    key = open_key(key)
    path = key.lstrip("+")
    if argument.startswith("-") or not equals:
        return key + equals + value
    if _NO_TEXT.fullmatch(value) and (CONF_DIR / path.partition("@")[0]).is_dir():
        return f"{key}='{value}'"
    line = key + equals + value
    if not any(mark in value for mark in "'\"{"):
        line = key + equals + _BEYOND_ASCII.sub(lambda text: f"'{text[0]}'", value)
    return override_line(key, value) if is_text(path) and _is_misread(line, value) else line


def _is_misread(line: str, value: str) -> bool:
    """Return whether Hydra cannot read the override of a text, or reads something other than the text."""
    try:
        override = OverridesParser.create().parse_override(line)
        read = override.value()
    except HydraException:
        return True
    if override.is_sweep_override() or isinstance(read, QuotedString | list | dict) or read in (None, ""):
        return False
    return not isinstance(read, str) or value != value.strip()


def override_line(key: str, value: Any) -> str:
    """Return ``key=value`` in Hydra's override grammar."""
    return f"{key}={_quote(value)}"


def _quote(value: Any) -> str:
    """Return the value in Hydra's override grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(_quote(one) for one in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_escape_key(key)}:{_quote(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str) and not _PLAIN.fullmatch(value):
        doubled = re.sub(r"(\\*)('|\Z)", r"\1\1\2", value)  # backslashes before a quote or at the end
        return "'" + doubled.replace("'", r"\'") + "'"
    return str(value)


def _escape_key(key: object) -> str:
    """Escape a mapping's key, which Hydra's grammar cannot quote."""
    return re.sub(r"[\\()\[\]{}:=, \t]", r"\\\g<0>", str(key))


def list_overrides(config: Mapping[str, Any]) -> list[str] | None:
    """Return the lines that compose a record's configuration again: what is trained on what, and its seed.

    None: conf/ has no file of the record's method, model or data, or no line can say how they differ.
    """
    names = tuple(str((config.get(group) or {}).get("name")) for group in _GROUPS)
    if not all(
        (CONF_DIR / group / f"{name}.yaml").is_file() for group, name in zip(_GROUPS, names, strict=True)
    ):
        return None
    usual, base = _compose(*names)
    named = zip(_GROUPS, names, strict=True)
    lines = [f"{group}={name}" for group, name in named if group == "method" or usual[group] != name]
    differences = list(_list_differences(config, base, ""))
    known = [line for line in differences if line is not None]
    return [*lines, *known] if len(known) == len(differences) else None


def _list_differences(
    given: Mapping[str, Any], base: Mapping[str, Any], section: str
) -> Iterator[str | None]:
    """Yield a line for each value that is another; None for a mapping that a line can only add to."""
    for name in sorted(base.keys() & given.keys()):
        value, usual = given[name], base[name]
        if value == usual:
            continue
        if not isinstance(value, Mapping) or not isinstance(usual, Mapping):
            yield override_line(section + name, value)
        elif not section:
            yield from _list_differences(value, usual, f"{name}.")
        else:
            yield None if usual.keys() - value.keys() else override_line(f"++{section}{name}", value)


@cache
def _compose(*names: str) -> tuple[Mapping[str, str], Mapping[str, Any]]:
    """Return the usual file of each group, and what a run without further overrides is.

    Not Hydra's own composing: a report is also written by a sweep, inside of Hydra.
    """
    root = OmegaConf.load(CONF_DIR / "config.yaml")
    assert isinstance(root, DictConfig)
    usual = {group: name for one in root.defaults if not isinstance(one, str) for group, name in one.items()}
    files = {**usual, **dict(zip(_GROUPS, names, strict=True))}
    groups = {group: load_file(group, files[group]) for group in (*_GROUPS, "train")}
    settings = {name: root[name] for name in ("lora", "task", "seed", "teacher", "distillation")}
    base = OmegaConf.to_container(OmegaConf.create({**groups, **settings}), resolve=True)
    assert isinstance(base, dict)
    return usual, {str(name): value for name, value in base.items()}


def load_file(group: str, name: str) -> DictConfig:
    """Load a file of conf/ with those that it builds on."""
    values = OmegaConf.load(CONF_DIR / group / f"{name}.yaml")
    assert isinstance(values, DictConfig)
    earlier = [load_file(group, one) for one in values.pop("defaults", []) if one != "_self_"]
    merged = OmegaConf.merge(*earlier, values)
    assert isinstance(merged, DictConfig)
    return merged
