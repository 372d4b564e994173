"""The display of a sweep: a live view in a terminal, else a line for each run that ends."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from bench.config.identity import describe
from bench.redaction import show
from bench.sweep.packing import Pack
from bench.sweep.plan import Point

TAIL_BYTES = 2000  # of a run's log, where its newest line is


@dataclass
class Display:
    """A bar with the time left, estimated from finished runs, and the newest log line of each current run.

    Without a terminal there are only plain lines, free of control characters.
    """

    log_of: Callable[[str], Path]  # a run's log file
    console: Console = field(default_factory=Console)
    total: int = 0
    done: int = 0
    current: dict[str, Pack] = field(default_factory=dict)  # by the run_id of its first run
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("runs"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self.bar = Progress(*columns, console=self.console)
        self.task = self.bar.add_task("sweep", total=None)
        self.live = Live(
            get_renderable=self._render, console=self.console, refresh_per_second=2, transient=True
        )

    def __enter__(self) -> "Display":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def expect(self, count: int) -> None:
        """Add runs that will be started, and begin the live view, before which a question can be asked."""
        with self.lock:
            self.total += count
            self.bar.update(self.task, total=self.total)
        if self.console.is_terminal:
            self.live.start()

    def start(self, pack: Pack) -> None:
        """Show that a run begins, or several together."""
        with self.lock:
            self.current[pack[0].run_id] = pack

    def end(self, pack: Pack, lines: Sequence[str]) -> None:
        """Show that the runs have ended, with a line for each that says how."""
        with self.lock:
            self.current.pop(pack[0].run_id, None)
            for line in lines:
                self.done += 1
                self.bar.update(self.task, completed=self.done)
                self.console.print(Text(f"[{self.done}/{self.total}] {line}"), soft_wrap=True)

    def _render(self) -> Group:
        with self.lock:
            packs = list(self.current.values())
        lines = [
            Text(show(f"{_name(pack)}: {self._tail(pack[0])}"), overflow="ellipsis", no_wrap=True)
            for pack in packs
        ]
        return Group(*lines, self.bar)

    def _tail(self, point: Point) -> str:
        """Return the newest line of the run's log without its time, or that it is starting."""
        try:
            with self.log_of(point.run_id).open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except OSError:
            return "starting"
        steps = [line for line in text.splitlines() if " bench: step " in line]
        return steps[-1].partition(" bench: ")[2] if steps else "starting"


def _name(pack: Pack) -> str:
    others = len(pack) - 1
    return describe(pack[0].config) + (f" and {others} packed with it" if others else "")
