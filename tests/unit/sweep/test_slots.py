"""Where the runs of a sweep may run at the same time."""

import pytest

from bench.run import driver
from bench.run.driver import Choice
from bench.sweep.slots import count_slots, make_slots


@pytest.mark.parametrize(
    ("devices", "count"), [("auto", 1), ("cuda", 1), ("cpu", 1), ("cpu*3", 3), ("0,2", 2)]
)
def test_there_are_as_many_slots_as_are_counted(
    monkeypatch: pytest.MonkeyPatch, devices: str, count: int
) -> None:
    monkeypatch.setattr(driver, "choose", lambda devices: Choice(("0", "MIG-2") if "," in devices else ()))
    slots = make_slots(devices)
    assert len(slots) == count_slots(devices) == count
    if devices == "0,2":  # a run of a slot has one device and sees no other
        assert [slot.environment for slot in slots] == [((driver.VISIBLE, one),) for one in ("0", "MIG-2")]
        assert {slot.overrides for slot in slots} == {("devices=cuda",)}
