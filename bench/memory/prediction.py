"""A prediction of what a run takes and costs, as far as shapes say, and its cache. No torch.

It is made once for runs of the same shapes, and kept on disk under a hash of all that it depends on; a run's
rank counts, its learning rate does not.
"""

import dataclasses
import hashlib
import json
import logging
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.config import batch
from bench.config.cards import LAUNCH_SECONDS, Card
from bench.config.fields import SHAPELESS, list_marked
from bench.config.identity import reads_unlabelled, teaches, writes_labels
from bench.config.schema import AS_IT_IS, LONG_TEXTS, Config, replace_values, to_dict
from bench.data.stream import count_trained
from bench.files import replace_file
from bench.model import weights

VERSION = 6  # raise it when what is traced, or how, changes
_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate")
_PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cost:
    """The cost that a run's time is in proportion to: seconds at a card's full speed, or operations."""

    train: float
    eval: float  # of validation each time, and of test once, or after each piece of a stream


@dataclass(frozen=True)
class Prediction:
    """What runs of one shape take on a kind of device, and the work that they do on any card."""

    device_type: str  # cuda | cpu
    phases: dict[str, dict[str, int | None]]  # load, train, eval: peak_allocated_, peak_reserved_bytes
    least_bytes: int  # with so much the run gets through, as what is reserved and not used is given back
    parts: dict[str, int]  # bytes at the peak of training: weights, adapters, gradients, ...
    paged_bytes: int  # of optimizer states that are in the machine's memory
    parameters: int  # of the whole network, a 4-bit weight counted as one
    trained_bytes: int  # of what is trained, and so of the file with it
    largest_bytes: int  # of its largest tensor, which is copied to the machine's memory to be saved
    optimizer_bytes: int  # of all states, paged or not: what a checkpoint holds beside the weights
    work: dict[str, list[list[Any]]]  # micro_batch, step, eval: [flops, bytes moved, dtype, times]
    train_rows: int
    piece_rows: list[int]  # of a stream, by piece; else all
    batch_tokens: int  # of the micro-batch that was traced, padding included; the longest there is
    mean_batch_tokens: float  # of those that are trained on
    eval_batch_tokens: int  # as traced
    eval_tokens: dict[str, int]  # by split, padding included

    @property
    def peak_bytes(self) -> int:
        """What has to fit: on CUDA all that the allocator reserves, on a CPU all tensors."""
        kind = "peak_reserved_bytes" if self.device_type == "cuda" else "peak_allocated_bytes"
        return max(peaks[kind] or 0 for peaks in self.phases.values())

    @property
    def train_flops(self) -> float:
        """Floating-point operations of an average micro-batch."""
        flops: float = sum(row[0] * row[3] for row in self.work["micro_batch"])
        return flops * self._share

    @property
    def _share(self) -> float:
        return self.mean_batch_tokens / self.batch_tokens

    def train_seconds(self, card: Card, *, steps: int, accumulation: int) -> float:
        """Return how long the card at least trains: every operation at its best speed."""
        micro_batch = _count_seconds(self.work["micro_batch"], card, share=self._share)
        return steps * (accumulation * micro_batch + _count_seconds(self.work["step"], card, share=1.0))

    def eval_seconds(self, card: Card, split: str) -> float:
        """Return how long the card at least evaluates one split."""
        return _count_seconds(self.work["eval"], card, share=1.0) * self._count_batches(split)

    def eval_flops(self, split: str) -> float:
        """Count the floating-point operations of evaluating one split."""
        flops: float = sum(row[0] * row[3] for row in self.work["eval"])
        return flops * self._count_batches(split)

    def _count_batches(self, split: str) -> float:
        return self.eval_tokens[split] / self.eval_batch_tokens


def _count_seconds(work: Sequence[Sequence[Any]], card: Card, *, share: float) -> float:
    """Add up a roofline for each operation: it computes or moves at full speed, whichever takes longer.

    ``share`` is how large the operations are by those that were traced.
    """
    slowest = min(card.flops_per_second.values())
    seconds = 0.0
    for flops, moved, dtype, times in work:
        speed = card.flops_per_second.get(_PRECISIONS.get(dtype, "fp32"), slowest)
        seconds += times * max(share * flops / speed, share * moved / card.bytes_per_second, LAUNCH_SECONDS)
    return seconds


def can_predict(config: Config) -> bool:
    """Tell whether the run is of a kind that can be traced: it trains a network, or asks one as it is."""
    return config.method.estimator == "network" or writes_labels(config)


