"""Long texts at both ends or in windows: every token is read, none too many at once, scores averaged."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.data import windows


@given(length=st.integers(1, 300), room=st.integers(1, 40))
def test_windows_hold_every_token_in_order_and_overlap_by_a_quarter(length: int, room: int) -> None:
    ids = list(range(length))
    parts = windows.cut(ids, room, "windows")
    assert sorted({one for part in parts for one in part}) == ids
    assert all(part == list(range(part[0], part[0] + len(part))) for part in parts)
    if length <= room:
        assert parts == [ids]
        return
    assert {len(part) for part in parts} == {room}
    starts = [part[0] for part in parts]
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert steps.max() <= max(1, room - int(room / 4))
    assert set(steps[:-1]) <= {max(1, room - int(room / 4))}


@pytest.mark.parametrize(
    ("length", "room", "expected"),
    [(5, 6, "abcde"), (6, 6, "abcdef"), (7, 6, "abcefg"), (9, 5, "abchi"), (9, 1, "a")],
)
def test_head_and_tail_are_the_first_and_the_last_half(length: int, room: int, expected: str) -> None:
    [part] = windows.cut(list("abcdefghi"[:length]), room, "head_tail")  # type: ignore[arg-type]
    assert "".join(map(str, part)) == expected


def test_the_scores_of_a_texts_windows_are_averaged() -> None:
    values = np.array([[1.0, 2], [3, 4], [5, 9], [7, 0]])
    owners = np.array([0, 1, 1, 2])
    assert windows.pool(values, owners).tolist() == [[1, 2], [4, 6.5], [7, 0]]
    assert windows.pool(values[:, 0], owners).tolist() == [1, 4, 7]
    assert windows.pool(values, owners[:0]) is values
