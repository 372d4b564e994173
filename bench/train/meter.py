"""A meter of what a run costs: peak memory and wall time by phase, each number with its kind, and energy.

Peak memory is a property of the whole process, which is why every run of a sweep has its own.
"""

import contextlib
import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import torch

from bench.train.device import is_wsl, keep_freed_memory, return_freed_memory

_PEAKS = (
    *("peak_allocated_bytes", "peak_reserved_bytes", "peak_resident_bytes", "nvml_peak_bytes"),
    "paged_bytes",
)


class Meter:
    """Peak memory and seconds of each phase, over all the times that it was entered.

    On Linux the kernel's resident peak is reset at the start of a phase (proc(5), /proc/PID/clear_refs); on
    CUDA torch's caching allocator counts, and first gives back what it keeps of the phase before.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        return_freed_memory()  # of a run before this one in the same process
        self.baseline_bytes = psutil.Process().memory_info().rss
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, dict[str, int | None]] = {}
        self.joules: float | None = None  # while training
        self.runs = 1  # that share what is measured, or shared what an attempt before took
        self.count_paged: Callable[[], int] = lambda: 0  # bytes that CUDA moves to the machine's memory
        self.current = "load"  # the last phase that was entered
        self._started = time.monotonic()
        self._nvml, self._nvml_reason = _open_nvml(device)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what happens inside, also when it fails; phases do not nest."""
        self.current = name
        self._reset_peaks()
        if self.device.type == "cpu" and name in ("train", "eval"):
            keep_freed_memory()
        joules = self._read_joules()
        started = time.monotonic()
        try:
            yield
        finally:
            self._synchronise()
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started
            peaks = self._read_peaks()
            before = self.peaks.get(name, dict.fromkeys(_PEAKS))
            self.peaks[name] = {kind: _larger(before.get(kind), peaks[kind]) for kind in _PEAKS}
            after = self._read_joules()
            if name == "train" and joules is not None and after is not None:
                self.joules = (self.joules or 0.0) + after - joules

    def read_memory(self) -> dict[str, int]:
        """Read the bytes that the process holds now, on the device or resident on a CPU."""
        if self.device.type == "cuda":
            return {"allocated_bytes": torch.cuda.memory_allocated(self.device)}
        return {"resident_bytes": psutil.Process().memory_info().rss}

    def memory_record(self) -> dict[str, Any]:
        """Return the block ``memory`` of a record, in bytes."""
        kind = "cuda" if self.device.type == "cuda" else "cpu_resident"
        phases = {name: self.peaks.get(name) for name in ("load", "train", "eval")}
        return {"kind": kind, "baseline_bytes": self.baseline_bytes, **phases}

    def peak_bytes(self) -> int | None:
        """Return the peak of all phases: reserved on CUDA, on a CPU resident above the baseline; or None."""
        kind = "peak_reserved_bytes" if self.device.type == "cuda" else "peak_resident_bytes"
        peaks = [peaks[kind] for name, peaks in self.peaks.items() if name in ("load", "train", "eval")]
        known = [peak for peak in peaks if peak is not None]
        if not known:
            return None
        if self.device.type == "cuda":
            return max(known)
        # A process that held more before, and gave it back, never comes above where it began.
        return max(known) - self.baseline_bytes if max(known) > self.baseline_bytes else None

    def time_record(self) -> dict[str, float | None]:
        """Return the block ``time`` of a record, in seconds; train excludes evaluation and saving."""
        phases = {f"{name}_seconds": self.seconds.get(name) for name in ("load", "train", "eval")}
        return {**phases, "total_seconds": time.monotonic() - self._started}

    def energy_record(self) -> dict[str, Any] | None:
        """Return the block ``energy`` of a record: the device's joules while training; None if unknown."""
        return None if self.joules is None else {"joules": self.joules, "source": "NVML energy counter"}

    def null_reasons(self) -> dict[str, str]:
        """Say why the numbers that are null are unknown."""
        reasons = {}
        for name in ("load", "train", "eval"):
            if name not in self.peaks:
                reasons[f"memory.{name}"] = reasons[f"time.{name}_seconds"] = "the run did not come to it"
        if self.device.type == "cpu":
            reasons["memory.*.peak_allocated_bytes"] = "torch counts only CUDA allocations"
            reasons["memory.*.peak_reserved_bytes"] = "torch counts only CUDA allocations"
        if self._nvml_reason is not None:
            reasons["memory.*.nvml_peak_bytes"] = self._nvml_reason
        if not Path("/proc/self/clear_refs").exists():
            reasons["memory.*.peak_resident_bytes"] = "only Linux resets a process's resident peak"
        if self.joules is None:
            reasons["energy"] = "no device with an energy counter was used"
        return reasons

    def _read_joules(self) -> float | None:
        """Read the device's energy counter, of which only differences count; None where it has none."""
        if self._nvml is None:
            return None
        import pynvml

        try:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(self._nvml)) / 1000
        except pynvml.NVMLError:
            return None

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _reset_peaks(self) -> None:
        self._synchronise()
        return_freed_memory()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # else a phase would begin with the most that the one before reserved
            torch.cuda.reset_peak_memory_stats(self.device)
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM := VmRSS

    def _read_peaks(self) -> dict[str, int | None]:
        peaks: dict[str, int | None] = dict.fromkeys(_PEAKS)
        peaks["peak_resident_bytes"] = _read_resident_peak()
        peaks["paged_bytes"] = self.count_paged()
        if self.device.type == "cuda":
            peaks["peak_allocated_bytes"] = torch.cuda.max_memory_allocated(self.device)
            peaks["peak_reserved_bytes"] = torch.cuda.max_memory_reserved(self.device)
            peaks["nvml_peak_bytes"] = self._read_nvml()
        return peaks

    def _read_nvml(self) -> int | None:
        """Return what the driver says this process holds: at a phase's end its peak, as torch kept it all."""
        if self._nvml is None:
            return None
        held, reason = _ask_held(self._nvml)
        self._nvml_reason = self._nvml_reason or reason
        return held


