"""The commands that use what a run trained. What does the work is imported only when a command is called."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import ConfigError
from bench.redaction import show

if TYPE_CHECKING:
    from bench.store import Result, Store

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
    merge = commands.add_parser(
        "merge", parents=[results], help="a run's adapter merged into its base, and how far that agrees"
    )
    merge.add_argument("run", metavar="RUN_ID|best:METHOD", help=_RUN)
    merge.add_argument("folder", metavar="DIR", type=Path, help="a new folder")
    merge.add_argument(
        "--into",
        choices=["full", "4bit"],
        help="the base as it is, or as its 4-bit weights were; default: what the adapter was trained on",
    )
    merge.add_argument(
        "--tolerance", type=float, default=0.01, metavar="SHARE", help="of test predictions that may change"
    )
    merge.add_argument("--force", action="store_true", help="merge however many predictions change")
    merge.set_defaults(call=partial(_merge, open_store))


def _export(open_store: Open, arguments: argparse.Namespace) -> int:
    store, result = _find(open_store, arguments)
    from bench.winner import export

    found = export.export(store, result, arguments.folder)
    print(
        show(f"{result.run_id} ({found.manifest.method}): its {found.manifest.kind} is in {arguments.folder}")
    )
    return 0


def _merge(open_store: Open, arguments: argparse.Namespace) -> int:
    if not 0 <= arguments.tolerance <= 1:
        raise ConfigError(f"--tolerance {arguments.tolerance:g}: must be a share from 0 to 1, such as 0.01")
    store, result = _find(open_store, arguments)
    from bench.winner import agreement, merge

    rows = merge.merge(
        store,
        result,
        arguments.folder,
        into=arguments.into,
        tolerance=arguments.tolerance,
        force=arguments.force,
    )
    print(agreement.tabulate(rows), end="")
    print(show(f"{result.run_id}: merged into {arguments.folder}"))
    return 0


def _find(open_store: Open, arguments: argparse.Namespace) -> "tuple[Store, Result]":
    """The run that is meant, known to have weights before anything heavy is imported."""
    from bench.winner import choice

    store = open_store(arguments.results)
    result = choice.find_run(store, arguments.run)
    choice.find_weights(store, result)
    return store, result
