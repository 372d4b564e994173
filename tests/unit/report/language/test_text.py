import re
from dataclasses import is_dataclass
from typing import Any

from bench.report.language.text import COLUMNS, EXTRAS, LANGUAGES
from bench.results.store import STATUSES

ENGLISH, CHINESE = LANGUAGES["en"], LANGUAGES["zh"]


def test_both_languages_have_every_text_with_the_same_figures():
    def describe(value: Any) -> Any:
        if isinstance(value, str):
            return sorted(re.findall(r"\{[^}]*\}", value))
        if isinstance(value, dict):
            return {name: describe(one) for name, one in value.items()}
        if is_dataclass(value):
            return describe(vars(value))
        return [describe(one) for one in value]

    for name in vars(ENGLISH):
        assert describe(getattr(ENGLISH, name)) == describe(getattr(CHINESE, name)), name
    assert set(ENGLISH.columns) == set(COLUMNS)
    assert set(ENGLISH.extras) == set(EXTRAS)
    assert set(ENGLISH.statuses) == {*STATUSES, "started"}
