"""The commands that use what a run trained. What does the work is imported only when a command is called."""

import argparse
import contextlib
import dataclasses
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import ConfigError, MissingError, StoreError
from bench.redaction import show

if TYPE_CHECKING:
    from bench.data.sources import Text
    from bench.results.store import Result, Store
    from bench.winner.classifier import Classifier, LabelPrediction

Open = Callable[[str | None], "Store"]  # the store that --results means

_SOURCE = "a folder that export or merge has made, a run_id, or best:METHOD"
_NO_LABEL = "none of these"
_RUN = "a run_id, or best:METHOD, which is the table's choice"
_AS_TRAINED = "trained"  # bench export without --format


def add_commands(commands: Any, results: argparse.ArgumentParser, open_store: Open) -> None:
    """Add them to the parser of ``bench``; ``results`` is the parser of --results."""
    _add_export(commands, results, open_store)
    classify = commands.add_parser(
        "classify", parents=[results], help="what texts are taken for: arguments, a file, or lines on stdin"
    )
    classify.add_argument("source", metavar="RUN_ID|DIR", help=_SOURCE)
    classify.add_argument("texts", nargs="*", metavar="TEXT")
    classify.add_argument("--file", type=Path, metavar="F", help="as data.train: .csv, .jsonl, .xlsx, ...")
    _add_columns(classify)
    classify.add_argument("--task", metavar="NAME", help="of all texts, for a run on several tasks")
    classify.add_argument("--out", type=Path, metavar="F", help=".csv or .jsonl, with every probability")
    classify.add_argument("--json", action="store_true", help="JSON lines with every probability")
    classify.add_argument("--batch-size", type=int, default=64, metavar="N", help="texts at a time")
    _add_limits(classify)
    classify.set_defaults(call=partial(_classify, open_store))
    latency = commands.add_parser(
        "latency", parents=[results], help="milliseconds per text: with adapter, merged, quantised"
    )
    latency.add_argument(
        "sources",
        nargs="+",
        metavar="RUN_ID|DIR",
        help=f"{_SOURCE}; several folders: adapters on one base, each a task, whose runs are in --results",
    )
    latency.add_argument("--file", type=Path, metavar="F", help="texts; default: the run's test split")
    _add_columns(latency)
    latency.add_argument(
        "--seeds", action="store_true", help="of all seeds of the run's configuration together"
    )
    latency.set_defaults(call=partial(_latency, open_store))
    _add_generate(commands, results, open_store)
    _add_serve(commands)


def _add_columns(command: argparse.ArgumentParser) -> None:
    command.add_argument("--column", default="text", metavar="NAME", help="of the file; default: text")
    command.add_argument(
        "--pair-column", metavar="NAME", help="of the second texts, for a run that reads pairs; default: pair"
    )


def _add_export(commands: Any, results: argparse.ArgumentParser, open_store: Open) -> None:
    export = commands.add_parser(
        "export", parents=[results], help="what a run trained, for PEFT, transformers, ONNX or bench"
    )
    merge = commands.add_parser(
        "merge", parents=[results], help="the same as export --format merged: the adapter in its base"
    )
    for command in (export, merge):
        command.add_argument("run", metavar="RUN_ID|best:METHOD", help=_RUN)
        command.add_argument("folder", metavar="DIR", type=Path, help="a new folder")
        command.add_argument(
            "--into",
            choices=["full", "4bit"],
            help="the base as it is, or as its 4-bit weights were; default: what the adapter was trained on",
        )
        command.add_argument(
            "--tolerance",
            type=float,
            metavar="SHARE",
            help="of test predictions that may change; default: 0.01",
        )
        command.add_argument("--force", action="store_true", help="write however many predictions change")
        command.set_defaults(call=partial(_export, open_store), format="merged", seeds=False)
    export.add_argument("--seeds", action="store_true", help="all seeds of its configuration, to be averaged")
    export.add_argument(
        "--format",
        choices=[_AS_TRAINED, "merged", "onnx", "onnx-int8"],
        default=_AS_TRAINED,
        help="PEFT's layout for an adapter, else the weights (default); an adapter in its base; for "
        "onnxruntime, in fp32 or int8, which needs the extra, bench[onnx]",
    )


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
    serve.add_argument(
        "folders",
        nargs="+",
        metavar="DIR",
        type=Path,
        help="that export or merge has made; several adapters on one base are tasks by their folders' names",
    )
    serve.add_argument("--host", default="127.0.0.1", help="default: this machine alone")
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--max-texts", type=int, default=64, metavar="N", help="in a request")
    serve.add_argument("--max-characters", type=int, default=10_000, metavar="N", help="in a text")
    serve.add_argument("--max-waiting", type=int, default=1024, metavar="N", help="texts; more: 503")
    serve.add_argument("--batch-size", type=int, default=64, metavar="N", help="texts at a time")
    _add_limits(serve)
    serve.set_defaults(call=_serve)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    """Add the options by which texts are left without a label."""
    limits = parser.add_mutually_exclusive_group()
    limits.add_argument(
        "--min-confidence", type=float, metavar="P", help="no label where the highest probability is less"
    )
    limits.add_argument(
        "--min-accuracy",
        type=float,
        metavar="A",
        help="no label where needed for answers of this accuracy, by the run's validation texts",
    )


