"""The command ``bench``. A room is imported only when its command is called, so that --help is quick."""

import argparse
import contextlib
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError, ConfigError, StoreError
from bench.redaction import show

if TYPE_CHECKING:
    from bench.config import Config
    from bench.reporting import ReportConfig

_DEFAULT = ["experiment=quickstart"]  # what a sweep without any override is
_EPILOG = """\
bench run method=qlora lora.r=16 seed=1          train one configuration
bench run --help | --cfg job | --multirun        the same as `python -m bench.run`, a Hydra app
bench sweep experiment=quickstart                full fine-tuning against LoRA and QLoRA, in minutes
bench sweep method=lora,qlora lora.r=8,16        sweep what you like; the same command again resumes
bench run data=files data.train=my.csv           your own texts, columns text and label
bench plan experiment=rtx4090 plan.card=rtx4090  what a sweep would take of a card: memory, fit, hours
bench recommend --vram 12 --max-hours 3          which method to take, from your own results
bench doctor                                     what this machine can run
"""


def main() -> None:
    """The console script; a user's error is one message and its exit code."""
    arguments = sys.argv[1:]
    if arguments[:1] in (["run"], ["sweep"]):
        from bench import run

        command, *overrides = arguments
        if command == "sweep":
            overrides = ["--multirun", *(_read_flags(overrides) or _DEFAULT)]
        run.main(overrides)
        return
    if arguments[:1] == ["plan"]:
        arguments = ["plan", *_read_flags(arguments[1:])]
    try:
        parsed = _make_parser().parse_args(arguments)
        code = parsed.call(parsed)
        sys.stdout.flush()
    except BenchError as error:
        print(show(error), file=sys.stderr)
        code = error.exit_code
    except BrokenPipeError:  # the reader, `head` say, has seen enough; nothing may be written at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def _read_flags(overrides: Sequence[str]) -> list[str]:
    """A sweep's overrides, its flags turned into overrides: ``--retry failed,oom`` and ``--fail-fast``."""
    lines: list[str] = []
    rest = iter(overrides)
    for one in rest:
        flag, equals, value = one.partition("=")
        if flag == "--retry":
            statuses = value if equals else next(rest, "")
            lines.append(f"sweep.retry=[{'' if statuses == 'none' else statuses}]")
        else:
            lines.append("sweep.fail_fast=true" if one == "--fail-fast" else one)
    return lines


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
    plan = commands.add_parser("plan", help="what sweep would do, with the same overrides; changes nothing")
    plan.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as for sweep")
    plan.add_argument("--json", action="store_true", help="for scripts")
    plan.set_defaults(call=_plan)
    results = argparse.ArgumentParser(add_help=False)
    results.add_argument("--results", metavar="DIR", help="default: results/quickstart or the only one there")
    table = commands.add_parser("table", parents=[results], help="tables and comparisons from results")
    table.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="report.price_per_hour=0.5")
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
    doctor = commands.add_parser("doctor", help="what this machine can run: device, memory, 4-bit, hub, W&B")
    doctor.set_defaults(call=_doctor)
    _add_advice(commands, results)
    return parser


def _add_advice(commands: Any, results: argparse.ArgumentParser) -> None:
    """The commands about what follows from the results, and about results from elsewhere."""
    recommend = commands.add_parser(
        "recommend", parents=[results], help="which method and settings, from your own results"
    )
    recommend.add_argument("--vram", type=float, required=True, metavar="GIB", help="memory that there is")
    recommend.add_argument("--max-hours", type=float, metavar="H", help="of one training")
    recommend.add_argument("--min-accuracy", type=float, metavar="A", help="a share, such as 0.9")
    recommend.add_argument("--lang", choices=["en", "zh"], default="en", help="language of the advice")
    recommend.set_defaults(call=_recommend)
    imports = commands.add_parser(
        "import", help="other people's results, shown in the table and never counted"
    )
    sources = imports.add_subparsers(metavar="SOURCE", required=True)
    peft = sources.add_parser("peft", parents=[results], help="result files of PEFT's method_comparison")
    peft.add_argument("path", metavar="DIR", help="a folder of *.json")
    peft.set_defaults(call=_import, source="peft")
    plain = sources.add_parser("csv", parents=[results], help="a plain table with a header")
    plain.add_argument("path", metavar="FILE", help="method, peak memory, train time, accuracy and more")
    plain.set_defaults(call=_import, source="csv")


@contextlib.contextmanager
def _composing() -> "Iterator[Callable[[Sequence[str]], Config]]":
    """What makes a configuration of override lines; an error inside is one message and its exit code."""
    from hydra import compose, initialize_config_dir

    from bench import config, run

    with run.explained_errors():
        run.prepare_hydra()
        with initialize_config_dir(str(config.CONF_DIR), version_base="1.3"):
            yield lambda lines: config.from_hydra(compose("config", overrides=list(lines)))


def _read_report(overrides: Sequence[str]) -> "ReportConfig":
    """The settings of the report, from conf/report and the command line.

    Raises:
        ConfigError: a setting that is not of the report, or that is wrong.
    """
    from bench.checks import require_valid

    if others := [line for line in overrides if not line.startswith(("report.", "report="))]:
        raise ConfigError(f"{others[0]}: only report.* can be set here; what was trained is in the results")
    with _composing() as compose:
        config = compose(overrides)
        require_valid([config])
        return config.report


