"""The machine's cards as the driver tells them, and which of them a run gets."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from emulated import Card, Holder, Machine

from bench.config.cards import GIB
from bench.errors import ConfigError, MissingError
from bench.run import driver
from bench.run.driver import Device, Driver

GT = Device(0, "GPU-1030aaaa", "NVIDIA GeForce GT 1030", 2 * GIB, 2 * GIB)
ONE = Device(1, "GPU-4090aaaa", "NVIDIA GeForce RTX 4090", 24 * GIB, 20 * GIB)
TWO = Device(2, "GPU-4090bbbb", "NVIDIA GeForce RTX 4090", 24 * GIB, 24 * GIB)
SMALL, LARGE = (Device(3, f"MIG-{n}0000000", f"A100 MIG {n}g", n * GIB, n * GIB) for n in (1, 3))
ALL = (GT, ONE, TWO, SMALL, LARGE)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine with these devices, or without a driver that answers."""

    def make(
        *devices: Device,
        visible: str | None = None,
        cuda: tuple[int, int] = (13, 0),
        torch_cuda: str | None = "13.0",
    ) -> None:
        found = Driver("580.65.06", cuda, devices) if devices else None
        monkeypatch.setattr(driver, "ask", lambda: found)
        monkeypatch.setattr(driver, "read_torch_cuda", lambda: torch_cuda)
        monkeypatch.setattr("bench.run.driver.metadata.version", lambda _: "2.13.0+cpu")
        monkeypatch.setenv(driver.ORDER, "FASTEST_FIRST")
        monkeypatch.setenv(driver.VISIBLE, visible or "")
        if visible is None:
            monkeypatch.delenv(driver.VISIBLE)

    return make


@pytest.mark.parametrize(
    ("listed", "visible"),
    [
        (None, ALL),
        ("", ()),
        ("-1", ()),
        ("1", (ONE,)),
        ("2, 0", (TWO, GT)),
        ("2,9,0", (TWO,)),
        ("0,-1,1", (GT,)),
        ("1gpu,2", (ONE, TWO)),  # as strtoul reads it
        ("1,1", ()),
        ("1,GPU-4090a", ()),  # the same card
        ("GPU-4090bbbb,GPU-1030aaaa", (TWO, GT)),
        ("GPU-1", (GT,)),
        ("GPU-4090,0", ()),  # two cards
        ("GPU-none", ()),
        ("4090aaaa", ()),  # 4090 is no card's number
        ("MIG-30000000", (LARGE,)),
        ("3", (SMALL,)),  # CUDA takes the first instance
        ("MIG-", ()),
    ],
)
def test_the_variable_is_read_as_cuda_reads_it(listed: str | None, visible: tuple[Device, ...]) -> None:
    assert tuple(driver.find_visible(ALL, listed)) == visible


@pytest.mark.parametrize(
    ("devices", "visible", "names"),
    [
        ("auto", None, ("1",)),  # the first of the largest, whatever is free of it
        ("cuda", None, ("1",)),
        ("auto", "0", ("0",)),
        ("auto", "2,1", ("2",)),
        ("auto", "GPU-4090b", ("2",)),
        ("auto", "MIG-1,MIG-3", ("MIG-30000000",)),
        ("3", None, ("MIG-10000000",)),
        ("3", "MIG-3", ("MIG-30000000",)),
        ("2,0", None, ("2", "0")),
        ("2,1", "1,2", ("2", "1")),
        ("1,2", "GPU-4090a,GPU-4090b", ("1", "2")),
        ("1,1", None, ("1", "1")),  # two runs at once on one card
        ("auto", "", ()),
        ("cpu", None, ()),
        ("cpu*2", None, ()),
    ],
)
def test_runs_get_the_cards_that_are_named_or_the_largest_within_what_is_visible(
    machine: Callable[..., None], devices: str, visible: str | None, names: tuple[str, ...]
) -> None:
    machine(*ALL, visible=visible)
    assert driver.choose(devices).names == names


def test_a_run_of_several_processes_gets_as_many_cards(machine: Callable[..., None]) -> None:
    machine(*ALL)
    assert driver.choose("auto", 2).names == ("1", "2")
    assert driver.choose("cuda", 3).names == ("1", "2", "MIG-30000000")


