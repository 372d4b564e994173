"""What a sweep's processes hold of the card while it runs, as the driver says: no CUDA context is made."""

from collections.abc import Iterator
from pathlib import Path

import psutil

from bench.extras.gpu_check.lab import Proof
from bench.run import driver

SLACK_BYTES = 2**28  # that a desktop may take meanwhile: less than a CUDA context


def find_runs(sweep: psutil.Process) -> list[psutil.Process]:
    """List the processes that a sweep trains and predicts in: not itself, nor its fork server."""
    own = [child for child in sweep.children() if "spawn_main" not in " ".join(child.cmdline())]
    return [child for child in sweep.children(recursive=True) if child not in own]


class Watch:
    """A record of a sweep's processes and the card's free memory, made by calling it again and again."""

    def __init__(self, uuid: str | None) -> None:
        self.uuid = uuid  # of the card, by the driver; None: it cannot be asked
        self.before = self._ask()
        self.free_bytes: dict[int, int] = {}  # the most that was free during the life of each run's process
        self.spawned: set[int] = set()  # runs' processes that are new interpreters, and no forks
        self.own: set[int] = set()  # processes that must not use the card
        self.users: set[int] = set()  # processes that do, as the driver says
        self.openers: set[int] = set()  # and as their open files say, where the driver has other numbers

    def __call__(self, sweep: psutil.Process) -> None:
        """Look once."""
        runs = {run.pid for run in find_runs(sweep)}
        own = {sweep.pid, *(child.pid for child in sweep.children(recursive=True))} - runs
        self.own |= own
        self.spawned |= {child.pid for child in sweep.children()} & runs
        self.openers |= {pid for pid in runs | own if _opens_card(pid)}
        if (card := self._ask()) is not None:
            self.users |= {holder.pid for holder in card.holders} & (runs | own)
            for pid in runs:
                self.free_bytes[pid] = max(card.free_bytes, self.free_bytes.get(pid, 0))

    def prove(self) -> Iterator[Proof]:
        """Say what was seen: how runs started, whether memory came back, and who used the card."""
        slow = "each run started a new interpreter, which takes longer: a forked process cannot use the card"
        yield Proof(
            "fork server", None if self.spawned else True, slow if self.spawned else "runs were forked"
        )
        name, after = "memory back", self._ask()
        if self.before is None or after is None:
            yield Proof(name, None, "the driver does not say how much of the card is free")
        else:
            missing = self.before.free_bytes - min([after.free_bytes, *self.free_bytes.values()])
            detail = f"at each run's beginning, but for {max(0, missing) / 2**20:.0f} MiB"
            yield Proof(name, missing < SLACK_BYTES, detail)
        name, users = "contexts", self.users or self.openers
        if not users:
            yield Proof(name, None, "neither the driver nor /proc says which processes use the card")
        else:
            wrong = users & self.own
            detail = f"{len(users - wrong)} processes of runs made one, and {len(wrong)} that may not:"
            yield Proof(name, not wrong, f"{detail} the sweep's own and its fork server")

    def _ask(self) -> driver.Device | None:
        installed = driver.ask() if self.uuid is not None else None
        return (
            next((device for device in installed.devices if device.uuid == self.uuid), None)
            if installed
            else None
        )


def _opens_card(pid: int) -> bool:
    """Tell whether the process has CUDA's device file open, which asking the driver alone does not open."""
    try:
        names = [link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:  # it has ended, or is another user's
        return False
    return any(name.startswith("nvidia-uvm") for name in names)
