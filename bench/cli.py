"""The command ``bench``. A room is imported only when its command is called, so that --help is quick."""

import argparse
import sys
from collections import Counter
from pathlib import Path

from bench.errors import BenchError, ConfigError, StoreError

_EPILOG = """\
bench run method=qlora lora.r=16 seed=1          train one configuration
bench run --help | --cfg job | --multirun        the same as `python -m bench.run`, a Hydra app
bench sweep experiment=quickstart                full fine-tuning against LoRA and QLoRA, in minutes
bench sweep method=lora,qlora lora.r=8,16        sweep what you like; the same command again resumes
bench run data=files data.train=my.csv           your own texts, columns text and label
"""


def main() -> None:
    """The console script; a user's error is one message and its exit code."""
    arguments = sys.argv[1:]
    if arguments[:1] in (["run"], ["sweep"]):
        from bench import run

        command, *overrides = arguments
        if command == "sweep":
            overrides = ["--multirun", *(overrides or ["experiment=quickstart"])]
        run.main(overrides)
        return
    parsed = _make_parser().parse_args(arguments)
    try:
        sys.exit(parsed.call(parsed))
    except BenchError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


def find_results(given: str | None, root: Path = Path("results")) -> Path:
    """The results folder that is meant: the one given, else results/quickstart, else the only one there.

    Raises:
        StoreError: there is none, or more than one and none was named.
    """
    if given is not None:
        if not (Path(given) / "runs").is_dir():
            raise StoreError(f"--results {given}: holds no runs; give a folder that `bench sweep` has made")
        return Path(given)
    found = sorted(folder.parent for folder in root.glob("*/runs"))
    if root / "quickstart" in found:
        return root / "quickstart"
    if len(found) == 1:
        return found[0]
    there = f"there are {', '.join(map(str, found))}; name one" if found else "run `bench sweep` first"
    raise StoreError(f"--results: no results folder is meant; {there}")


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench",
        description="Full fine-tuning, LoRA or QLoRA, for your data on your card?",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    commands.add_parser("run", help="one run: bench run [overrides]", add_help=False)
    commands.add_parser("sweep", help="many runs: bench sweep [overrides]", add_help=False)
    results = argparse.ArgumentParser(add_help=False)
    results.add_argument("--results", metavar="DIR", help="default: results/quickstart or the only one there")
    table = commands.add_parser("table", parents=[results], help="table.md, table.csv, runs.csv from results")
    table.add_argument("--lang", choices=["en", "zh"], default="en", help="language of the table")
    table.set_defaults(call=_table)
    status = commands.add_parser("status", parents=[results], help="how many runs came to what")
    status.set_defaults(call=_status)
    verify = commands.add_parser("verify", parents=[results], help="check every record; bad ones are named")
    verify.set_defaults(call=_verify)
    sync = commands.add_parser("sync", parents=[results], help="upload offline W&B runs, each once")
    sync.add_argument(
        "--probe-seconds", type=float, default=5.0, help="how long the server may take to answer"
    )
    sync.set_defaults(call=_sync)
    return parser


def _table(arguments: argparse.Namespace) -> int:
    from bench.report.table import write_tables
    from bench.store import Store

    store = Store(find_results(arguments.results))
    written = write_tables(store, lang=arguments.lang)
    print((store.folder / "table.md").read_text(encoding="utf-8"))
    print(*written, sep="\n")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from bench.store import Store

    store = Store(find_results(arguments.results))
    good, bad = store.read_all()
    counts = Counter(record.status for record in good)
    print(store.folder)
    for status, count in sorted(counts.items()):
        print(f"{count:6} {status}")
    if bad:
        print(f"{len(bad):6} not readable; `bench verify` names them")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from bench.store import Store

    store = Store(find_results(arguments.results))
    good, bad = store.read_all()
    for record in bad:
        print(f"{record.path}: {record.reason}")
    print(f"{len(good)} good, {len(bad)} bad records in {store.folder}")
    return 1 if bad else 0


def _sync(arguments: argparse.Namespace) -> int:
    from bench import tracking

    if not 0 < arguments.probe_seconds <= 60:
        raise ConfigError(f"--probe-seconds {arguments.probe_seconds}: must lie in (0, 60]")
    folder = find_results(arguments.results)
    uploaded, failed = tracking.sync(folder, probe_seconds=arguments.probe_seconds)
    print(f"{uploaded} uploaded, {failed} failed")
    return 1 if failed else 0
