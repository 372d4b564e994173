"""The needs of a run, checked before anything is written: configuration, texts, model, identity."""

import dataclasses
import importlib.util
import math
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

from bench.config import pins
from bench.config.batch import halve_micro_batch
from bench.config.cards import GIB
from bench.config.checks import require_valid
from bench.config.identity import Identity, draws_texts, identify
from bench.config.pack import unpack
from bench.config.schema import Config
from bench.data import dataset as datasets
from bench.data.dataset import Dataset
from bench.data.vocabulary import require_readable, tell_long
from bench.errors import MissingError
from bench.model import weights
from bench.results.store import Result
from bench.run.teacher import pin_teacher, teach

PAIR_BYTES = 32  # of setfit 1.2.0's list of pairs of texts, at its peak: numpy's triu_indices, stacked
ASIDE = "alone"  # in a run's folder: the weights of a run that is trained again


class PreparedRun(NamedTuple):
    """A run that may train with others."""

    config: Config  # with commits for what is on the hub
    identity: Identity
    dataset: Dataset
    unknown_share: float | None  # of the texts' tokens, where it could be measured


@dataclass(frozen=True)
class Prepared:
    """Runs that train together, and what all of them share; one run alone is a pack of one."""

    members: tuple[PreparedRun, ...]
    model_folder: Path | None  # None: its weights are random
    model_revision: str

    @property
    def ids(self) -> list[str]:
        """The run_id of each member."""
        return [member.identity.run_id for member in self.members]

    def leave_out(self, done: Container[str]) -> "Prepared":
        """Return the same without the runs that are done."""
        left = tuple(member for member in self.members if member.identity.run_id not in done)
        return dataclasses.replace(self, members=left)


def prepare(config: Config) -> Prepared:
    """Check the configuration, load the texts, and find the model and the identity of each run.

    Raises:
        ConfigError, DataError, MissingError: something is wrong or not there.
    """
    require_valid([config])
    configs = unpack(pins.pin(config))
    require_valid(configs)
    for one in configs:
        require_packages(one)
    folder = weights.locate(configs[0].model)
    revision = weights.revision(configs[0].model)
    loaded: dict[str, tuple[Dataset, float | None]] = {}  # runs of one draw and fold share their texts
    members = []
    for one in configs:
        if (name := repr((one.data, one.seed if draws_texts(one.data) else None))) not in loaded:
            dataset = datasets.load(one.data, seed=one.seed)
            loaded[name] = dataset, require_readable(dataset, one, folder)
            tell_long(dataset, one, folder)
        require_pairs(one, loaded[name][0])
        dataset, unknown_share = loaded[name]
        one = pin_teacher(one, dataset, revision=revision)
        if one.method.distils:
            dataset = teach(one, dataset)
        identity = identify(
            one,
            data_fingerprint=dataset.fingerprint,
            model_revision=revision,
            unlabelled=dataset.unlabelled_fingerprint,
        )
        members.append(PreparedRun(one, identity, dataset, unknown_share))
    return Prepared(tuple(members), folder, revision)


def require_packages(config: Config) -> None:
    """Require the optional package that the method needs, without importing it.

    Raises:
        MissingError: it is not installed.
    """
    if config.method.estimator == "setfit" and importlib.util.find_spec("setfit") is None:
        raise MissingError(
            "setfit: the package behind method=setfit is not installed; run pip install 'bench[setfit]', or "
            "name the methods to train without it, for example method=tfidf,head,full,lora"
        )


def require_pairs(config: Config, dataset: Dataset) -> None:
    """Require the memory in which setfit lists all pairs of the train texts, before it draws any.

    Raises:
        MissingError: this machine has less.
    """
    if config.method.estimator != "setfit":
        return
    rows, free = len(dataset.splits["train"]), psutil.virtual_memory().available
    needed = PAIR_BYTES * rows * (rows - 1) // 2
    if needed > free:
        most = math.isqrt(2 * free // PAIR_BYTES) // 100 * 100
        raise MissingError(
            f"method=setfit: the library lists every pair of the {rows:,} train texts, which takes "
            f"{needed / GIB:,.1f} GiB, and {free / GIB:,.1f} GiB are free; add data.train_size={most}, or "
            "name the methods without setfit"
        )


def adapt(config: Config) -> tuple[Config, str | None]:
    """Return the configuration as this process trains it, and why its precision is another, if it is.

    It has one kind of device, of ``devices=cpu*2`` cpu, of ``0,1`` cuda, and its micro-batch halved.

    Raises:
        ConfigError: it cannot be trained so.
    """
    config, reason = weights.settle_precision(config)
    first = config.devices.partition("*")[0]
    placed = dataclasses.replace(config, devices="cuda" if first[0].isdigit() else first)
    return halve_micro_batch(placed), reason


def is_done(record: Result | None, *, alone: bool) -> bool:
    """Return whether the record makes a training needless.

    A run alone is trained again after a success in a pack, where memory and time were not its own.
    """
    return record is not None and record.is_success and not (alone and record.packed is not None)
