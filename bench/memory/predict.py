"""Predictions of memory and work: from the texts' lengths, a trace of the run, and the allocator's peaks."""

import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.config.identity import draws_texts
from bench.config.schema import AS_IT_IS, Config
from bench.data import dataset, tokens
from bench.data.dataset import Dataset
from bench.errors import BenchError, first_line
from bench.memory import prediction
from bench.memory.allocator import Event, find_least, replay
from bench.memory.prediction import Prediction
from bench.memory.recording import Recording, Work
from bench.memory.trace import MICRO_BATCHES, STEPS, Shapes, trace
from bench.model import weights
from bench.train import baselines, fit
from bench.train.device import choose_precision
from bench.train.task import SequenceClassification, Texts
from bench.train.training import is_balanced

_logger = logging.getLogger(__name__)


def predict_all(configs: Sequence[Config], device_type: str) -> list[Prediction | str]:
    """Predict what each run takes on a kind of device, or say why it is unknown; texts are read once."""
    datasets: dict[str, Dataset] = {}
    texts: dict[str, Texts] = {}

    def predict_one(config: Config) -> Prediction | str:
        name = repr((config.data, config.seed if draws_texts(config.data) else None))
        if name not in datasets:
            datasets[name] = dataset.load(config.data, seed=config.seed)
        folder = weights.locate(config.model)
        examples = (config.method.shots, config.seed) if config.method.shots else None
        distils = config.method.distils
        content = repr((name, config.model, config.task, config.train.max_length, examples, distils))
        read = dataset.imagine_teacher(datasets[name]) if distils else datasets[name]
        if content not in texts:
            texts[content] = fit.tokenise(config, read, model_folder=folder)
        return predict(config, read, texts[content], folder=folder, device_type=device_type)

    answers: list[Prediction | str] = []
    for config in configs:
        try:
            answers.append(predict_one(config))
        except BenchError as error:
            answers.append(first_line(error))
    return answers


def predict(
    config: Config, dataset: Dataset, texts: Texts | None, *, folder: Path | None, device_type: str
) -> Prediction | str:
    """Predict what the run takes on a kind of device, or take it from the cache; or say why it is unknown."""
    key = prediction.make_key(
        config,
        device_type=device_type,
        fingerprint=dataset.fingerprint,
        revision=weights.revision(config.model),
        unlabelled=dataset.unlabelled_fingerprint,
    )
    predicted = prediction.read_cached(config.cache_dir, key)
    if predicted is None:
        texts = texts or fit.tokenise(config, dataset, model_folder=folder)
        try:
            with warnings.catch_warnings(action="ignore"):  # of libraries, about a network nobody will train
                predicted = _make(config, dataset, texts, folder=folder, device_type=device_type)
        except Exception as error:  # whatever a library raises where a tensor has no values
            _logger.info("no prediction", exc_info=error)
            return first_line(error)
        prediction.write_cached(config.cache_dir, key, predicted)
    return predicted


