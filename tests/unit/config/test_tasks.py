"""Several tasks: each is what it is alone, and what cannot be one is refused with a way out."""

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from bench.config.checks import check
from bench.config.schema import CONF_DIR, Config
from bench.config.tasks import read_tasks

Compose = Callable[..., Config]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.tasks=[bbc_news,bbc_news]"], r"data\.tasks=.*: bbc_news is there twice; leave one out"),
        (["data.tasks=[bbc_news,some/bbc_news.csv]"], r"bbc_news is there twice"),
        (["data.tasks=[bbc_news,bbc_headline]"], r"no data set bbc_headline .* did you mean bbc_headlines\?"),
        (["data.tasks=[bbc_news,hub]"], r"no data set hub in conf/data/ and no such file; give one of bbc"),
        (["data.tasks=[bbc_news]"], r"must list two data sets or more, \[bbc_headlines,bbc_news\] or"),
        (["data.tasks=[bbc_news,tasks]"], r"data\.tasks: tasks is several tasks itself"),
        (
            ["data.tasks=[bbc_news,financial_topics]"],
            r"financial_topics has no data\.revision; write a commit",
        ),
        (["data.train=a.csv"], r"data\.train=a\.csv with data=tasks: each task has its own"),
        (["data.folds=3", "data.fold=0"], r"data\.folds=3 with data=tasks: each task has its own"),
        (
            ["data.tasks=[bbc_news,finance8_synthetic]", "data.train_size=100", "data.resample=true"],
            r"finance8_synthetic makes as many texts as data\.train_size says",
        ),
        (["method=tfidf"], r"method\.estimator=tfidf with data=tasks: it has no head for each task"),
        (
            ["method=routed_lora"],
            r"method\.experts=4 with data=tasks: what gates choose is counted for one task",
        ),
        (["method=distilled", "teacher=best:lora"], r"method\.distils=true with data=tasks: a teacher has"),
        (
            ["model=smollm2", "task=label_likelihood"],
            r"task=label_likelihood with data=tasks: a label's words",
        ),
        (["data=bbc_news", "data.tasks=[bbc_news,bbc_headlines]"], r"that is one data set; use data=tasks"),
        (["data=bbc_news", "data.test_size=null"], r"data\.test_size=null: is needed here"),
    ],
)
def test_what_cannot_be_several_tasks_is_refused(
    compose: Compose, overrides: list[str], message: str
) -> None:
    faults = check(compose("data=tasks", *overrides))
    assert any(re.search(message, fault) for fault in faults), faults


def test_a_task_is_its_preset_or_its_file_but_for_the_sizes_that_are_set(compose: Compose) -> None:
    files = "data.tasks=[bbc_headlines,some/reviews.csv]"
    tasks = read_tasks(compose("data=tasks", files, "data.text_column=title", "data.split_seed=3").data)
    assert list(tasks) == ["bbc_headlines", "reviews"]
    assert tasks["bbc_headlines"] == compose("data=bbc_headlines", "data.split_seed=3").data
    alone = compose(
        "data=files", "data.train=some/reviews.csv", "data.text_column=title", "data.split_seed=3"
    )
    assert dataclasses.replace(tasks["reviews"], name="files") == alone.data
    smaller = read_tasks(compose("data=tasks", "data.train_size=100", "data.resample=true").data)
    assert {(one.train_size, one.resample) for one in smaller.values()} == {(100, True)}
    assert check(compose("data=tasks", files)) == []


def test_a_preset_may_begin_with_another(
    compose: Compose, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(CONF_DIR / "data", tmp_path / "data")
    own = {"defaults": ["files", "_self_"], "name": "reviews", "train": "r.csv", "label_map": {"x": "y"}}
    (tmp_path / "data" / "reviews.yaml").write_text(yaml.safe_dump(own))
    several = compose("data=tasks", "data.tasks=[bbc_news,reviews]").data
    files = compose("data=files", "data.train=r.csv", "data.name=reviews").data
    for name in ("tasks", "overrides"):
        monkeypatch.setattr(f"bench.config.{name}.CONF_DIR", tmp_path)
    tasks = read_tasks(several)
    assert tasks["reviews"] == dataclasses.replace(files, label_map={"x": "y"})
