"""Which experiment and which places for runs follow from the machine's cards, as the driver tells them."""

from collections.abc import Callable

import pytest

from bench.errors import MissingError
from bench.run import driver
from bench.run.driver import Choice, Device, Driver
from bench.sweep.machine import choose_experiment, count_slots, main, make_slots

GIB = 2**30
Cards = dict[str, float]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine with these cards (name, GiB), or without a driver."""

    def make(cards: Cards | None, *, torch: str | None = "13.0", visible: str | None = None) -> None:
        sizes = {name: int(gib * GIB) for name, gib in (cards or {}).items()}
        devices = [Device(n, f"GPU-{n}", name, size, size) for n, (name, size) in enumerate(sizes.items())]
        found = None if cards is None else Driver("580.65.06", (13, 0), tuple(devices))
        monkeypatch.setattr(driver, "ask", lambda: found)
        monkeypatch.setattr(driver, "read_torch_cuda", lambda: torch)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return make


@pytest.mark.parametrize(
    ("cards", "experiment"),
    [
        (None, "quickstart"),
        ({}, "quickstart"),
        ({"NVIDIA GeForce RTX 4080": 16.0}, "quickstart"),
        ({"card": 19.99}, "quickstart"),
        ({"card": 20.0}, "rtx4090"),
        ({"NVIDIA GeForce RTX 4090": 23.99}, "rtx4090"),
        ({"small": 8.0, "NVIDIA GeForce RTX 4090": 23.99}, "rtx4090"),
        ({"NVIDIA GeForce RTX 4090": 23.99, "small": 8.0}, "rtx4090"),
    ],
)
def test_a_card_of_20_gib_runs_ten_runs_and_never_the_articles_grid(
    machine: Callable[..., None], cards: Cards | None, experiment: str
) -> None:
    machine(cards)
    assert choose_experiment()[0] == experiment


@pytest.mark.parametrize("how", [{"torch": None}, {"visible": ""}, {"visible": "-1"}])
def test_a_card_that_torch_cannot_use_is_none(
    machine: Callable[..., None], how: dict[str, str | None]
) -> None:
    machine({"NVIDIA GeForce RTX 4090": 23.99}, **how)
    assert choose_experiment()[0] == "quickstart"


def test_a_script_reads_the_name_and_a_person_how_to_choose(
    machine: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    machine({"NVIDIA GeForce RTX 4090": 23.99})
    main()
    printed = capsys.readouterr()
    assert printed.out == "rtx4090\n"
    assert "NVIDIA GeForce RTX 4090 has 24 GiB" in printed.err
    assert (
        "EXPERIMENT=NAME chooses among article, curve, llm, quickstart, rtx4090, tasks, updates, of which"
        in printed.err
    )
    assert "all but article and rtx4090 need no model hub" in printed.err


def test_a_driver_that_is_too_old_ends_make_sweep(
    machine: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    machine({"NVIDIA GeForce RTX 4090": 23.99}, torch="14.1")
    with pytest.raises(MissingError, match="update the driver to one for CUDA 14"):
        main()
    assert capsys.readouterr().out == ""


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