def _export(open_store: Open, arguments: argparse.Namespace) -> int:
    if arguments.seeds:
        return _export_seeds(open_store, arguments)
    tolerance = 0.01 if arguments.tolerance is None else arguments.tolerance
    if not 0 <= tolerance <= 1:
        raise ConfigError(f"--tolerance {tolerance:g}: must be a share from 0 to 1, such as 0.01")
    if arguments.format == _AS_TRAINED and (
        arguments.into or arguments.force or arguments.tolerance is not None
    ):
        raise ConfigError(
            "--into, --tolerance and --force: are for another form than what was trained; add --format "
            "merged, onnx or onnx-int8"
        )
    store, result = _find(open_store, arguments)
    if arguments.format == _AS_TRAINED:
        from bench.winner import export

        manifest = export.export(store, result, arguments.folder).manifest
    else:
        from bench.winner import agreement, conversion

        manifest, rows = conversion.convert(
            store,
            result,
            arguments.folder,
            form=arguments.format,
            into=arguments.into,
            tolerance=tolerance,
            force=arguments.force,
        )
        print(agreement.tabulate(rows, multi_label=manifest.thresholds is not None), end="")
    kind = {"adapter": "adapter", "full": "whole model", "onnx": "ONNX model"}[manifest.kind]
    print(show(f"{result.run_id} ({manifest.method}): its {kind} is in {arguments.folder}"))
    return 0


def _export_seeds(open_store: Open, arguments: argparse.Namespace) -> int:
    if arguments.format != _AS_TRAINED:
        raise ConfigError(
            f"--seeds: keeps one base for the adapters of all seeds, and --format {arguments.format} would "
            "write a whole model for each; leave --format out"
        )
    store, results = _find_seeds(open_store, arguments.results, arguments.run)
    from bench.winner import together

    made = together.export_seeds(store, results, arguments.folder)
    print(show(f"{arguments.run} ({made.method}): its {len(results)} seeds are in {arguments.folder}"))
    return 0


def _find_seeds(open_store: Open, folder: str | None, name: str) -> "tuple[Store, list[Result]]":
    """Find all seeds of the run's configuration, with their weights, before anything heavy is imported."""
    from bench.winner import choose

    store = open_store(folder)
    results = choose.find_seeds(store, name)
    for result in results:
        choose.find_weights(store, result)
    return store, results


