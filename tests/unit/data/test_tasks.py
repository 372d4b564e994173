"""Several data sets as one: names of labels, the order of texts, and which labels a text can have."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from bench.config.schema import Config
from bench.data import dataset, tasks
from bench.errors import ConfigError, DataError, MissingError


def test_labels_are_named_by_their_tasks_and_never_alike() -> None:
    named = tasks.name_labels({"topics": ["a", "b"], "shares": ["a"]})
    assert named == ("topics: a", "topics: b", "shares: a")
    assert tasks.strip_task("topics: a", "topics") == "a"
    with pytest.raises(ConfigError, match="two labels would both be called 'a: b: c'; rename a task's file"):
        tasks.name_labels({"a": ["b: c"], "a: b": ["c"]})


def test_rows_keep_their_order_and_labels_move_behind_those_of_tasks_before() -> None:
    frames = [
        {
            split: pd.DataFrame(
                {"id": [0, 1], "text": [f"{split} {name} {row}" for row in (0, 1)], "label": [1, 0]}
            )
            for split in ("train", "validation", "test")
        }
        for name in ("one", "two")
    ]
    joined = tasks.join_splits([(frames[0], 2), (frames[1], 2)])["test"]
    assert joined["text"].tolist() == ["test one 0", "test one 1", "test two 0", "test two 1"]
    assert joined[["id", "label", "task"]].to_numpy().tolist() == [[0, 1, 0], [1, 0, 0], [2, 3, 1], [3, 2, 1]]
    assert tasks.mark_heads([2, 1]).tolist() == [[True, True, False], [False, False, True]]


def test_a_task_that_cannot_be_read_is_named_and_not_a_setting_that_nobody_has_set(
    compose: Callable[..., Config], texts: Path, tmp_path: Path
) -> None:
    config = compose("data=tasks", f"data.tasks=[{texts},{tmp_path}/b.csv]").data
    with pytest.raises(MissingError, match=rf"^data\.tasks: b: {tmp_path}/b\.csv: cannot be read \(No such"):
        dataset.load(config)
    (tmp_path / "b.csv").write_text("title,label\na,x\nb,y\n")
    with pytest.raises(DataError, match=r"^data\.tasks: b: .*text"):
        dataset.load(config)