def explain_unpredicted(config: Config) -> str:
    """Say why a run that cannot be traced has no prediction."""
    if config.method.estimator == "setfit":
        return "the library setfit trains, and what it does is not traced"
    return "a baseline is fitted without training steps"


def settle(config: Config, card: Card | None) -> Config:
    """Return the configuration as it can be traced for a CUDA device, or for a CPU if no card is given.

    A model that cannot be read yet is traced from its architecture, its texts' lengths estimated.
    """
    source = config.model
    if source.weights == "saved" and source.architecture is not None and not weights.is_here(source):
        config = replace_values(config, {"model.weights": "random"})
    config, _ = weights.settle_precision(config)
    if card is not None and config.train.precision == "auto":
        precision = "bf16" if "bf16" in card.flops_per_second else "fp16"
        config = replace_values(config, {"train.precision": precision})
    return config


def count_steps(config: Config, rows: int) -> int:
    """Count the optimizer steps of the training, up to its stop; none where the base answers as it is."""
    if config.method.estimator in AS_IT_IS:
        return 0
    return config.train.stop_step or batch.count_steps(config.train, rows=rows)


def count_cost(config: Config, prediction: Prediction, card: Card | None) -> Cost:
    """Count what the run costs: seconds at the card's full speed, or operations where no card is known."""
    rows = prediction.piece_rows
    trainings = [count_steps(config, count) for count in count_trained(rows, config.method)]
    steps, shares = sum(trainings), [sum(rows[: place + 1]) / sum(rows) for place in range(len(rows))]
    passes = sum(
        max(1, -(-count // config.train.eval_steps)) * share
        for count, share in zip(trainings, shares, strict=True)
    )  # over validation, of which a stream's earlier trainings have a part
    accumulation = config.train.gradient_accumulation_steps
    if card is None:
        train = steps * accumulation * prediction.train_flops
        evaluated = {split: prediction.eval_flops(split) for split in prediction.eval_tokens}
    else:
        train = prediction.train_seconds(card, steps=steps, accumulation=accumulation)
        evaluated = {split: prediction.eval_seconds(card, split) for split in prediction.eval_tokens}
    validation = evaluated.pop("validation")
    tested = 0.0 if config.train.stop_step is not None else sum(evaluated.values())
    return Cost(train, passes * validation + len(rows) * tested)


def make_key(
    config: Config, *, device_type: str, fingerprint: str, revision: str, unlabelled: str | None = None
) -> str:
    """Hash all that a prediction depends on."""
    shape = to_dict(config, without=list_marked(Config, SHAPELESS))
    adapter = {name: value for name, value in config.method.adapter.items() if name != "init_lora_weights"}
    shape["method"]["adapter"] = adapter
    if config.method.trainable != "adapter":
        del shape["lora"]
    shape |= {
        "words": config.data.label_words,
        **({"pairs": True} if config.data.text_pair_column else {}),
        **({} if config.data.long_texts == LONG_TEXTS[0] else {"long_texts": config.data.long_texts}),
        "drops": config.lora.dropout > 0,
        "clips": config.train.max_grad_norm is not None,
    }
    if config.method.shots is not None:
        shape |= {"shots": config.method.shots, "seed": config.seed}
    if config.data.fold is not None:  # whose texts have other lengths than another's
        shape |= {"fold": config.data.fold}
    if teaches(config):
        shape |= {"part": [config.data.held_out, config.data.cross_fit]}
    if reads_unlabelled(config):
        shape |= {"unlabelled": unlabelled}
    # auto may mean another precision on another machine.
    machine = platform.node() if device_type == "cpu" else None
    facts = [VERSION, device_type, machine, _read_versions(), fingerprint, revision, shape]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@cache
def _read_versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in _PACKAGES}


def read_cached(cache_dir: str, key: str) -> Prediction | None:
    """Read the prediction that was kept; None if there is none, or it is damaged and has to be made again."""
    path = _cache_path(cache_dir, key)
    try:
        return Prediction(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        _logger.warning("%s: cannot be read (%s); the memory is predicted again", path, error)
        return None


def write_cached(cache_dir: str, key: str, prediction: Prediction) -> None:
    """Keep the prediction; warn where the folder cannot be written."""
    path = _cache_path(cache_dir, key)
    text = json.dumps(dataclasses.asdict(prediction))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text, durable=False)
    except OSError as error:
        _logger.warning("cache_dir %s: cannot be written (%s); memory is predicted anew", cache_dir, error)


def _cache_path(cache_dir: str, key: str) -> Path:
    return Path(cache_dir) / "predictions" / f"{key}.json"
