"""The machine's cards, as NVIDIA's driver describes them through NVML, and which of them runs get.

Cards have nvidia-smi's numbers, which are CUDA's under CUDA_DEVICE_ORDER=PCI_BUS_ID. Never imports torch.
"""

import importlib.util
import os
import re
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any

import psutil

from bench.config.cards import GIB
from bench.errors import ConfigError, MissingError

VISIBLE, ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"
NOTED_BYTES = GIB // 10  # that a process holds at least to be named
RESERVED_BYTES = GIB  # of a card that the driver itself may hold
_OLDEST_DRIVERS = {12: 525, 13: 580}  # by the CUDA that they run
_BUILDS = {12: "cu126", 13: "cu130"}  # of torch 2.12 to 2.14, by the CUDA of the driver
_PYTORCH_INDEX = "https://download.pytorch.org/whl/"


@dataclass(frozen=True)
class Holder:
    """A process that holds memory of a card."""

    pid: int
    name: str
    used_bytes: int | None  # None: the driver does not say, as on WSL2


@dataclass(frozen=True)
class Device:
    """One device to CUDA: a card, or an instance of a card that MIG divides."""

    index: int  # of the card
    uuid: str  # GPU-..., or MIG-...
    name: str
    total_bytes: int
    free_bytes: int
    holders: tuple[Holder, ...] = ()  # without this process; the one with the most memory first
    capability: tuple[int, int] | None = None  # of computing, by which NVIDIA numbers its architectures

    @property
    def visible_name(self) -> str:
        """The device's name in CUDA_VISIBLE_DEVICES."""
        return self.uuid if self.uuid.startswith("MIG-") else str(self.index)


@dataclass(frozen=True)
class Driver:
    """The driver and all devices that it shows this process, in nvidia-smi's order."""

    version: str
    cuda: tuple[int, int]  # the newest CUDA that it runs
    devices: tuple[Device, ...]


@dataclass(frozen=True)
class Choice:
    """The devices that runs get."""

    names: tuple[str, ...] = ()  # for CUDA_VISIBLE_DEVICES; none: torch finds out for itself
    devices: tuple[Device, ...] = ()  # none: the CPU, or the driver cannot be asked
    note: str | None = None  # for the person who started the runs


