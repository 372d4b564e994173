"""The command ``bench``. A room is imported only when its command is called, so that --help is quick."""

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.cli import help, results, winner
from bench.errors import BenchError
from bench.process import guarded
from bench.redaction import show

_DEFAULT = ["experiment=quickstart"]  # what a sweep without any override is


def main() -> None:
    """Run the console script; a user's error is one message and its exit code."""
    with guarded():
        sys.exit(_call(sys.argv[1:]))


def _call(arguments: list[str]) -> int:
    """Call the command and return its exit code; run, sweep and their completion are the Hydra app."""
    parser = make_parser()
    command, rest = "".join(arguments[:1]), arguments[1:]
    if command == "-sc":
        passed_on = help.complete(arguments, parser)
    elif command == "run":
        passed_on = rest
    elif command == "sweep" and not {"-h", "--help"} & set(rest):
        help.require_flags(rest, parser)
        passed_on = ["--multirun", *(_read_flags(rest) or _DEFAULT)]
    else:
        parsed = parser.parse_args([command, *_read_flags(rest)] if command == "plan" else arguments)
        return int(parsed.call(parsed))
    if passed_on is not None:
        from bench.run import app

        app.main(passed_on)
    return 0


def _read_flags(overrides: Sequence[str]) -> list[str]:
    """Turn a sweep's flags into overrides: ``--retry failed,oom`` and ``--fail-fast``."""
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


def make_parser() -> help.Parser:
    """Make the parser of all commands with their options and help."""
    parser = help.Parser(
        prog="bench", description="Full fine-tuning, LoRA or QLoRA, for your data on your card?"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    commands.add_parser("run", help="one run: bench run [overrides]", add_help=False)
    sweep = commands.add_parser("sweep", help="many runs; the same command again trains what is missing")
    sweep.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help="key=value, key=value,value; see run --help"
    )
    sweep.add_argument(
        "--retry", metavar="STATUSES", help="what is trained again, as failed,oom; none: nothing"
    )
    sweep.add_argument(
        "--fail-fast", action="store_true", help="start nothing after a run that is no success"
    )
    plan = commands.add_parser("plan", help="what sweep would do, with the same overrides; changes nothing")
    plan.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as for sweep")
    plan.add_argument("--json", action="store_true", help="for scripts")
    plan.set_defaults(call=_plan)
    doctor = commands.add_parser("doctor", help="what this machine can run: device, memory, 4-bit, hub, W&B")
    doctor.set_defaults(call=_doctor)
    where = help.Parser(prog="results", add_help=False)
    where.add_argument("--results", metavar="DIR", help="default: results/quickstart or the only one there")
    results.add_commands(commands, where)
    winner.add_commands(commands, where, results.open_store)
    return parser


def _plan(arguments: argparse.Namespace) -> int:
    from bench.cli import terminal
    from bench.config.overrides import quote_text
    from bench.results.store import Store
    from bench.run import app
    from bench.sweep import forecast, overview, space
    from bench.sweep.isolate import Isolation
    from bench.sweep.request import Identifier, plan_request

    overrides = [quote_text(line) for line in arguments.overrides or _DEFAULT]
    with app.composing() as compose:
        base, plan = plan_request(overrides, compose=compose, identify=Identifier())
        store, isolation = Store(Path(base.results_dir)), Isolation()
        known = forecast.forecast(plan, base, store, isolation=isolation)
        advice = forecast.advise(plan, known, compose=compose, isolation=isolation)
    limit = forecast.limit_packs(known, base)
    room = space.find_space(plan, base, store, found=known.found, target=known.target, limit_pack=limit)
    described = forecast.describe_plan(plan, base, store, known, advice) | space.describe(room)
    if arguments.json:
        print(json.dumps(described, ensure_ascii=False, indent=1))
        return 0
    lines = overview.summarise(described, known)
    lines += [*space.summarise(room), *overview.tell_order(plan, base.sweep)]
    if terminal.is_terminal():
        terminal.print_table(*overview.tabulate(plan, described))
        terminal.print_lines(
            [*lines, "each run in a line of its own: the same with `| cat`; for scripts: --json"]
        )
    else:
        print(show("\n".join([*overview.list_runs(plan, described), *lines])))
    return 0


def _doctor(_: argparse.Namespace) -> int:
    from bench.cli import terminal
    from bench.run import app, driver

    with app.composing() as compose:
        settings = compose(_DEFAULT)
    with contextlib.suppress(BenchError):  # doctor says it
        driver.take(settings.devices)
    from bench.extras import doctor  # which imports torch, for the card that runs get

    checked = []
    for one in doctor.examine(settings):
        checked.append(one)
        if not terminal.is_terminal():
            print(f"{one.mark:5}{one.name:22}{show(one.detail)}", flush=True)
    if terminal.is_terminal():
        terminal.print_table(
            ["Works", "What", "Found"], [[one.mark, one.name, one.detail] for one in checked]
        )
    return 1 if any(one.works is False for one in checked) else 0
