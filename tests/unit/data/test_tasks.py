"""Several data sets as one: names of labels, the order of texts, and which labels a text can have."""

import pandas as pd
import pytest

from bench.data import tasks
from bench.errors import ConfigError


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