def _plan(arguments: argparse.Namespace) -> int:
    from bench import run
    from bench.store import Store
    from bench.sweep import outlook
    from bench.sweep.engine import Identifier
    from bench.sweep.isolate import Isolation
    from bench.sweep.request import plan_request

    overrides = [run.quote_text(line) for line in arguments.overrides or _DEFAULT]
    with _composing() as compose:
        base, plan = plan_request(overrides, compose=compose, identify=Identifier())
        store, isolation = Store(Path(base.results_dir)), Isolation()
        known = outlook.forecast(plan, base, store, isolation=isolation)
        advice = outlook.advise(plan, known, compose=compose, isolation=isolation)
    described = outlook.describe_plan(plan, base, store, known, advice)
    if arguments.json:
        print(json.dumps(described, ensure_ascii=False, indent=1))
        return 0
    lines = [*outlook.list_runs(plan, described), *outlook.summarise(described, known)]
    if seeds := base.sweep.final_seeds:
        lines.append(f"then the best of each method with seeds {', '.join(map(str, seeds))}")
    print(show("\n".join(lines)))
    return 0


def _table(arguments: argparse.Namespace) -> int:
    from bench.report.table import write_tables
    from bench.store import Store

    report = _read_report(arguments.overrides)
    store = Store(find_results(arguments.results))
    written = write_tables(store, lang=arguments.lang, report=report)
    print((store.folder / "table.md").read_text(encoding="utf-8"))
    print(*written, sep="\n")
    return 0


def _recommend(arguments: argparse.Namespace) -> int:
    from bench.report.advice import describe_advice
    from bench.report.evidence import gather
    from bench.report.recommendation import Limits
    from bench.report.text import read_language
    from bench.store import Store

    hours, accuracy = arguments.max_hours, arguments.min_accuracy
    if not 0 < arguments.vram < math.inf:
        raise ConfigError(f"--vram {arguments.vram:g}: must be a positive number of GiB")
    if hours is not None and not 0 < hours < math.inf:
        raise ConfigError(f"--max-hours {hours:g}: must be a positive number of hours")
    if accuracy is not None and not 0 <= accuracy <= 1:
        raise ConfigError(f"--min-accuracy {accuracy:g}: must be a share from 0 to 1, such as 0.9")
    limits = Limits(arguments.vram, None if hours is None else 3600 * hours, accuracy)
    report = _read_report([])
    store = Store(find_results(arguments.results))
    evidence, text = gather(store, report), read_language(arguments.lang)
    advice, fits = describe_advice(evidence, store.read_predictions, limits=limits, text=text)
    print(advice or text.empty)
    return 0 if fits else 1


def _status(arguments: argparse.Namespace) -> int:
    from bench.store import Store

    store = Store(find_results(arguments.results))
    good, bad = store.read_all()
    counts = Counter(record.status for record in good)
    print(show(store.folder))
    for status, count in sorted(counts.items()):
        print(f"{count:6} {status}")
    if bad:
        print(f"{len(bad):6} not readable; `bench verify` names them")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from bench.imports import find_imported
    from bench.store import Store

    store = Store(find_results(arguments.results))
    good, bad = store.read_all()
    imported, bad_imported = find_imported(store).read_all()
    for record in [*bad, *bad_imported]:
        print(show(f"{record.path}: {record.reason}").replace("\n", "\\n"))
    print(f"{len(good)} good, {len(bad)} bad records in {store.folder}")
    if imported or bad_imported:
        print(f"{len(imported)} good, {len(bad_imported)} bad records among those imported")
    return 1 if bad or bad_imported else 0


def _import(arguments: argparse.Namespace) -> int:
    from bench import imports
    from bench.store import Store

    store = Store(find_results(arguments.results))
    path, ignored = Path(arguments.path), list[str]()
    if arguments.source == "peft":
        records = imports.read_peft(path)
    else:
        records, ignored = imports.read_csv(path)
    unchanged = imports.save(store, records)
    if ignored:
        print(show(f"columns that bench does not know: {', '.join(ignored)}").replace("\n", "\\n"))
    folder = show(imports.find_imported(store).folder)
    print(
        f"{len(records)} imported into {folder}, {unchanged} of them known before; `bench table` shows them"
    )
    return 0


def _sync(arguments: argparse.Namespace) -> int:
    from bench import tracking

    if not 0 < arguments.probe_seconds <= 60:
        raise ConfigError(f"--probe-seconds {arguments.probe_seconds}: must lie in (0, 60]")
    folder = find_results(arguments.results)
    uploaded, failed = tracking.sync(folder, probe_seconds=arguments.probe_seconds)
    print(f"{uploaded} uploaded, {failed} failed")
    return 1 if failed else 0


def _doctor(_: argparse.Namespace) -> int:
    from bench import doctor

    with _composing() as compose:
        settings = compose(_DEFAULT)
    faults = 0
    for one in doctor.examine(settings):
        print(f"{one.mark:5}{one.name:22}{show(one.detail)}", flush=True)
        faults += one.works is False
    return 1 if faults else 0
