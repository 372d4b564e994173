"""The commands that read results, and those that bring others' in or take ours to W&B."""

import argparse
import math
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli import help
from bench.errors import ConfigError, StoreError
from bench.redaction import show
from bench.spelling import guess

if TYPE_CHECKING:
    from bench.config.schema import Config
    from bench.report.blocks import Block
    from bench.results.store import Store

_LANGUAGES = sorted(path.stem for path in Path(__file__).parents[1].glob("report/language/*.yaml"))


def add_commands(commands: Any, results: help.Parser) -> None:
    """Add them to the parser of ``bench``; ``results`` is the parser of --results."""
    table = commands.add_parser("table", parents=[results], help="tables and comparisons from results")
    table.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="report.price_per_hour=0.5")
    table.add_argument("--lang", choices=_LANGUAGES, default="en", help="language of the table")
    table.add_argument("--latex", action="store_true", help="also table.tex, for a paper")
    table.set_defaults(call=_table)
    report = commands.add_parser(
        "report", parents=[results], help="one page to look at, report.html, and its figures as SVG and PNG"
    )
    report.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as for table")
    report.add_argument("--lang", choices=_LANGUAGES, default="en", help="language that the page opens in")
    report.set_defaults(call=_report)
    status = commands.add_parser("status", parents=[results], help="how many runs came to what")
    status.set_defaults(call=_status)
    verify = commands.add_parser("verify", parents=[results], help="check every record; bad ones are named")
    verify.set_defaults(call=_verify)
    sync = commands.add_parser("sync", parents=[results], help="upload offline W&B runs, each once")
    sync.add_argument(
        "--probe-seconds", type=float, default=5.0, help="how long the server may take to answer"
    )
    sync.set_defaults(call=_sync)
    dashboard = commands.add_parser("dashboard", parents=[results], help="the W&B dashboard of these results")
    dashboard.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help="track.mode, track.project, track.entity"
    )
    dashboard.add_argument(
        "--offline", action="store_true", help="wandb's view of offline runs, in this terminal"
    )
    dashboard.set_defaults(call=_dashboard)
    _add_advice(commands, results)


def _add_advice(commands: Any, results: help.Parser) -> None:
    """Add the commands for advice, and those for results from elsewhere."""
    recommend = commands.add_parser(
        "recommend", parents=[results], help="which method and settings, from your own results"
    )
    memory = recommend.add_mutually_exclusive_group()
    memory.add_argument("--vram", type=float, metavar="GIB", help="memory that there is")
    memory.add_argument(
        "--card",
        metavar="CARD",
        help="a card that there is not yet, for example rtx4090: memory is predicted",
    )
    recommend.add_argument(
        "--labels", type=int, metavar="N", help="labelled texts that there are to train on"
    )
    recommend.add_argument("--label-cost", type=float, metavar="C", help="of one more, in any currency")
    recommend.add_argument("--max-hours", type=float, metavar="H", help="of one training")
    recommend.add_argument("--min-accuracy", type=float, metavar="A", help="a share, such as 0.9")
    recommend.add_argument("--lang", choices=_LANGUAGES, default="en", help="language of the advice")
    recommend.set_defaults(call=_recommend)
    audit = commands.add_parser(
        "audit", parents=[results], help="labels that are probably wrong, from a cross-validation"
    )
    audit.add_argument("method", nargs="?", metavar="METHOD", help="whose folds alone; default: all")
    audit.set_defaults(call=_audit)
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


def find_results(given: str | None, root: Path = Path("results")) -> Path:
    """Find the results folder: the one given, else results/quickstart, else the only one there.

    Raises:
        StoreError: there is none, or more than one and none was named.
    """
    if given is not None:
        if not (Path(given) / "runs").is_dir():
            near = guess(given, (str(folder.parent) for folder in root.glob("*/runs")))
            raise StoreError(
                f"--results {given}: holds no runs; give a folder that `bench sweep` has made{near}"
            )
        return Path(given)
    folders = sorted(folder.parent for folder in root.glob("*/runs"))
    if root / "quickstart" in folders:
        return root / "quickstart"
    if len(folders) == 1:
        return folders[0]
    there = "run `bench sweep` first"
    if folders:
        first, second = (shlex.quote(str(folder / "runs")) for folder in (folders[0], folders[1]))
        there = (
            f"there are {', '.join(map(str, folders))}; name one, or put the runs of several into one: "
            f"cp -r {second}/. {first}/"
        )
    raise StoreError(f"--results: no results folder is meant; {there}")