@pytest.mark.parametrize(
    ("devices", "visible", "message"),
    [
        ("7", None, r"devices=7: this machine has card 0 \(NVIDIA GeForce GT 1030\), .* and not card 7;"),
        ("0,1", "1,2", r"devices=0,1: CUDA_VISIBLE_DEVICES=1,2 leaves card 1 .*, card 2 .* and not card 0;"),
        ("0", "", "devices=0: CUDA_VISIBLE_DEVICES= leaves no card and not card 0"),
        ("cuda", "-1", "devices=cuda: CUDA_VISIBLE_DEVICES=-1 leaves no card;"),
    ],
)
def test_a_card_that_is_not_visible_is_refused_with_those_that_are(
    machine: Callable[..., None], devices: str, visible: str | None, message: str
) -> None:
    machine(*ALL, visible=visible)
    with pytest.raises(ConfigError, match=message):
        driver.choose(devices)


def test_a_person_is_told_which_card_was_taken_of_several(machine: Callable[..., None]) -> None:
    machine(GT, ONE)
    assert "auto takes card 1 (NVIDIA GeForce RTX 4090), of 2 the first" in str(driver.choose("auto").note)
    assert driver.choose("1").note is None
    machine(ONE)
    assert driver.choose("auto").note is None
    machine(ONE, visible="GPU-gone")
    assert "CPU, as CUDA_VISIBLE_DEVICES=GPU-gone names none of card 1" in str(driver.choose("auto").note)


@pytest.mark.parametrize(
    ("devices", "visible", "names"),
    [("auto", None, ()), ("cuda", "0", ()), ("1,0", None, ("1", "0")), ("2", "1,2", ("2",))],
)
def test_numbers_are_passed_on_where_the_driver_cannot_be_asked(
    machine: Callable[..., None], devices: str, visible: str | None, names: tuple[str, ...]
) -> None:
    machine(visible=visible)
    assert driver.choose(devices).names == names


@pytest.mark.parametrize(
    ("devices", "visible", "torch_cuda", "message"),
    [
        ("0", "1,2", "13.0", "CUDA_VISIBLE_DEVICES=1,2 does not list 0"),
        ("cuda", None, None, "no CUDA device that torch can use"),
        ("1", None, None, r"torch 2.13.0\+cpu is built for the CPU alone"),
    ],
)
def test_what_cannot_be_is_refused_without_a_driver_too(
    machine: Callable[..., None], devices: str, visible: str | None, torch_cuda: str | None, message: str
) -> None:
    machine(visible=visible, torch_cuda=torch_cuda)
    with pytest.raises(ConfigError, match=message):
        driver.choose(devices)


@pytest.mark.parametrize("devices", ["auto", "cuda", "1"])
def test_an_old_driver_is_an_error_with_both_remedies(machine: Callable[..., None], devices: str) -> None:
    machine(ONE, cuda=(12, 8))
    with pytest.raises(MissingError) as caught:
        driver.choose(devices)
    message = str(caught.value)
    assert message.startswith(
        f"devices={devices}: torch cannot use NVIDIA GeForce RTX 4090: driver 580.65.06"
    )
    assert "runs CUDA 12.8 and older, torch 2.13.0+cpu is built for CUDA 13.0" in message
    assert "sudo apt install nvidia-driver-580" in message
    assert "pip install torch==2.13.0+cu126 --index-url https://download.pytorch.org/whl/cu126" in message
    assert driver.choose("cpu").names == ()


@pytest.mark.parametrize(
    ("cuda", "torch_cuda", "works"),
    [((12, 2), "12.6", True), ((13, 0), "13.2", True), ((14, 0), "13.0", True), ((11, 8), "12.6", False)],
)
def test_a_driver_runs_all_of_its_cudas_major_version(
    machine: Callable[..., None], cuda: tuple[int, int], torch_cuda: str, works: bool
) -> None:
    machine(ONE, cuda=cuda, torch_cuda=torch_cuda)
    if works:
        assert driver.choose("auto").names == ("1",)
        return
    with pytest.raises(MissingError, match=r"nvidia-driver-525`\); devices=cpu"):  # no torch for CUDA 11
        driver.choose("auto")