def _open_nvml(device: torch.device) -> tuple[Any, str | None]:
    """Return NVML's handle of the device, or None and why there is none."""
    if device.type != "cuda":
        return None, "the run used no NVIDIA device"
    if importlib.util.find_spec("pynvml") is None:
        return None, "the package nvidia-ml-py is not installed"
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return None, f"NVML cannot be started ({error})"
    uuid = torch.cuda.get_device_properties(device).uuid
    for kind in ("GPU", "MIG"):  # a whole card, or a part of one
        with contextlib.suppress(pynvml.NVMLError):
            return pynvml.nvmlDeviceGetHandleByUUID(f"{kind}-{uuid}"), None
    return None, f"NVML does not know the card {uuid} that torch uses"


def _ask_held(card: Any) -> tuple[int | None, str | None]:
    """Return the bytes of the card that this process holds, or None and why the driver does not say."""
    import pynvml

    try:
        processes = pynvml.nvmlDeviceGetComputeRunningProcesses(card)
    except pynvml.NVMLError as error:
        processes, reason = [], f"NVML does not list this card's processes ({error})"
    else:
        reason = (
            f"NVML lists no process {os.getpid()}; in a container it has the host's numbers, "
            "unless that is started with --pid=host"
        )
    own = next((process for process in processes if process.pid == os.getpid()), None)
    if own is not None and own.usedGpuMemory is not None:
        return own.usedGpuMemory, None
    if is_wsl():
        return None, "WSL2: its driver is that of Windows, which does not say what a process in Linux holds"
    if _is_divided(card):
        return (
            None,
            "the card is divided (MIG), where NVML tells what a process holds to administrators alone",
        )
    return (
        None,
        reason if own is None else "NVML lists the process, and its driver does not say what it holds",
    )


def _is_divided(card: Any) -> bool:
    """Return whether the card is divided into instances (MIG), or is one of these."""
    import pynvml

    try:
        return bool(pynvml.nvmlDeviceIsMigDeviceHandle(card).value or pynvml.nvmlDeviceGetMigMode(card)[0])
    except pynvml.NVMLError:  # a card that has no such mode
        return False


def _read_resident_peak() -> int | None:
    """Read VmHWM of this process in bytes; None outside Linux."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    line = next((line for line in status.splitlines() if line.startswith("VmHWM:")), None)
    return int(line.split()[1]) * 1024 if line else None


def _larger(one: int | None, other: int | None) -> int | None:
    known = [value for value in (one, other) if value is not None]
    return max(known, default=None)
