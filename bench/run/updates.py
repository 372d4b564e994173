"""A run on a stream: a training after each piece, and what the run then knows of every piece's test texts.

Each training is one as any run's, on what ``take_piece`` gives it. What updates begins with the weights of
the training before, its head grown by the labels that are new; what does not begins with the base. A training
that has ended is a checkpoint of the run, numbered by its piece; the one under way has a folder of its own.
"""

import dataclasses
import gc
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from bench.config.schema import Config
from bench.data.dataset import Dataset, take_piece
from bench.model import trained
from bench.model.adapters import adapter
from bench.results.store import finite
from bench.train import checkpoint, resumption
from bench.train.checkpoint import BEST
from bench.train.device import choose_precision
from bench.train.fit import Fitted, fit
from bench.train.meter import Meter
from bench.train.training import Log, Networks, Row, build_alone

_WORK = "piece-"  # begins the name of a folder in the run's: the training under way
_ENDED = "ended.json"  # in a checkpoint of the run: its trainings, and what they cost
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EndedTraining:
    """A training after a piece, as the next one and the record need it."""

    accuracy: list[float]  # on the test texts of each piece
    labels: list[str]  # that had come by then
    texts: int  # trained on, with those that were shown again
    seconds: float  # of training
    steps: int
    processed: dict[str, float]  # tokens, samples; empty: not counted
    truncated_share: float | None  # of these texts
    long_share: float | None
    history: list[dict[str, Any]]


def fit_stream(
    config: Config,
    dataset: Dataset,
    *,
    model_folder: Path | None,
    run_folder: Path,
    meter: Meter,
    log: Log,
) -> Fitted:
    """Train after each piece and return the last classifier, with the block ``updates`` of the record.

    Raises:
        As fit.
    """
    precision = choose_precision(config.train.precision, meter.device)
    lineage = resumption.describe_lineage(config, dataset, device=meter.device, precision=precision)
    last = dataset.pieces - 1
    kept = next(checkpoint.find(run_folder, lineage=lineage, last_step=last), None)
    ended = [] if kept is None else _go_on(kept, meter, log)
    resumed = sum(one.steps for one in ended) or None
    for piece in range(len(ended), dataset.pieces):
        begun, history = sum(one.steps for one in ended), list[dict[str, Any]]()
        work = run_folder / f"{_WORK}{piece + 1}"
        work.mkdir(exist_ok=True)
        build = partial(_build_after, config.method.update, kept, ended[-1].labels if ended else [])
        part = take_piece(dataset, piece, config.method, seed=config.seed)
        fitted = fit(
            _narrow(config, part.labels),
            part,
            model_folder=model_folder,
            run_folder=work,
            meter=meter,
            log=partial(_log_later, log, history, begun),
            build_networks=build,
        )
        if (step := fitted.model.get("resumed_from_step")) is not None:
            resumed = begun + step
        ended = [*ended, _describe(fitted, part, ended, history, meter)]
        with meter.phase("save"):
            if config.method.update == "merge":
                _add_merged(work / BEST, kept, is_last=piece == last)
            if piece < last:
                kept = _keep(work, ended, run_folder, lineage, meter)
        meter.count_paged = lambda: 0  # lets go of the optimizer, and so of the network
        gc.collect()
    if (work / BEST).exists():
        (work / BEST).replace(run_folder / BEST)
    for folder in run_folder.glob(f"{_WORK}*"):
        shutil.rmtree(folder)
    return _finish(fitted, ended, dataset, meter, resumed=resumed)


def _narrow(config: Config, labels: Sequence[str]) -> Config:
    """Return the configuration for texts of these labels alone."""
    words = {label: word for label, word in (config.data.label_words or {}).items() if label in labels}
    return dataclasses.replace(config, data=dataclasses.replace(config.data, label_words=words))


def _log_later(log: Log, history: list[dict[str, Any]], begun: int, row: Row, step: int) -> None:
    """Log a row of a training that begins after so many steps, and remember it."""
    history.append({"step": begun + step, **row})
    log(row, begun + step)


def _build_after(
    update: str | None,
    kept: Path | None,
    before: Sequence[str],
    configs: Sequence[Config],
    *,
    labels: Sequence[str],
    **options: Any,
) -> Networks:
    """Build the network of the one run as build_alone, with what the training before left, if it updates.

    Args:
        kept: the checkpoint of that training, None before the first.
        before: the labels that it knew.
    """
    networks = build_alone(configs, labels=labels, **options)
    if update is None or kept is None:
        return networks
    own = trained.find(networks.model)
    if update == "merge":
        adapter.merge(networks.model, kept / BEST)
        own = {name: value for name, value in own.items() if not adapter.is_low_rank(name)}
    trained.read_grown(own, kept / BEST, [[*labels].index(label) for label in before])
    return networks