def test_a_torch_for_cpus_beside_a_card_is_said_once_and_an_error_where_the_card_is_wanted(
    machine: Callable[..., None],
) -> None:
    machine(ONE, torch_cuda=None)
    chosen = driver.choose("auto")
    assert chosen.names == ()
    assert "on the CPU, as torch 2.13.0+cpu is built without CUDA and cannot use NVIDIA" in str(chosen.note)
    assert "torch==2.13.0+cu130 --index-url" in str(chosen.note)
    for devices in ("cuda", "1"):
        with pytest.raises(MissingError, match="built without CUDA"):
            driver.choose(devices)


@pytest.mark.parametrize(("count", "visible"), [(1, "2"), (2, "2,0"), (3, "2,0,1")])
def test_a_run_has_as_many_of_the_cards_named_as_processes(
    machine: Callable[..., None], count: int, visible: str
) -> None:
    machine(*ALL, visible="0,1,2,3")
    driver.take("2,0,1", count)
    assert (os.environ[driver.VISIBLE], os.environ[driver.ORDER]) == (visible, "PCI_BUS_ID")


def test_a_process_that_uses_cuda_keeps_its_card_and_says_so_of_another(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(*ALL, visible="0,1")
    fake = SimpleNamespace(cuda=SimpleNamespace(is_initialized=lambda: True))
    monkeypatch.setitem(sys.modules, "torch", fake)
    driver.take("auto")
    with pytest.raises(ConfigError, match=r"uses CUDA already.*set CUDA_VISIBLE_DEVICES=1 before it starts"):
        driver.take("1")
    assert os.environ[driver.VISIBLE] == "0,1"


def test_the_installed_torch_says_what_it_is_built_for_without_being_imported() -> None:
    code = "import sys; from bench.run import driver; print(driver.read_torch_cuda(), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    import torch

    assert done.stdout.split() == [str(torch.version.cuda or torch.version.hip), "False"]


def test_holders_are_named_and_what_the_driver_does_not_name_is_counted() -> None:
    def hold(total: float, free: float, *holders: driver.Holder) -> str | None:
        return driver.tell_holders(Device(0, "GPU-0", "card", int(total * GIB), int(free * GIB), holders))

    xorg, idle = driver.Holder(7, "Xorg", 2 * GIB), driver.Holder(8, "idle", GIB // 100)
    assert hold(24, 23.5) is None  # the driver's own
    assert hold(24, 23.5, idle) is None
    assert hold(24, 21.5, xorg, idle) == "Xorg (pid 7) holds 2.0 GiB"
    assert (
        hold(24, 20, xorg) == "Xorg (pid 7) holds 2.0 GiB, 2.0 GiB are held by others, unnamed by the driver"
    )
    assert str(hold(24, 22, driver.Holder(9, "game", None))).startswith("game (pid 9) holds some, 2.0 GiB")


def ask_emulated(machine: Machine, *code: str) -> str:
    """What the code prints in a process of the machine."""
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(["from bench.run import driver", *code])],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **machine.environment},
    )
    return done.stdout


def test_nvml_tells_each_card_its_instances_and_who_holds_what(tmp_path: Path) -> None:
    desktop = (Holder(1300, "/usr/bin/gnome-shell", 0.8), Holder(1200, "/usr/lib/xorg/Xorg", 1.2))
    parts = tuple(Card(name=f"A100 MIG {n}g", uuid=f"MIG-{n}", memory_gib=n) for n in (1, 3))
    machine = Machine(
        log=tmp_path / "log",
        cards=(Card(used_gib=2.5, held_by=desktop), Card(name="A100", uuid="GPU-a", instances=parts), Card()),
        driver="575.57",
        driver_cuda=12090,
    )
    told = ask_emulated(
        machine,
        "found = driver.ask()",
        "print(found.version, found.cuda)",
        "for one in found.devices: print(one.index, one.visible_name, one.name, one.total_bytes / 2**30)",
        "[desk, *_] = found.devices",
        "print([(one.name, one.pid) for one in desk.holders], desk.free_bytes / 2**30)",
    )
    assert told.splitlines() == [
        "575.57 (12, 9)",
        "0 0 NVIDIA GeForce RTX 4090 23.5",
        "1 MIG-1 A100 MIG 1g 1.0",
        "1 MIG-3 A100 MIG 3g 3.0",
        "2 2 NVIDIA GeForce RTX 4090 23.5",  # two of one name
        "[('Xorg', 1200), ('gnome-shell', 1300)] 21.0",
    ]
