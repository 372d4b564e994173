"""Titles of tables: what differs between tasks of the same names, in words; a hash is the last resort."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from records import make_evidence, make_run

from bench.report.language.text import LANGUAGES
from bench.report.naming import tell_apart, title_tasks
from bench.report.numbers.traits import MODEL, TRAINING, read_traits
from bench.results.store import Result

ENGLISH = LANGUAGES["en"]


def run_on(data: str = "d1", revision: str = "m1", rows: int = 1296, **config: Any) -> Result:
    """A run whose record says where its model and its data came from; ``config``: section__field=value."""
    names = {"data": "files", "model": "local"}
    run = make_run("lora", data=data, revision=revision, names=names)
    for path, value in config.items():
        section, _, field = path.partition("__")
        run.config[section][field] = value
    return replace(run, data={"sizes": {"train": rows, "validation": 400, "test": 400}})


def list_titles(runs: Sequence[Result], lang: str = "en") -> list[str]:
    evidence = make_evidence(runs)
    return sorted(title_tasks([row.task for row in evidence.rows], LANGUAGES[lang]).values())


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ({"model__path": "/a/bert-base"}, {"model__path": "/b/bert-tiny"}, ["bert-base", "bert-tiny"]),
        ({"model__path": "/x/en/bert"}, {"model__path": "/x/zh/bert"}, ["en/bert", "zh/bert"]),
        ({"data__train": "d/big.csv"}, {"data__train": "d/small.csv"}, ["big.csv", "small.csv"]),
        ({"data__train": "a/all.csv"}, {"data__train": "b/all.csv"}, ["a/all.csv", "b/all.csv"]),
        ({"rows": 100}, {"rows": 1000}, ["100 train texts", "1000 train texts"]),
        (
            {"data__text_column": "body"},
            {"data__text_column": "title"},
            ["texts in column body", "texts in column title"],
        ),
        ({}, {}, ["data d1", "data d2"]),
    ],
)
def test_tables_of_the_same_names_say_in_what_they_differ(
    one: dict[str, Any], other: dict[str, Any], words: list[str]
) -> None:
    content = {"revision": "m2"} if "model__path" in other else {"data": "d2"}
    titles = list_titles([run_on(**one), run_on(**content, **other)])
    assert titles == [f"files, local ({word}): 400 test texts" for word in words]


def test_a_title_says_no_more_than_is_needed() -> None:
    runs = [
        run_on(model__path="/m/a", data__train="one.csv"),
        run_on("d2", model__path="/m/a", data__train="two.csv", rows=90),
        run_on("d2", "m2", model__path="/m/b", data__train="two.csv", rows=90),
    ]
    assert list_titles(runs) == [
        "files, local (a, one.csv): 400 test texts",
        "files, local (a, two.csv): 400 test texts",
        "files, local (b, two.csv): 400 test texts",
    ]
    assert list_titles(runs[:1]) == ["files, local: 400 test texts"]
    assert list_titles(runs[:2], "zh") == [
        "files，local（one.csv）：400 条测试文本",
        "files，local（two.csv）：400 条测试文本",
    ]


def test_a_title_says_all_in_which_two_tables_differ() -> None:
    runs = [
        run_on(model__path="/x/en/bert", rows=100),
        run_on("d2", "m2", model__path="/x/zh/bert", rows=200),
        run_on("d2", "m3", model__path="/x/en/tiny", rows=200),
        run_on("d2", "m4", model__path="/x/en/tiny", rows=200),
    ]
    assert list_titles(runs) == [
        "files, local (en/bert, 100 train texts): 400 test texts",
        "files, local (en/tiny, model m3, 200 train texts): 400 test texts",
        "files, local (en/tiny, model m4, 200 train texts): 400 test texts",
        "files, local (zh/bert, 200 train texts): 400 test texts",
    ]


def test_tasks_that_the_records_do_not_tell_apart_have_their_hash_beside_the_words_of_others() -> None:
    runs = [run_on(rows=100), run_on("d2", rows=100), run_on("d3", rows=200)]
    assert list_titles(runs) == [
        "files, local (100 train texts, data d1): 400 test texts",
        "files, local (100 train texts, data d2): 400 test texts",
        "files, local (200 train texts): 400 test texts",
    ]


def test_any_groups_of_runs_are_told_apart_in_the_same_words() -> None:
    """One table over several models needs their names, wherever their runs stand."""
    groups = [
        [make_run(max_length=64), make_run("full", max_length=64)],
        [make_run(max_length=256)],
        [replace(make_run(), parameters={"total": 110_000_000})],
    ]
    words = tell_apart([read_traits(one) for one in groups], ENGLISH, [*MODEL, *TRAINING])
    assert words == [
        "22.8M parameters, max_length 64",
        "22.8M parameters, max_length 256",
        "110.0M parameters, max_length 64",
    ]
    assert tell_apart([read_traits(groups[0])], ENGLISH, MODEL) == [""]


def test_a_baseline_without_a_model_does_not_lend_its_own_to_a_table() -> None:
    """It stands in the table of each model, and its record names the one that it was run beside."""
    tfidf = make_run("tfidf", names={"data": "files", "model": "local"})
    tfidf.config["model"]["path"] = "/m/a"
    runs = [tfidf, run_on(model__path="/m/a"), run_on(revision="m2", model__path="/m/b")]
    assert list_titles(runs) == ["files, local (a): 400 test texts", "files, local (b): 400 test texts"]