def _add_merged(path: Path, kept: Path | None, *, is_last: bool) -> None:
    """Add to a training's weights the adapters that the next base has: those before, its own unless last."""
    held = load_file(path)
    merged = {} if kept is None else load_file(kept / BEST)
    merged = {name: value for name, value in merged.items() if name.startswith(adapter.MERGED)}
    own = {name: value for name, value in held.items() if adapter.is_low_rank(name) and not is_last}
    number = len(adapter.count_merged(merged))
    merged |= {f"{adapter.MERGED}{number}.{name}": value for name, value in own.items()}
    trained.write({**held, **merged}, path)  # in place of the file, which is mapped


def _describe(
    fitted: Fitted,
    part: Dataset,
    before: Sequence[EndedTraining],
    history: list[dict[str, Any]],
    meter: Meter,
) -> EndedTraining:
    """Describe a training that has ended, after those before."""
    test = part.splits["test"]
    right = fitted.probabilities["test"].argmax(axis=1) == test["label"].to_numpy()  # (texts,)
    seconds = meter.seconds["train"]
    return EndedTraining(
        accuracy=[float(right[test["piece"] == piece].mean()) for piece in range(test["piece"].max() + 1)],
        labels=[*part.labels],
        texts=len(part.splits["train"]),
        seconds=seconds - sum(one.seconds for one in before),
        steps=fitted.model.get("steps") or 0,
        processed={name: rate * seconds for name, rate in fitted.throughput.items() if rate is not None},
        truncated_share=fitted.truncated_share,
        long_share=fitted.long_share,
        history=history,
    )


def _keep(
    work: Path,
    ended: Sequence[EndedTraining],
    run_folder: Path,
    lineage: Mapping[str, Any],
    meter: Meter,
) -> Path:
    """Put a checkpoint of the trainings that have ended on disk, in place of what they needed; return it."""

    def save(folder: Path) -> None:
        spent = {"trainings": [*map(dataclasses.asdict, ended)], "spent": resumption.read_spent(meter)}
        (folder / _ENDED).write_text(json.dumps(finite(spent)), encoding="utf-8")
        if (work / BEST).exists():  # baselines leave none
            shutil.copyfile(work / BEST, folder / BEST)

    checkpoint.write(run_folder, step=len(ended), lineage=lineage, save=save)
    shutil.rmtree(work)
    return run_folder / checkpoint.FOLDER / f"step-{len(ended):06d}"


def _go_on(kept: Path, meter: Meter, log: Log) -> list[EndedTraining]:
    """Return the trainings that had ended by the checkpoint; history and cost count as this attempt's."""
    values = json.loads((kept / _ENDED).read_text(encoding="utf-8"))
    resumption.add_spent(meter, [values["spent"]])
    ended = [EndedTraining(**one) for one in values["trainings"]]
    for row in (row for one in ended for row in one.history):
        log({name: value for name, value in row.items() if name != "step"}, row["step"])
    _logger.info("goes on after piece %d of the stream, %s", len(ended), kept)
    return ended


def _finish(
    fitted: Fitted, ended: Sequence[EndedTraining], dataset: Dataset, meter: Meter, *, resumed: int | None
) -> Fitted:
    """Return the last classifier as what all trainings led to; shares are of all texts, each time shown."""
    model, steps = fitted.model, sum(one.steps for one in ended)
    if "best_step" in model:
        best = steps - ended[-1].steps + model["best_step"]
        model = {**model, "steps": steps, "best_step": best, "resumed_from_step": resumed}
    texts = [one.texts for one in ended]
    known = [set[str](), *(set(one.labels) for one in ended)]
    return dataclasses.replace(
        fitted,
        model=model,
        throughput={
            name: sum(one.processed[name] for one in ended) / meter.seconds["train"]
            if rate is not None
            else None
            for name, rate in fitted.throughput.items()
        },
        truncated_share=_average([one.truncated_share for one in ended], texts),
        long_share=_average([one.long_share for one in ended], texts),
        updates={
            "tests": dataset.count_pieces("test"),
            "new_labels": [sorted(now - then) for then, now in pairwise(known)],
            "accuracy": [one.accuracy for one in ended],
            "train_texts": texts,
            "train_seconds": [one.seconds for one in ended],
        },
    )


def _average(shares: Sequence[float | None], weights: Sequence[int]) -> float | None:
    known = [share for share in shares if share is not None]
    return float(np.average(known, weights=weights)) if len(known) == len(shares) else None
