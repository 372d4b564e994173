"""Forgetting and backward transfer, by hand."""

import pytest

from bench.results.forgetting import (
    count_seconds,
    find_backward_transfer,
    find_forgetting,
    read_new,
    read_old,
)

ACCURACY = [[0.9, 0.1, 0.0], [0.7, 0.8, 0.1], [0.8, 0.5, 0.6]]
UPDATES = {"accuracy": ACCURACY, "tests": [100, 50, 10], "train_seconds": [5.0, 2.0, 1.5]}


def test_forgetting_is_what_is_lost_of_the_best_before_the_last_training() -> None:
    assert find_forgetting(ACCURACY) == pytest.approx(((0.9 - 0.8) + (0.8 - 0.5)) / 2)
    better = [
        [0.7, 0.0, 0.0],
        [0.9, 0.8, 0.0],
        [0.8, 0.9, 0.9],
    ]  # the second training improved on the first piece
    assert find_forgetting(better) == pytest.approx(((0.9 - 0.8) + (0.8 - 0.9)) / 2)


def test_backward_transfer_is_what_became_of_a_piece_since_it_was_learned() -> None:
    assert find_backward_transfer(ACCURACY) == pytest.approx(((0.8 - 0.9) + (0.5 - 0.8)) / 2)


def test_new_is_the_piece_just_learned_and_old_all_texts_before_together() -> None:
    assert read_new(UPDATES) == [0.8, 0.6]
    assert read_old(UPDATES) == pytest.approx([0.7, (0.8 * 100 + 0.5 * 50) / 150])
    assert count_seconds(UPDATES) == 3.5
