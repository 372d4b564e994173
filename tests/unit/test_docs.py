"""README and docs/: every command shown exists and composes, links lead somewhere, no setting is missing."""

import importlib.util
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from shown import EXAMPLES, PAGES, ROOT, SHOWN

from bench import cli
from bench.config.overrides import quote_text
from bench.config.schema import CONF_DIR, Config, list_paths

HYDRA_COMMANDS = ("run", "sweep", "plan")
STANDS_FOR = {"OWNER/NAME": "owner/name", "COMMIT": "0" * 40}


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """docs/reference.py, which is no package's."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_is_much_to_check() -> None:
    assert len(SHOWN) > 40
    assert len(EXAMPLES) > 15


@pytest.mark.parametrize("command", sorted({*SHOWN, *EXAMPLES}))
def test_a_command_that_is_shown_exists_and_composes(command: str, compose: Callable[..., Config]) -> None:
    program, *words = shlex.split(command)
    if program == "make":
        targets = re.findall(
            r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE
        )
        assert {word for word in words if "=" not in word} <= set(targets)
        return
    for name, value in STANDS_FOR.items():
        words = [word.replace(name, value) for word in words]
    if words[0] not in HYDRA_COMMANDS:
        parsed, _ = cli.make_parser().parse_known_args(words)
        assert parsed.call
        return
    overrides = [quote_text(word) for word in cli._read_flags(words[1:]) if not word.startswith("--")]
    require_composing(overrides, compose)


def require_composing(overrides: Sequence[str], compose: Callable[..., Config]) -> None:
    """Each value of each axis composes; nothing is looked for on disk or on the hub."""
    for launcher in (line.partition("=")[2] for line in overrides if line.startswith("hydra/launcher=")):
        assert (CONF_DIR / "hydra" / "launcher" / f"{launcher}.yaml").is_file()
    kept = [line for line in overrides if not line.startswith(("hydra", "devices="))]
    parsed = OverridesParser.create().parse_overrides(kept)
    for one in (one for one in parsed if one.is_sweep_override()):
        for value in one.sweep_string_iterator():
            assert compose(f"{one.key_or_group}={value}")
    assert compose(*(str(one.input_line) for one in parsed if not one.is_sweep_override()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_leads_to_a_page_and_an_anchor_that_are_there(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in [
                re.sub(r"[^\w -]", "", one).strip().lower().replace(" ", "-") for one in headings
            ]


def test_every_page_is_in_the_navigation() -> None:
    shown = re.findall(r"\S+\.md$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(shown) == sorted(page.name for page in PAGES if page.parent == ROOT / "docs")


def test_the_page_of_settings_is_not_stale(reference: ModuleType) -> None:
    written = reference.SETTINGS.read_text(encoding="utf-8")
    renew = "docs/settings.md is stale; renew it with: .venv/bin/python docs/reference.py"
    assert written == reference.write_settings(), renew


def test_no_setting_is_missing(reference: ModuleType) -> None:
    rows = dict(re.findall(r"^\| `(\S+)` \| (.+) \|$", reference.write_settings(), flags=re.MULTILINE))
    assert set(rows) == set(list_paths())
    assert rows["lora.alpha"].startswith("float | `16` |")
    assert "(article)" in rows["train.lr"]
    assert "must be a positive number" in rows["train.lr"]
    assert all(row.split(" | ")[1] for row in rows.values())
    counted = {path: row.split(" | ")[-1] for path, row in rows.items()}
    assert (counted["train.lr"], counted["train.log_steps"], counted["track.mode"]) == ("yes", "no", "no")
    assert counted["train.weights"] == "unless `fp32`"


def test_every_command_is_in_the_reference(reference: ModuleType) -> None:
    written = reference.write_commands()
    for name, parser in cli.make_parser().list_commands():
        assert f"## bench {name}\n" in written
        if name != "run":
            assert parser.format_help().rstrip() in written


def test_every_command_teaches_by_example() -> None:
    for name, parser in cli.make_parser().list_commands():
        if name != "run":
            assert f"examples:\nbench {name}" in parser.format_help(), name
    assert "bench run method=" in (CONF_DIR / "config.yaml").read_text(encoding="utf-8")