def open_store(given: str | None) -> "Store":
    """Open the records of the results folder that --results means."""
    from bench.results.store import Store

    return Store(find_results(given))


def _read_section(overrides: Sequence[str], section: str) -> "Config":
    """Compose the configuration with settings of one section, report or track, from the command line.

    Raises:
        ConfigError: a setting of another section, or one that is wrong.
    """
    from bench.config.checks import require_valid
    from bench.run import app

    if others := [line for line in overrides if not line.startswith((f"{section}.", f"{section}="))]:
        raise ConfigError(
            f"{others[0]}: only {section}.* can be set here; what was trained is in the results"
        )
    with app.composing() as compose:
        config = compose(overrides)
        require_valid([config])
        return config


def _table(arguments: argparse.Namespace) -> int:
    from bench.report.language.text import read_language
    from bench.report.latex import render_latex
    from bench.report.numbers.evidence import gather
    from bench.report.table import describe_all, render_files
    from bench.results.store import Store

    report = _read_section(arguments.overrides, "report").report
    store = Store(find_results(arguments.results))
    text, evidence = read_language(arguments.lang), gather(store, report)
    blocks = describe_all(evidence, text=text)
    files = render_files(evidence, blocks, text=text)
    if arguments.latex:
        files["table.tex"] = render_latex(evidence, text=text)
    written = [store.write_report(name, body) for name, body in files.items()]
    _print_blocks(blocks)
    print(*written, sep="\n")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from bench.report.page.images import lack_font
    from bench.report.page.page import PAGE, write_report
    from bench.results.store import Store

    report = _read_section(arguments.overrides, "report").report
    store = Store(find_results(arguments.results))
    written = write_report(store, lang=arguments.lang, report=report)
    figures = sum(path.suffix == ".png" for path in written)
    if lack_font(written):
        print(
            "no font of this machine has Chinese characters, so figures/*.png cannot show them; install one "
            "(on Debian fonts-noto-cjk) and run this again. report.html and *.svg use the reader's fonts"
        )
    print(show(f"{figures} figures as SVG and PNG: {store.folder / 'figures'}"))
    print(show(f"the tables, with the figures in table.md: {store.folder / 'table.md'}"))
    print(show(f"look at it in any browser: {store.folder / PAGE}"))
    return 0


def _recommend(arguments: argparse.Namespace) -> int:
    from bench.cli.card import find_card, predict_peaks
    from bench.config.cards import GIB
    from bench.report.language.text import read_language
    from bench.report.numbers.evidence import gather
    from bench.report.verdicts.advice import describe_advice
    from bench.report.verdicts.labels import LabelBudget
    from bench.report.verdicts.recommend import TrainingLimits, move_to_card
    from bench.results.store import Store

    _check_limits(arguments)
    labels = arguments.labels
    card = None if arguments.card is None else find_card(arguments.card)
    report = _read_section([], "report").report
    store = Store(find_results(arguments.results))
    if card is None:
        vram, evidence = arguments.vram, gather(store, report)
    else:
        vram = card.usable_bytes / GIB
        evidence = gather(
            store, report, move=lambda results: move_to_card(results, predict_peaks(results, card.name))
        )
    if labels is not None and not evidence.curves:
        raise ConfigError(
            f"--labels {labels}: {store.folder} holds no learning curve, so what labels bring is unknown; "
            "make one: `bench sweep experiment=curve`, for your own texts with data=files data.train=FILE; "
            f"then `bench recommend --labels {labels} --results results/curve`"
        )
    seconds = None if arguments.max_hours is None else 3600 * arguments.max_hours
    limits = TrainingLimits(vram, seconds, arguments.min_accuracy)
    text, device = read_language(arguments.lang), None if card is None else card.device
    budget = None if labels is None else LabelBudget(labels, arguments.label_cost)
    advice, fits = describe_advice(
        evidence, store.read_predictions, limits=limits, text=text, card=device, labels=budget
    )
    _print_blocks(advice)
    return 0 if fits else 1