def ask() -> Driver | None:
    """Return the driver of this machine, or None if there is none or pynvml is not installed."""
    if importlib.util.find_spec("pynvml") is None:
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
        cuda = int(pynvml.nvmlSystemGetCudaDriverVersion())  # 12080 is 12.8
        version = str(pynvml.nvmlSystemGetDriverVersion())
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError:
        return None
    handles = []
    for place in range(count):
        with suppress(pynvml.NVMLError):  # one that this process may not use has no number in CUDA either
            handles.append(pynvml.nvmlDeviceGetHandleByIndex(place))
    devices = [
        _read_device(pynvml, index, part)
        for index, handle in enumerate(handles)
        for part in _divide(pynvml, handle)
    ]
    return Driver(version, (cuda // 1000, cuda % 1000 // 10), tuple(devices))


def _divide(nvml: Any, handle: Any) -> Iterator[Any]:
    """Yield the card, or its instances where MIG is on, as CUDA cannot use it as a whole then."""
    try:
        if not nvml.nvmlDeviceGetMigMode(handle)[0]:
            yield handle
            return
    except nvml.NVMLError:  # most cards do not have MIG
        yield handle
        return
    for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        with suppress(nvml.NVMLError):  # fewer were made
            yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)


def _read_device(nvml: Any, index: int, handle: Any) -> Device:
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        total, free = int(memory.total), int(memory.free)
    except nvml.NVMLError:  # of a chip that shares the machine's memory
        machine = psutil.virtual_memory()
        total, free = machine.total, machine.available
    capability = None
    with suppress(nvml.NVMLError):
        major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
        capability = (int(major), int(minor))
    return Device(
        index=index,
        uuid=str(nvml.nvmlDeviceGetUUID(handle)),
        name=str(nvml.nvmlDeviceGetName(handle)),
        total_bytes=total,
        free_bytes=free,
        holders=tuple(_find_holders(nvml, handle)),
        capability=capability,
    )


def _find_holders(nvml: Any, handle: Any) -> list[Holder]:
    """Return the other processes that hold memory of the card, the one with the most first."""
    used: dict[int, int | None] = {}
    for ask_for in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
        with suppress(nvml.NVMLError):
            used |= {one.pid: one.usedGpuMemory for one in ask_for(handle)}
    used.pop(os.getpid(), None)
    holders = [Holder(pid, _name_process(nvml, pid), size) for pid, size in used.items()]
    return sorted(holders, key=lambda holder: -(holder.used_bytes or 0))


def _name_process(nvml: Any, pid: int) -> str:
    """Return the program's name from the driver, as psutil knows other process numbers in a container."""
    try:
        words = str(nvml.nvmlSystemGetProcessName(pid)).split()
    except nvml.NVMLError:
        words = []
    return PurePath(words[0]).name if words else "a process"


def find_visible(devices: Sequence[Device], listed: str | None) -> list[Device]:
    """Return the devices that CUDA_VISIBLE_DEVICES=``listed`` leaves, in its order, as CUDA reads it.

    A UUID may be cut short. The first word that names no device, or several, ends the list; a device that
    is named twice leaves none. The number of a card that MIG divides is its first instance.
    """
    if listed is None:
        return list(devices)
    visible: list[Device] = []
    for word in listed.split(","):
        one = _find_named(devices, word.strip())
        if one is None:
            break
        if one in visible:
            return []
        visible.append(one)
    return visible


def _find_named(devices: Sequence[Device], word: str) -> Device | None:
    if number := re.match(r"\+?\d+", word):
        return next((device for device in devices if device.index == int(number[0])), None)
    alike = [
        device for device in devices if word.startswith(("GPU-", "MIG-")) and device.uuid.startswith(word)
    ]
    return alike[0] if len(alike) == 1 else None


def choose(devices: str, count: int = 1) -> Choice:
    """Return what ``devices`` (auto, cpu, cuda, cpu*2, 0,1) gives to runs of ``count`` processes each.

    Numbers are nvidia-smi's and must be in CUDA_VISIBLE_DEVICES, if that is set. auto and cuda are the
    visible devices with the most memory, as many as there are processes.

    Raises:
        ConfigError: there is no such device, or it is not visible.
        MissingError: this driver, or this torch, cannot use the device.
    """
    if devices.startswith("cpu"):
        return Choice()
    installed, listed = ask(), os.environ.get(VISIBLE)
    numbers = devices.split(",") if devices[:1].isdigit() else []
    if installed is None or not installed.devices:
        return _choose_unseen(devices, numbers, listed)
    visible = find_visible(installed.devices, listed)
    if not visible and devices == "auto":
        hides = f"{VISIBLE}={listed} names none of {_tell_devices(installed.devices)}"
        is_meant = (listed or "").strip() in ("", "-1")
        return Choice(note=None if is_meant else f"devices=auto: training on the CPU, as {hides}")
    if numbers or not visible:
        chosen = _pick(devices, numbers, visible, listed)
    else:  # of those with the same memory the first, whatever is free of it now
        largest = sorted(visible, key=lambda one: -one.total_bytes)[:count]
        chosen = [one for one in visible if one in largest]
    if (reason := _explain_cpu_build(installed, chosen)) is not None:
        if devices != "auto":
            raise MissingError(f"devices={devices}: {reason}")
        return Choice(note=f"devices=auto: training on the CPU, as {reason}")
    if (reason := _explain_old_driver(installed, chosen)) is not None:
        raise MissingError(f"devices={devices}: {reason}; devices=cpu trains without the card")
    note = None
    if not numbers and len(visible) > len(chosen):
        note = (
            f"devices={devices} takes {_tell_devices(chosen)}, of {len(visible)} the first with most memory"
        )
    return Choice(tuple(one.visible_name for one in chosen), tuple(chosen), note)


def _choose_unseen(devices: str, numbers: Sequence[str], listed: str | None) -> Choice:
    """Return the choice where the driver names no device; torch may still find one, in a container say."""
    if devices != "auto" and read_torch_cuda() is None:
        raise ConfigError(
            f"devices={devices}: this machine has no CUDA device that torch can use: no NVIDIA driver "
            f"answers, and torch {metadata.version('torch')} is built for the CPU alone; use devices=cpu, or "
            "plan.card=NAME to plan for a card that is not here"
        )
    words = numbers if listed is None else [word.strip() for word in listed.split(",")]
    if missing := [number for number in numbers if number not in words]:
        raise ConfigError(
            f"devices={devices}: {VISIBLE}={listed} does not list {', '.join(missing)}; use what it lists, "
            "or unset it"
        )
    return Choice(tuple(numbers))


def _pick(
    devices: str, numbers: Sequence[str], visible: Sequence[Device], listed: str | None
) -> list[Device]:
    """Return the visible devices with these numbers.

    Raises:
        ConfigError: a number is not among them, or no device is visible.
    """
    by_number = {str(one.index): one for one in reversed(visible)}  # of a divided card its first instance
    missing = [f"card {number}" for number in numbers if str(int(number)) not in by_number]
    if missing or not visible:
        leaves = "this machine has" if listed is None else f"{VISIBLE}={listed} leaves"
        raise ConfigError(
            f"devices={devices}: {leaves} {_tell_devices(visible) or 'no card'}"
            + (f" and not {', '.join(missing)}" if missing else "")
            + "; numbers are nvidia-smi's, devices=cpu trains without a card"
        )
    return [by_number[str(int(number))] for number in numbers]


def take(devices: str, count: int = 1) -> None:
    """Hide the CUDA devices that the run does not get from this process and from those that it starts.

    Call it before torch begins to use CUDA, which reads the variables once.

    Raises:
        ConfigError, MissingError: as choose; or CUDA is in use already.
    """
    names = ",".join(choose(devices, count).names[:count])
    torch = sys.modules.get("torch")
    is_late = torch is not None and torch.cuda.is_initialized() and os.environ.get(VISIBLE) != names
    if is_late and devices[:1].isdigit():
        raise ConfigError(
            f"devices={devices}: this process uses CUDA already and cannot change to another card; "
            f"set {VISIBLE}={names} before it starts, or use devices=auto for the card that it has"
        )
    if names and not is_late:
        os.environ.update({VISIBLE: names, ORDER: "PCI_BUS_ID"})


def read_torch_cuda() -> str | None:
    """Return the CUDA that the installed torch is built for, 13.0 say, or ROCm's version; None: for CPUs."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    values = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    return values.get("cuda") or values.get("hip")


def _explain_cpu_build(installed: Driver, devices: Sequence[Device]) -> str | None:
    if read_torch_cuda() is not None:
        return None
    return (
        f"torch {metadata.version('torch')} is built without CUDA and cannot use {_name_all(devices)}; "
        f"{_tell_remedies(installed, max(_BUILDS))}, or say devices=cpu"
    )


def _explain_old_driver(installed: Driver, devices: Sequence[Device]) -> str | None:
    """Return why torch cannot use the cards, or None; within one major version of CUDA all fit."""
    built_for = read_torch_cuda() or "0"
    major = int(built_for.partition(".")[0])
    if installed.cuda[0] >= major:
        return None
    return (
        f"torch cannot use {_name_all(devices)}: {tell_driver(installed)}; {_tell_remedies(installed, major)}"
    )


def tell_driver(installed: Driver) -> str:
    """Return the driver's CUDA beside torch's, which decide whether torch can use the cards."""
    built_for = read_torch_cuda()
    return (
        f"driver {installed.version} runs CUDA {installed.cuda[0]}.{installed.cuda[1]} and older, torch "
        f"{metadata.version('torch')} is built for {'CPUs' if built_for is None else f'CUDA {built_for}'}"
    )


def _tell_remedies(installed: Driver, major: int) -> str:
    """Return remedies: a driver for torch's CUDA, or a torch for the driver's."""
    remedies = []
    if installed.cuda[0] < major:
        remedies.append(
            f"update the driver to {_OLDEST_DRIVERS[major]} or newer "
            f"(on Ubuntu `sudo apt install nvidia-driver-{_OLDEST_DRIVERS[major]}`)"
            if major in _OLDEST_DRIVERS
            else f"update the driver to one for CUDA {major}"
        )
    if (build := _BUILDS.get(min(installed.cuda[0], max(_BUILDS)))) is not None:
        version = metadata.version("torch").partition("+")[0]
        remedies.append(
            f"install a torch for this driver (`{sys.executable} -m pip install torch=={version}+{build} "
            f"--index-url {_PYTORCH_INDEX}{build}`)"
        )
    return ", or ".join(remedies)


def _tell_devices(devices: Sequence[Device]) -> str:
    return ", ".join(f"card {device.index} ({device.name})" for device in devices)


def tell_holders(device: Device) -> str | None:
    """Return who holds how much of the device's memory, or None if nobody holds much."""
    named = [
        holder for holder in device.holders if holder.used_bytes is None or holder.used_bytes >= NOTED_BYTES
    ]
    told = [f"{one.name} (pid {one.pid}) holds {_tell_bytes(one.used_bytes)}" for one in named]
    used = device.total_bytes - device.free_bytes - sum(holder.used_bytes or 0 for holder in device.holders)
    if used > RESERVED_BYTES:  # in containers and on WSL2 the driver names nobody, or no bytes
        told.append(f"{_tell_bytes(used)} are held by others, unnamed by the driver")
    return ", ".join(told) or None


def _tell_bytes(used: int | None) -> str:
    return "some" if used is None else f"{used / GIB:.1f} GiB"


def _name_all(devices: Sequence[Device]) -> str:
    return ", ".join(dict.fromkeys(device.name for device in devices))
