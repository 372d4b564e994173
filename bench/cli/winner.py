"""The commands that use what a run trained. What does the work is imported only when a command is called."""

import argparse
import contextlib
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import ConfigError, MissingError, StoreError
from bench.redaction import show

if TYPE_CHECKING:
    from bench.data.sources import Text
    from bench.results.store import Result, Store
    from bench.winner.classifier import Classifier

Open = Callable[[str | None], "Store"]  # the store that --results means

_SOURCE = "a folder that export or merge has made, a run_id, or best:METHOD"
_RUN = "a run_id, or best:METHOD, which is the table's choice"


def add_commands(commands: Any, results: argparse.ArgumentParser, open_store: Open) -> None:
    """Add them to the parser of ``bench``; ``results`` is the parser of --results."""
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
    classify = commands.add_parser(
        "classify", parents=[results], help="what texts are taken for: arguments, a file, or lines on stdin"
    )
    classify.add_argument("source", metavar="RUN_ID|DIR", help=_SOURCE)
    classify.add_argument("texts", nargs="*", metavar="TEXT")
    classify.add_argument("--file", type=Path, metavar="F", help="as data.train: .csv, .jsonl, .xlsx, ...")
    classify.add_argument("--column", default="text", metavar="NAME", help="of the file; default: text")
    classify.add_argument(
        "--pair-column", metavar="NAME", help="of the second texts, for a run that reads pairs; default: pair"
    )
    classify.add_argument("--out", type=Path, metavar="F", help=".csv or .jsonl, with every probability")
    classify.add_argument("--json", action="store_true", help="JSON lines with every probability")
    classify.add_argument("--batch-size", type=int, default=64, metavar="N", help="texts at a time")
    classify.set_defaults(call=partial(_classify, open_store))
    latency = commands.add_parser(
        "latency", parents=[results], help="milliseconds per text: with adapter, merged, quantised"
    )
    latency.add_argument("source", metavar="RUN_ID|DIR", help=_SOURCE)
    latency.add_argument("--file", type=Path, metavar="F", help="texts; default: the run's test split")
    latency.add_argument("--column", default="text", metavar="NAME", help="of the file; default: text")
    latency.set_defaults(call=partial(_latency, open_store))
    _add_generate(commands, results, open_store)
    _add_serve(commands)


def _add_generate(commands: Any, results: argparse.ArgumentParser, open_store: Open) -> None:
    generate = commands.add_parser(
        "generate", parents=[results], help="what a causal model writes after its run's prompt"
    )
    generate.add_argument("source", metavar="RUN_ID|DIR", help=_SOURCE)
    generate.add_argument("texts", nargs="*", metavar="TEXT", help="default: lines on standard input")
    generate.add_argument("--max-new-tokens", type=int, default=32, metavar="N")
    generate.add_argument(
        "--temperature", type=float, default=0.0, metavar="T", help="0: the likeliest token"
    )
    generate.add_argument("--top-p", type=float, default=1.0, metavar="P", help="of the tokens to draw from")
    generate.add_argument("--seed", type=int, default=0, metavar="N", help="of the drawing")
    generate.add_argument("--batch-size", type=int, default=8, metavar="N", help="texts at a time")
    generate.set_defaults(call=partial(_generate, open_store))


def _add_serve(commands: Any) -> None:
    serve = commands.add_parser("serve", help="a small HTTP endpoint; needs the extra, bench[serve]")
    serve.add_argument("folder", metavar="DIR", type=Path, help="that export or merge has made")
    serve.add_argument("--host", default="127.0.0.1", help="default: this machine alone")
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--max-texts", type=int, default=64, metavar="N", help="in a request")
    serve.add_argument("--max-characters", type=int, default=10_000, metavar="N", help="in a text")
    serve.add_argument("--max-waiting", type=int, default=1024, metavar="N", help="texts; more: 503")
    serve.add_argument("--batch-size", type=int, default=64, metavar="N", help="texts at a time")
    serve.set_defaults(call=_serve)