def _make(
    config: Config, dataset: Dataset, texts: Texts, *, folder: Path | None, device_type: str
) -> Prediction:
    splits, padding, task = texts
    if isinstance(task, SequenceClassification):  # a mask of other tasks' labels takes nothing to speak of
        task = replace(task, heads=None)
    train = config.train
    evaluated = [split for split in splits if split != "train"]
    longest_evaluated = max(int(splits[split].lengths.max()) for split in evaluated)
    answers = config.method.estimator in AS_IT_IS
    eval_rows = (
        baselines.count_rows(config, texts) if answers else max(1, train.eval_batch_size // task.sequences)
    )
    shapes = Shapes(
        device_type=device_type,
        precision=choose_precision(train.precision, torch.device(device_type)),
        length=int(splits["train"].lengths.max()),
        eval_length=longest_evaluated,
        eval_rows=eval_rows,
        labels=len(dataset.labels),
        pad_token_id=padding.token_id,
        types=len(splits["train"].types) > 0,
    )
    recording = trace(config, shapes, task=task, folder=folder)
    peaks = _count_peaks(recording, device_type)
    high = max(peak["peak_reserved_bytes"] or 0 for peak in peaks.values())
    low = max(peak["peak_allocated_bytes"] or 0 for peak in peaks.values())
    return Prediction(
        device_type=device_type,
        phases=peaks,
        least_bytes=find_least(recording.events, low, high) if high else low,
        parts=_split_peak(recording, "eval" if answers else "train"),
        paged_bytes=recording.paged_bytes,
        parameters=recording.parameters,
        trained_bytes=recording.trained_bytes,
        largest_bytes=recording.largest_bytes,
        optimizer_bytes=recording.optimizer_bytes,
        work=_group_work(recording, micro_batches=train.gradient_accumulation_steps),
        train_rows=len(splits["train"]),
        piece_rows=dataset.count_pieces("train"),
        batch_tokens=train.micro_batch_size * shapes.length,
        mean_batch_tokens=tokens.mean_padded_tokens(
            tokens.Stream(splits["train"], config.seed, is_balanced(config)),
            train.micro_batch_size,
            group_by_length=train.group_by_length,
        ),
        eval_batch_tokens=eval_rows * (shapes.eval_length + task.answer_tokens),
        eval_tokens={
            split: tokens.count_evaluated_tokens(splits[split], eval_rows)
            + len(splits[split]) * task.answer_tokens
            for split in evaluated
        },
    )


def _count_peaks(recording: Recording, device_type: str) -> dict[str, dict[str, int | None]]:
    """Count the peak bytes of loading, training and evaluating; only CUDA's allocator reserves any."""
    if device_type == "cpu":
        sums = _sum_peaks(recording.events)
        return {name: {"peak_allocated_bytes": sums[name], "peak_reserved_bytes": None} for name in sums}
    return {name: {**peaks} for name, peaks in replay(recording.events).items()}


def _walk(events: Iterable[Event]) -> Iterator[tuple[str, int, dict[int, int]]]:
    """Yield after each event its phase (load, train, eval), all tensors' bytes, and each one's by number."""
    live, held = 0, dict[int, int]()
    for event in events:
        if event.size is None:
            live -= held.pop(event.number)
        else:
            held[event.number] = event.size
            live += event.size
        yield event.measured_phase, live, held


def _sum_peaks(events: Iterable[Event]) -> dict[str, int]:
    """Find the most bytes of tensors at once in loading, training and evaluating."""
    peaks: dict[str, int] = {}
    for phase, live, _ in _walk(events):
        peaks[phase] = max(peaks.get(phase, 0), live)
    return peaks


def _split_peak(recording: Recording, phase: str) -> dict[str, int]:
    """Split the bytes at the phase's peak by what the tensors are for."""
    top = (phase, _sum_peaks(recording.events)[phase])
    held = next(held for phase, live, held in _walk(recording.events) if (phase, live) == top)
    parts: dict[str, int] = {}
    for number, size in held.items():
        owner = recording.owners.get(number, "activations")
        parts[owner] = parts.get(owner, 0) + size
    return parts


def _group_work(recording: Recording, *, micro_batches: int) -> dict[str, list[list[Any]]]:
    """Group the work by micro-batch, optimizer's step, and batch that is evaluated."""
    traced = STEPS * min(micro_batches, MICRO_BATCHES)
    groups = {
        "micro_batch": (("forward", "backward"), traced),
        "step": (("step",), STEPS),
        "eval": (("eval",), 1),
    }
    return {name: _average(recording.work, phases, count) for name, (phases, count) in groups.items()}


def _average(work: dict[str, Counter[Work]], phases: Sequence[str], count: int) -> list[list[Any]]:
    total = sum((work.get(phase, Counter()) for phase in phases), Counter[Work]())
    return [[key.flops, key.moved_bytes, key.dtype, times / count] for key, times in total.items()]