def _classify(open_store: Open, arguments: argparse.Namespace) -> int:
    import pandas as pd

    from bench.data.sources import list_texts
    from bench.winner.texts import (
        add_predictions,
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
    require_share("--min-confidence", arguments.min_confidence)
    require_share("--min-accuracy", arguments.min_accuracy)
    classifier = _limit_answers(_open_classifier(open_store, arguments), arguments)
    manifest = classifier.manifest
    if arguments.file:
        texts = take_texts(frame, manifest, arguments.file, **_name_columns(arguments))
    elif manifest.pairs:
        frame = read_pairs(lines, from_lines=not arguments.texts)
        texts = list_texts(frame)
    else:
        frame, texts = pd.DataFrame({"text": lines}), [*lines]
    with _progress(len(texts)) as advance:
        predictions = classifier.predict(
            texts,
            tasks=None if arguments.task is None else [arguments.task] * len(texts),
            batch_size=arguments.batch_size,
            advance=advance,
        )
    rows = add_predictions(frame, predictions, has_reasons=classifier.min_confidence > 0)
    if arguments.out:
        write_file(rows, arguments.out, separator=manifest.label_separator)
        print(show(f"{len(rows)} texts classified into {arguments.out}"))
    elif arguments.json:
        print(*to_json(rows), sep="\n")
    else:
        for text, prediction in zip(texts, predictions, strict=True):
            label, likely = _say_answer(prediction, manifest.label_separator)
            said = text if isinstance(text, str) else "\t".join(text)
            print(show(f"{label}\t{likely}\t{said}").replace("\n", " "))
    return 0


def _say_answer(prediction: "LabelPrediction", separator: str) -> tuple[str, str]:
    """Say the label and its probability; of a text that gets none the highest."""
    from bench.winner.texts import join_labels

    if prediction.label is None:
        return _NO_LABEL, f"{max(prediction.probabilities.values()):.4f}"
    answered = [prediction.label] if isinstance(prediction.label, str) else prediction.label
    likely = " ".join(f"{prediction.probabilities[one]:.4f}" for one in answered)
    return join_labels(prediction.label, separator), likely


def _latency_of_seeds(open_store: Open, arguments: argparse.Namespace) -> int:
    """Measure all seeds together, and keep the result in the folder of the first one's run."""
    from bench.report.numbers.evidence import LATENCY_OF_SEEDS
    from bench.winner import choose

    if not choose.names_run(arguments.source):
        raise ConfigError(f"--seeds: {arguments.source} is a folder; give best:METHOD or a run_id")
    store, results = _find_seeds(open_store, arguments.results, arguments.source)
    from bench.winner import agreement, latency, together

    with tempfile.TemporaryDirectory(prefix="bench-") as other:
        together.write(store, results, Path(other))
        texts = _read_given(arguments, Path(other)) or [*agreement.read_test(results[0]).texts]
        rows, memory = latency.measure_together(Path(other), texts)
        described = latency.describe(rows, Path(other), len(texts))
    described |= {"run_ids": [result.run_id for result in results], "memory": memory}
    path = store.write_report(f"runs/{results[0].run_id}/{LATENCY_OF_SEEDS}", _write_json(described))
    return _show_latency(latency.tabulate(rows), path)


def _latency_of_tasks(open_store: Open, arguments: argparse.Namespace) -> int:
    """Measure several adapters on one base, and keep the result in the folder of the first one's run."""
    from bench.report.numbers.evidence import LATENCY_OF_TASKS
    from bench.run import manifest
    from bench.winner import choose

    folders = [Path(source) for source in arguments.sources]
    if arguments.seeds or arguments.file:
        raise ConfigError("--seeds and --file: are for one run or folder; leave them out, or give one")
    run_ids = {folder.name: manifest.read(folder).run_id for folder in folders}
    store = open_store(arguments.results)
    results = {task: choose.find_run(store, run_id) for task, run_id in run_ids.items()}
    from bench.winner import adapters, agreement, latency

    held = {task: agreement.read_test(result).texts for task, result in results.items()}
    rows, memory = latency.measure_peak(
        latency.ALL_ADAPTERS,
        adapters.load(folders),
        [text for texts in held.values() for text in texts],
        [task for task, texts in held.items() for _ in texts],
    )
    described = latency.describe(rows, folders[0], sum(map(len, held.values())))
    described |= {"tasks": run_ids, "memory": memory}
    path = store.write_report(
        f"runs/{next(iter(run_ids.values()))}/{LATENCY_OF_TASKS}", _write_json(described)
    )
    return _show_latency(latency.tabulate(rows), path)


def _latency(open_store: Open, arguments: argparse.Namespace) -> int:
    if len(arguments.sources) > 1:
        return _latency_of_tasks(open_store, arguments)
    [arguments.source] = arguments.sources
    if arguments.seeds:
        return _latency_of_seeds(open_store, arguments)
    from bench.report.numbers.evidence import LATENCY
    from bench.run import manifest
    from bench.winner import choose

    is_run = choose.names_run(arguments.source)
    store, result = None, None
    if is_run or not arguments.file:
        name = arguments.source if is_run else manifest.read(Path(arguments.source)).run_id
        try:
            store = open_store(arguments.results)
            result = choose.find_run(store, name)
        except (ConfigError, StoreError) as error:
            hint = "" if is_run else "; its run's results hold the texts: name them, or give --file"
            raise type(error)(f"{error}{hint}") from None
    from bench.winner import agreement, export, latency

    with tempfile.TemporaryDirectory(prefix="bench-") as other:
        folder = Path(other) if is_run else Path(arguments.source)
        if is_run and store is not None and result is not None:
            export.write(store, result, folder)
        texts, tasks = _read_given(arguments, folder), None
        if texts is None and result is not None:
            held = agreement.read_test(result)
            texts, tasks = held.texts, held.tasks
        rows = latency.measure(folder, texts or [], tasks)
        text = _write_json(latency.describe(rows, folder, len(texts or [])))
    if is_run and store is not None and result is not None:
        path = store.write_report(f"runs/{result.run_id}/{LATENCY}", text)
    else:
        path = folder / LATENCY
        path.write_text(text, encoding="utf-8")
    return _show_latency(latency.tabulate(rows), path)


def _read_given(arguments: argparse.Namespace, folder: Path) -> "list[Text] | None":
    """Read the texts of --file as the folder's classifier reads them; None where none is given."""
    from bench.run import manifest
    from bench.winner.texts import read_file, take_texts

    if not arguments.file:
        return None
    frame = read_file(arguments.file, arguments.column)
    return take_texts(frame, manifest.read(folder), arguments.file, **_name_columns(arguments))


def _name_columns(arguments: argparse.Namespace) -> dict[str, Any]:
    return {"column": arguments.column, "pair_column": arguments.pair_column}


def _write_json(described: Mapping[str, Any]) -> str:
    return json.dumps(described, indent=1) + "\n"


def _show_latency(table: str, path: Path) -> int:
    print(table, end="")
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
    from bench.run import manifest

    for name in ("max_texts", "max_characters", "max_waiting", "batch_size"):
        require_positive(f"--{name.replace('_', '-')}", getattr(arguments, name))
    if not 0 <= arguments.port < 2**16:
        raise ConfigError(f"--port {arguments.port}: must lie in [0, 65536)")
    require_share("--min-confidence", arguments.min_confidence)
    require_share("--min-accuracy", arguments.min_accuracy)
    for folder in arguments.folders:
        manifest.read(folder)
    try:
        from bench.extras import serve
    except ModuleNotFoundError as error:
        raise MissingError(
            f"bench serve: the package {error.name} is not installed; "
            'install the extra, pip install -c constraints.txt -e ".[serve]"'
        ) from None
    from bench.winner import adapters, classifier

    limits = serve.RequestLimits(
        texts=arguments.max_texts,
        characters=arguments.max_characters,
        waiting=arguments.max_waiting,
        batch=arguments.batch_size,
    )
    folders = arguments.folders
    loaded = classifier.load(folders[0]) if len(folders) == 1 else adapters.load(folders)
    app = serve.make_app(_limit_answers(loaded, arguments), limits)
    return serve.run(app, host=arguments.host, port=arguments.port)


def require_positive(option: str, value: int) -> None:
    """Raise a ConfigError unless the option's number is at least 1."""
    if value < 1:
        raise ConfigError(f"{option} {value}: must be at least 1")


def require_share(option: str, value: float | None) -> None:
    """Raise a ConfigError unless the option's number, if it has one, is a share."""
    if value is not None and not 0 < value < 1:
        raise ConfigError(f"{option} {value:g}: must lie in (0, 1), such as 0.95")


def _limit_answers(classifier: "Classifier", arguments: argparse.Namespace) -> "Classifier":
    """Return the classifier that leaves texts without a label as the options say."""
    from bench.winner.selective import find_threshold, say_threshold

    least = arguments.min_confidence or 0.0
    if (least or arguments.min_accuracy) and classifier.manifest.thresholds is not None:
        raise ConfigError(
            "--min-confidence and --min-accuracy: its texts may have several labels, each with its own "
            "threshold, or none; leave the option out"
        )
    if arguments.min_accuracy is not None:
        threshold = find_threshold(classifier.manifest, arguments.min_accuracy)
        print(show(say_threshold(threshold, classifier.manifest)), file=sys.stderr, flush=True)
        least = threshold.probability
    return dataclasses.replace(classifier, min_confidence=least)


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
    from bench.run import manifest
    from bench.winner import choose

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
