"""The commands that use what a run trained. What does the work is imported only when a command is called."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.redaction import show

if TYPE_CHECKING:
    from bench.store import Store

Open = Callable[[str | None], "Store"]  # the store that --results means

_RUN = "a run_id, or best:METHOD, which is the table's choice"


def add_commands(commands: Any, results: argparse.ArgumentParser, open_store: Open) -> None:
    """Adds them to the parser of ``bench``; ``results`` is the parser of --results."""
    export = commands.add_parser(
        "export", parents=[results], help="a run's adapter or weights, for PEFT, transformers or bench"
    )
    export.add_argument("run", metavar="RUN_ID|best:METHOD", help=_RUN)
    export.add_argument("folder", metavar="DIR", type=Path, help="a new folder")
    export.set_defaults(call=partial(_export, open_store))


def _export(open_store: Open, arguments: argparse.Namespace) -> int:
    from bench.winner import choice

    store = open_store(arguments.results)
    result = choice.find_run(store, arguments.run)
    choice.find_weights(store, result)
    from bench.winner import export

    found = export.export(store, result, arguments.folder)
    print(
        show(f"{result.run_id} ({found.manifest.method}): its {found.manifest.kind} is in {arguments.folder}")
    )
    return 0
