import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.report.cells import clean, escape_csv, escape_markdown, format_count, format_number


def test_markdown_shows_hostile_text_as_it_is():
    assert escape_markdown("~~a~~ _b_ c_d") == r"\~\~a\~\~ \_b\_ c_d"
    assert escape_markdown("&lt; <i> \\|") == r"&amp;lt; &lt;i&gt; \\\|"


@given(st.text())
def test_clean_leaves_one_printable_line(text: str):
    found = clean(text)
    assert found == " ".join(found.split())
    assert not any(unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") for one in found)
    assert clean(found) == found


def test_ordinary_text_is_left_alone():
    for text in ("bbc_headlines", "R&D: 50 % (a-b)", "情感分析", "C++ #1"):
        assert escape_markdown(text) == escape_csv(text) == text
    assert escape_csv(-0.5) == "-0.5"
    assert (escape_csv(None), escape_csv(True), escape_csv(["q", "v"])) == ("", "true", "q v")


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.0K"),
        (73_728, "73.7K"),
        (999_960, "1.0M"),
        (22_713_216, "22.7M"),
        (6_173_286_400, "6.2B"),
        (1.5e12, "1.5T"),
    ],
)
def test_counts(count: int, shown: str):
    assert format_count(count) == shown


def test_hyperparameters_are_written_as_in_yaml():
    values = [8, 0.05, 5e-5, 1e-4, 16.0, ["query", "value"], "auto", True]
    shown = ["8", "0.05", "5e-5", "0.0001", "16", "[query,value]", "auto", "True"]
    assert [format_number(value) for value in values] == shown