def _export(open_store: Open, arguments: argparse.Namespace) -> int:
    store, result = _find(open_store, arguments)
    from bench.winner import export

    made = export.export(store, result, arguments.folder)
    print(
        show(f"{result.run_id} ({made.manifest.method}): its {made.manifest.kind} is in {arguments.folder}")
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


def _classify(open_store: Open, arguments: argparse.Namespace) -> int:
    import pandas as pd

    from bench.data.sources import list_texts
    from bench.winner.texts import (
        add_predictions,
        join_labels,
        read_file,
        read_lines,
        read_pairs,
        require_kind,
        take_texts,
        to_json,
        write_file,
    )

    if arguments.texts and arguments.file:
        raise ConfigError(f"--file {arguments.file}: give texts or a file, not both")
    require_positive("--batch-size", arguments.batch_size)
    if arguments.out:
        require_kind(arguments.out, "--out")
    if arguments.file:
        frame = read_file(arguments.file, arguments.column)
    else:
        lines = read_lines(arguments.texts or ([] if sys.stdin.isatty() else sys.stdin))
    classifier = _open_classifier(open_store, arguments)
    manifest = classifier.manifest
    if arguments.file:
        columns = {"column": arguments.column, "pair_column": arguments.pair_column}
        texts = take_texts(frame, manifest, arguments.file, **columns)
    elif manifest.pairs:
        frame = read_pairs(lines, from_lines=not arguments.texts)
        texts = list_texts(frame)
    else:
        frame, texts = pd.DataFrame({"text": lines}), [*lines]
    with _progress(len(texts)) as advance:
        predictions = classifier.predict(texts, batch_size=arguments.batch_size, advance=advance)
    rows = add_predictions(frame, predictions)
    if arguments.out:
        write_file(rows, arguments.out, separator=manifest.label_separator)
        print(show(f"{len(rows)} texts classified into {arguments.out}"))
    elif arguments.json:
        print(*to_json(rows), sep="\n")
    else:
        for text, prediction in zip(texts, predictions, strict=True):
            said = text if isinstance(text, str) else "\t".join(text)
            label = join_labels(prediction.label, manifest.label_separator)
            answered = [prediction.label] if isinstance(prediction.label, str) else prediction.label
            likely = " ".join(f"{prediction.probabilities[one]:.4f}" for one in answered)
            print(show(f"{label}\t{likely}\t{said}").replace("\n", " "))
    return 0


def _latency(open_store: Open, arguments: argparse.Namespace) -> int:
    from bench.report.numbers.evidence import LATENCY
    from bench.winner import choose, manifest
    from bench.winner.texts import read_file, take_column

    texts: list[Text] | None = None
    if arguments.file:
        frame = read_file(arguments.file, arguments.column)
        texts = [*take_column(frame, arguments.column, arguments.file)]
    is_run = choose.names_run(arguments.source)
    store, result = None, None
    if is_run or texts is None:
        name = arguments.source if is_run else manifest.read(Path(arguments.source)).run_id
        try:
            store = open_store(arguments.results)
            result = choose.find_run(store, name)
        except (ConfigError, StoreError) as error:
            hint = "" if is_run else "; its run's results hold the texts: name them, or give --file"
            raise type(error)(f"{error}{hint}") from None
    from bench.winner import agreement, export, latency

    if texts is None and result is not None:
        texts = agreement.read_test(result).texts
    with tempfile.TemporaryDirectory(prefix="bench-") as other:
        folder = Path(other) if is_run else Path(arguments.source)
        if is_run and store is not None and result is not None:
            export.write(store, result, folder)
        rows = latency.measure(folder, texts or [])
        text = json.dumps(latency.describe(rows, folder, len(texts or [])), indent=1) + "\n"
    if is_run and store is not None and result is not None:
        path = store.write_report(f"runs/{result.run_id}/{LATENCY}", text)
    else:
        path = folder / LATENCY
        path.write_text(text, encoding="utf-8")
    print(latency.tabulate(rows), end="")
    print(show(path))
    return 0


def _generate(open_store: Open, arguments: argparse.Namespace) -> int:
    from bench.data.sources import list_texts
    from bench.winner.texts import read_lines, read_pairs

    require_positive("--max-new-tokens", arguments.max_new_tokens)
    require_positive("--batch-size", arguments.batch_size)
    if not 0 <= arguments.temperature < math.inf:
        raise ConfigError(f"--temperature {arguments.temperature:g}: must be 0 or more")
    if not 0 < arguments.top_p <= 1:
        raise ConfigError(f"--top-p {arguments.top_p:g}: must lie in (0, 1]")
    lines = read_lines(arguments.texts or ([] if sys.stdin.isatty() else sys.stdin))
    classifier = _open_classifier(open_store, arguments)
    texts = (
        list_texts(read_pairs(lines, from_lines=not arguments.texts)) if classifier.manifest.pairs else lines
    )
    from bench.winner.generate import generate

    for line in generate(
        classifier,
        texts,
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
    ):
        print(show(line).replace("\n", "\\n"))
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    from bench.winner import manifest

    for name in ("max_texts", "max_characters", "max_waiting", "batch_size"):
        require_positive(f"--{name.replace('_', '-')}", getattr(arguments, name))
    if not 0 <= arguments.port < 2**16:
        raise ConfigError(f"--port {arguments.port}: must lie in [0, 65536)")
    manifest.read(arguments.folder)
    try:
        from bench.extras import serve
    except ModuleNotFoundError as error:
        raise MissingError(
            f"bench serve: the package {error.name} is not installed; "
            'install the extra, pip install -c constraints.txt -e ".[serve]"'
        ) from None
    from bench.winner import classifier

    limits = serve.RequestLimits(
        texts=arguments.max_texts,
        characters=arguments.max_characters,
        waiting=arguments.max_waiting,
        batch=arguments.batch_size,
    )
    app = serve.make_app(classifier.load(arguments.folder), limits)
    return serve.run(app, host=arguments.host, port=arguments.port)


def require_positive(option: str, value: int) -> None:
    """Raise a ConfigError unless the option's number is at least 1."""
    if value < 1:
        raise ConfigError(f"{option} {value}: must be at least 1")


@contextlib.contextmanager
def _progress(count: int) -> "Iterator[Callable[[int], object]]":
    """Show a bar on a terminal's standard error, and nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("texts", total=count)
        yield lambda texts: bar.advance(task, texts)


def _open_classifier(open_store: Open, arguments: argparse.Namespace) -> "Classifier":
    """Load the classifier of the run or the folder that is meant."""
    from bench.winner import choose, manifest

    if not choose.names_run(arguments.source):
        manifest.read(Path(arguments.source))  # before anything heavy is imported
        from bench.winner import classifier

        return classifier.load(arguments.source)
    store = open_store(arguments.results)
    result = choose.find_run(store, arguments.source)
    choose.find_weights(store, result)
    from bench.winner import classifier

    return classifier.rebuild(store, result)


def _find(open_store: Open, arguments: argparse.Namespace) -> "tuple[Store, Result]":
    """Find the run that is meant, with its weights, before anything heavy is imported."""
    from bench.winner import choose

    store = open_store(arguments.results)
    result = choose.find_run(store, arguments.run)
    choose.find_weights(store, result)
    return store, result
