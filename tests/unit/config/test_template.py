"""Texts made of columns: what a template names, what it makes, and what is wrong with one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.config.template import fill, list_columns
from bench.errors import ConfigError


def test_columns_are_filled_in_row_by_row() -> None:
    values = {"title": ["A", "{title}"], "the body": ["x", "y}"]}
    template = "{title}: {the body} {{{title}}}"
    assert list_columns(template) == ["title", "the body"]
    assert fill(template, values) == ["A: x {A}", "{title}: y} {{title}}"]


@given(st.text(alphabet="ab{}", max_size=8))
def test_doubled_braces_are_text(text: str) -> None:
    doubled = text.replace("{", "{{").replace("}", "}}")
    assert fill(doubled + "{c}", {"c": ["!"]}) == [text + "!"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{title}: {body", r"a brace stands alone in ': \{body'; a column's name stands in braces"),
        ("{title}}", r"a brace stands alone in '\}'"),
        ("{}", r"must name a column in braces, \{title\}: \{body\}"),
        ("title", r"data\.text_template=title: must name a column in braces"),
        ("{{title}}", "must name a column"),
    ],
)
def test_a_template_that_cannot_be_filled_in_is_refused(template: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        list_columns(template)
