"""What somebody may have meant."""

import pytest

from bench.config.schema import list_paths
from bench.spelling import guess


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("lr", "train.lr"),
        ("lrr", "train.lr"),
        ("train.lrr", "train.lr"),
        ("lora.rr", "lora.r"),
        ("maxsteps", "train.max_steps"),
        ("sed", "seed"),
        ("weights", "model.weights or train.weights"),
        ("LORA.R", "lora.r"),
    ],
)
def test_a_setting_that_is_nearly_right_is_named(word: str, meant: str) -> None:
    assert guess(word, list_paths()) == f"; did you mean {meant}?"


@pytest.mark.parametrize("word", ["xyzzy", "", "q"])
def test_what_is_near_nothing_is_left_alone(word: str) -> None:
    assert guess(word, list_paths()) == ""


def test_a_part_of_a_name_is_enough() -> None:
    assert guess("bbc", ["bbc_headlines", "bbc_news", "files"]) == "; did you mean bbc_headlines or bbc_news?"