def _check_limits(arguments: argparse.Namespace) -> None:
    """Check the numbers that `bench recommend` was given.

    Raises:
        ConfigError: one is out of range, or none says what to look for.
    """
    hours, accuracy = arguments.max_hours, arguments.min_accuracy
    labels, cost = arguments.labels, arguments.label_cost
    if arguments.vram is arguments.card is labels is None:
        raise ConfigError("recommend: give --vram GIB, --card CARD or --labels N, or several of them")
    if labels is not None and labels < 1:
        raise ConfigError(f"--labels {labels}: must be a positive number of labelled texts")
    if cost is not None and labels is None:
        raise ConfigError(f"--label-cost {cost:g}: needs --labels N, the labelled texts that there are")
    if cost is not None and not 0 < cost < math.inf:
        raise ConfigError(f"--label-cost {cost:g}: must be a positive amount")
    if arguments.vram is not None and not 0 < arguments.vram < math.inf:
        raise ConfigError(f"--vram {arguments.vram:g}: must be a positive number of GiB")
    if hours is not None and not 0 < hours < math.inf:
        raise ConfigError(f"--max-hours {hours:g}: must be a positive number of hours")
    if accuracy is not None and not 0 <= accuracy <= 1:
        raise ConfigError(f"--min-accuracy {accuracy:g}: must be a share from 0 to 1, such as 0.9")


def _audit(arguments: argparse.Namespace) -> int:
    from bench.extras import audit
    from bench.results.store import Store

    store = Store(find_results(arguments.results))
    found = audit.gather(store, arguments.method, _read_section([], "report"))
    noise = audit.measure_noise(found)
    issues = audit.find_issues(found, noise)
    path = store.write_report(audit.FILE, audit.render(found, noise, issues))
    print(show(audit.summarise(found, noise, issues)))
    print(show(path))
    return 0


def _print_blocks(blocks: Sequence["Block"]) -> None:
    """Print the blocks as Markdown for a file or another program, or drawn for a person at a terminal."""
    from bench.cli import terminal
    from bench.report.blocks import write_markdown

    if terminal.is_terminal():
        terminal.print_blocks(blocks)
    else:
        print(write_markdown(blocks))


def _status(arguments: argparse.Namespace) -> int:
    from bench.cli import terminal
    from bench.results.store import Store
    from bench.train import checkpoint

    store = Store(find_results(arguments.results))
    good, bad = store.read_all()
    counts = sorted(Counter(record.status for record in good).items())
    print(show(store.folder))
    if terminal.is_terminal():
        terminal.print_table(
            ["Runs", "Status"], [[str(count), status] for status, count in counts], right=[0]
        )
    else:
        print(*(f"{count:6} {status}" for status, count in counts), sep="\n")
    if bad:
        print(f"{len(bad):6} not readable; `bench verify` names them")
    used = [checkpoint.measure_disk(store.run_folder(record.run_id)) for record in good]
    parts = []
    for kind in ("weights", "checkpoints"):
        sizes = [one[kind] for one in used if one[kind]]
        parts.append(f"{kind} {sum(sizes) / 2**20:.1f} MiB in {len(sizes)} runs")
    print(f"on disk: {', '.join(parts)}")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from bench.results.store import Store, find_imported

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
    from bench.extras import imports
    from bench.results.store import Store, find_imported

    store = Store(find_results(arguments.results))
    path, ignored = Path(arguments.path), list[str]()
    if arguments.source == "peft":
        records = imports.read_peft(path)
    else:
        records, ignored = imports.read_csv(path)
    unchanged = imports.save(store, records)
    if ignored:
        print(show(f"columns that bench does not know: {', '.join(ignored)}").replace("\n", "\\n"))
    folder = show(find_imported(store).folder)
    print(
        f"{len(records)} imported into {folder}, {unchanged} of them known before; `bench table` shows them"
    )
    return 0


def _sync(arguments: argparse.Namespace) -> int:
    from bench.results.store import Store
    from bench.run.tracking import mirror
    from bench.run.tracking import wandb_run as tracking

    if not 0 < arguments.probe_seconds <= 60:
        raise ConfigError(f"--probe-seconds {arguments.probe_seconds}: must lie in (0, 60]")
    store = Store(find_results(arguments.results))
    tracking.require_server("bench sync", arguments.probe_seconds)
    made, removed = mirror.mend(store, _read_section([], "track"))
    if made or removed:
        print(f"{made} made from their records, {removed} removed that a later attempt has replaced")
    uploaded, failed = tracking.sync(store.folder, probe_seconds=arguments.probe_seconds)
    print(f"{uploaded} uploaded, {failed} failed")
    return 1 if failed else 0


def _dashboard(arguments: argparse.Namespace) -> int:
    from bench.extras import dashboard
    from bench.results.store import Store

    track = _read_section(arguments.overrides, "track").track
    store = Store(find_results(arguments.results))
    if arguments.offline:
        return dashboard.browse(store.folder)
    given = {line.partition("=")[0] for line in arguments.overrides}
    line = dashboard.publish(
        store,
        mode=track.mode,
        project=track.project if "track.project" in given else None,
        entity=track.entity,
        seconds=track.probe_seconds,
    )
    print(show(line))
    return 0
