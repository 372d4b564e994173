"""The words of each language: complete, alike, and each of them said somewhere."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from string import Formatter

import pytest
from records import make_run
from report_folder import write_results

from bench.config.schema import CONF_DIR
from bench.errors import ConfigError
from bench.report.language.text import LANGUAGES, read_language
from bench.report.tabulate import COLUMNS, EXTRAS, PROBABILITIES
from bench.results.store import STATUSES

PACKAGE = CONF_DIR.parent / "bench"
ENGLISH = LANGUAGES["en"]
KEYS = list(ENGLISH.sentences)


@pytest.mark.parametrize("code", LANGUAGES)
def test_every_language_has_the_same_sentences_with_the_same_figures(code: str) -> None:
    sentences = LANGUAGES[code].sentences
    assert list(sentences) == KEYS
    for key, sentence in sentences.items():
        assert fields_of(sentence) == fields_of(ENGLISH.sentences[key]), key
        assert isinstance(sentence, str), key
        assert sentence, key


def test_english_is_english() -> None:
    assert [one for key, one in ENGLISH.sentences.items() if re.search(r"[\u4e00-\u9fff]", one)] == []


def test_every_column_and_status_has_its_words() -> None:
    assert tuple(ENGLISH.under("columns")) == COLUMNS
    assert set(ENGLISH.under("csv_columns")) == {*EXTRAS, "cost", "paged", *PROBABILITIES}
    assert set(ENGLISH.under("statuses")) == {*STATUSES, "started"}


def test_every_sentence_that_the_code_asks_for_exists_and_gets_its_figures() -> None:
    for place, pattern, names in list_calls():
        keys = [key for key in KEYS if re.fullmatch(pattern, key)]
        assert keys, f"{place}: no sentence {pattern}"
        wanted = {name for key in keys for name, _ in fields_of(ENGLISH.sentences[key])}
        assert names is None or names == wanted, f"{place}: {pattern} has {wanted}"


def test_every_sentence_is_said_somewhere() -> None:
    patterns = {pattern for _, pattern, _ in list_calls()} | set(list_groups())
    assert [key for key in KEYS if not any(re.fullmatch(pattern, key) for pattern in patterns)] == []


def test_an_unknown_language_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="lang=fr: must be one of en, zh"):
        read_language("fr")


def test_another_language_is_one_file_more(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "bench", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(CONF_DIR, tmp_path / "conf")
    words = (PACKAGE / "report/language/en.yaml").read_text(encoding="utf-8")
    (tmp_path / "bench/report/language/de.yaml").write_text(
        words.replace("method: Method", "method: Verfahren")
    )
    write_results(tmp_path / "results", [make_run()])
    command = [sys.executable, "-m", "bench", "report", "--lang", "de", "--results", "results"]
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run(command, cwd=tmp_path, env=environ, check=True, capture_output=True)
    assert (tmp_path / "results/table.md").read_text(encoding="utf-8").count("| Verfahren") == 2
    page = (tmp_path / "results/report.html").read_text(encoding="utf-8")
    assert page.startswith('<!DOCTYPE html>\n<html lang="de">')
    assert 'html[lang="en"] .say:not([lang="en"])' in page


def fields_of(sentence: str) -> list[tuple[str, str]]:
    """The name and the format of each pair of braces."""
    return sorted((name, form or "") for _, name, form, _ in Formatter().parse(sentence) if name is not None)


def list_calls() -> Iterator[tuple[str, str, set[str] | None]]:
    """Each call for a sentence: where, a pattern of its keys, and what it fills in (None: cannot be read)."""
    for path, node in walk():
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("text", "self")
        ):
            names = {str(one.arg) for one in node.keywords}
            yield f"{path}:{node.lineno}", to_pattern(node.args[0]), None if "None" in names else names
    template = (PACKAGE / "assets/report.html").read_text(encoding="utf-8")
    for key, more, filled in re.findall(
        r'(?:text|\])\("([a-z_.]+)"( ~ \w+)?((?:, \w+="{\w+}")*)\)', template
    ):
        yield "report.html", re.escape(key) + ("[^.]+" if more else ""), set(re.findall(r"(\w+)=", filled))


def list_groups() -> Iterator[str]:
    """A pattern of the keys of each group that is read as a whole."""
    for _, node in walk():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "under":
            yield to_pattern(node.args[0]) + r"\.[^.]+"


def walk() -> Iterator[tuple[str, ast.AST]]:
    for room in ("report", "winner", "cli"):
        for path in sorted((PACKAGE / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                yield path.name, node


def to_pattern(node: ast.AST) -> str:
    """A regular expression of the keys that the expression can be."""
    if isinstance(node, ast.Constant):
        return re.escape(str(node.value))
    if isinstance(node, ast.JoinedStr):
        return "".join(map(to_pattern, node.values))
    if isinstance(node, ast.BinOp):
        return to_pattern(node.left) + to_pattern(node.right)
    return "[^.]+"
