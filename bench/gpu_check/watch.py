"""What a sweep's processes hold of a card while it runs, as the driver says: NVML, which makes no context."""

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from bench.gpu_check.lab import Proof

SLACK_BYTES = 2**28  # that a desktop may take meanwhile: less than a CUDA context


def find_runs(sweep: psutil.Process) -> list[psutil.Process]:
    """List the processes that a sweep trains and predicts in: not itself, nor its fork server."""
    own = [one for one in sweep.children() if "spawn_main" not in " ".join(one.cmdline())]
    return [one for one in sweep.children(recursive=True) if one not in own]


class Watch:
    """A record of a sweep's processes and the card's free memory, made by calling it again and again."""

    def __init__(self, uuid: str | None) -> None:
        self.card = _open_card(uuid)
        self.before_bytes = self._read_free()
        self.free_bytes: dict[int, int] = {}  # the most that was free during the life of each run's process
        self.spawned: set[int] = set()  # runs' processes that are new interpreters, and no forks
        self.own: set[int] = set()  # processes that must not use the card
        self.users: set[int] = set()  # processes that do, as NVML says
        self.openers: set[int] = set()  # and as their open files say, where NVML has other numbers

    def __call__(self, sweep: psutil.Process) -> None:
        """Look once."""
        runs = {one.pid for one in find_runs(sweep)}
        self.spawned |= {one.pid for one in sweep.children()} & runs
        own = {sweep.pid, *(one.pid for one in sweep.children(recursive=True))} - runs
        self.own |= own
        self.users |= self._list_users() & (runs | own)
        if (free := self._read_free()) is not None:
            for pid in runs:
                self.free_bytes[pid] = max(free, self.free_bytes.get(pid, 0))
        self.openers |= {pid for pid in runs | own if _opens_card(pid)}

    def prove(self) -> Iterator[Proof]:
        """Say what was seen: how runs started, whether memory came back, and who used the card."""
        slow = "each run started a new interpreter, which takes longer: a forked process cannot use the card"
        yield Proof(
            "fork server", None if self.spawned else True, slow if self.spawned else "runs were forked"
        )
        name, after = "memory back", self._read_free()
        if self.before_bytes is None or after is None:
            yield Proof(name, None, "NVML does not say how much of the card is free")
        else:
            missing = self.before_bytes - min([after, *self.free_bytes.values()])
            detail = f"at each run's beginning, but for {max(0, missing) / 2**20:.0f} MiB"
            yield Proof(name, missing < SLACK_BYTES, detail)
        name, users = "contexts", self.users or self.openers
        if not users:
            yield Proof(name, None, "neither NVML nor /proc says which processes use the card")
        else:
            wrong = users & self.own
            detail = f"{len(users - wrong)} processes of runs made one, and {len(wrong)} that may not:"
            yield Proof(name, not wrong, f"{detail} the sweep's own and its fork server")

    def _read_free(self) -> int | None:
        if self.card is None:
            return None
        import pynvml

        return int(pynvml.nvmlDeviceGetMemoryInfo(self.card).free)

    def _list_users(self) -> set[int]:
        if self.card is None:
            return set()
        import pynvml

        with contextlib.suppress(pynvml.NVMLError):
            return {one.pid for one in pynvml.nvmlDeviceGetComputeRunningProcesses(self.card)}
        return set()


def _open_card(uuid: str | None) -> Any:
    """NVML's handle of the card, or None without a card, a driver or NVML's package."""
    if uuid is None or importlib.util.find_spec("pynvml") is None:
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except pynvml.NVMLError:
        return None


def _opens_card(pid: int) -> bool:
    """Whether the process has CUDA's device file open, which NVML alone does not open."""
    try:
        return any(
            link.readlink().name.startswith("nvidia-uvm") for link in Path(f"/proc/{pid}/fd").iterdir()
        )
    except OSError:  # it has ended, or is another user's
        return False
