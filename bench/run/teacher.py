"""The teacher of a distilled run: which run it is, the trainings that predict for it, and what they said.

A network is too sure of texts that it was trained on. So a student learns from trainings of the teacher's
configuration that each lacked a part of the student's train texts: of each train text from the one that had
not seen it, of an unlabelled text from the mean of all. Validation and test texts teach nobody. These
trainings are ordinary runs of the results folder, which `bench sweep` trains before the students.
"""

import dataclasses
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bench.config.fields import Off, read_marks
from bench.config.identity import draws_texts, identify, split_content
from bench.config.overrides import list_overrides, override_line
from bench.config.schema import Config, from_record, to_dict
from bench.data.dataset import Dataset
from bench.data.sources import list_texts
from bench.data.teaching import HELD_OUT, UNLABELLED, Teaching, require_parts
from bench.errors import ConfigError, MissingError, StoreError
from bench.results.selection import (
    fill_scores,
    group_by_method,
    is_stopped,
    is_teaching,
    read_criterion,
    read_value,
    select_best,
)
from bench.results.store import Result, Store
from bench.run import exported

_SHARED = (  # settings of the place where a run trains, which its teachers share
    *("devices", "device_memory_gib", "results_dir", "cache_dir", "track", "sweep", "plan", "report"),
    "distillation",
)


def pin_teacher(config: Config, dataset: Dataset, *, revision: str) -> Config:
    """Set what a distilled run's teacher means now: of best:METHOD a run_id, of a folder what it holds.

    The best is the run that the method's row of the table is about, on these texts; of several base models
    the one that is the best on validation, the student's own left out. Other runs stay as they are.

    Args:
        revision: of the student's base model.

    Raises:
        ConfigError: no such run, or one that cannot teach this student.
    """
    if not config.method.distils:
        return config
    store, name = Store(Path(config.results_dir)), str(config.teacher)
    if exported.is_folder(name):
        return dataclasses.replace(config, teacher=exported.pin_folder(name, dataset))
    if not name.startswith(exported.BEST):
        find_teacher(config, dataset)
        return config
    method = name.removeprefix(exported.BEST)
    results, _ = store.read_all()
    select_by = read_criterion(results)
    groups = [
        fill_scores(runs, store, select_by)
        for key, runs in group_by_method(results).items()
        if (key.method, key.data_fingerprint) == (method, dataset.fingerprint)
        and key.model_revision != revision
    ]
    chosen = [best for runs in groups if (best := select_best(runs, select_by=select_by)) is not None]
    if not chosen:
        raise ConfigError(
            f"teacher={name}: {store.folder} has no success of method={method} with another base model on "
            "these texts; train it first with the same data settings and results_dir, for example "
            f"bench sweep method={method} model=smollm2"
        )
    best = max(chosen, key=lambda one: one.scores[0])  # max keeps the first of equals
    pinned = dataclasses.replace(config, teacher=best.candidates[0].run_id)
    find_teacher(pinned, dataset)
    return pinned


def find_teacher(config: Config, dataset: Dataset) -> Result:
    """Return the record of the run that ``teacher`` names.

    Raises:
        ConfigError: there is no such run, or it cannot teach this student.
    """
    store, name = Store(Path(config.results_dir)), str(config.teacher)
    given = f"teacher={name}"
    if not re.fullmatch(r"[0-9a-f]{12}", name):
        raise ConfigError(
            f"{given}: must be a run_id of 12 hexadecimal digits, best:METHOD, or a folder that "
            "`bench export` has made"
        )
    record = store.read(name)
    if record is None or not record.is_success:
        status = "no such run" if record is None else f"it as {record.status}, and only a success can teach"
        folder = f"; the folder of this name is teacher=./{name}" if Path(name).is_dir() else ""
        raise ConfigError(f"{given}: {store.folder} has {status}; `bench status` lists its runs{folder}")
    if fault := _find_fault(record, dataset):
        raise ConfigError(f"{given}: {fault}")
    return record


def _find_fault(record: Result, dataset: Dataset) -> str | None:
    """Say why the run cannot teach this student, or return None."""
    method = record.config["method"]
    if method["estimator"] != "network" or method.get("distils"):
        kind = "was taught itself" if method.get("distils") else "trains no network"
        return f"its method {method['name']} {kind}; choose one that is fine-tuned, such as best:lora"
    if is_stopped(record) or is_teaching(record):
        return "it is a part of a training alone; choose a whole one, such as best:lora"
    if read_value(record, "config.model.weights") == "random":
        return "its base weights are random, so its probabilities mean nothing; choose saved weights"
    if record.labels != list(dataset.labels):
        theirs, own = ", ".join(record.labels), ", ".join(dataset.labels)
        return f"its labels are {theirs}, the student's are {own}; both must have the same, in one order"
    if read_value(record, "canonical_config.data.fingerprint") != dataset.fingerprint:
        return (
            "it was trained on other texts or splits, so its settings may be chosen by what tests the "
            "student; train it on the student's, with the same data settings"
        )
    return None


def list_folds(config: Config, dataset: Dataset) -> list[Config]:
    """List the trainings of the teacher's configuration that predict for a distilled run, a part each.

    They have the teacher's settings and the student's texts and machine. All seeds of a student have the
    same, with the teacher's seed, unless each seed draws its own train texts. There are none of a folder.

    Raises:
        ConfigError: as find_teacher.
        DataError: as require_parts.
    """
    if exported.is_folder(str(config.teacher)):
        return []
    record, count = find_teacher(config, dataset), config.distillation.folds
    require_parts(dataset.splits["train"], count)
    teacher = from_record(config, _fill_off(record.config))
    data = dataclasses.replace(
        config.data, label_words=teacher.data.label_words, long_texts=teacher.data.long_texts, cross_fit=count
    )
    whole = dataclasses.replace(
        teacher,
        train=dataclasses.replace(teacher.train, stop_step=None, keep="none"),
        seed=config.seed if draws_texts(config.data) else teacher.seed,
        teacher=None,
        oom_halvings=0,
        merged_micro_batches=1,
        resume_from=None,
        pack=[],
        **{name: getattr(config, name) for name in _SHARED},
    )
    return [
        dataclasses.replace(whole, data=dataclasses.replace(data, held_out=part)) for part in range(count)
    ]


def _fill_off(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record's configuration with the settings that are newer than it, each at its Off."""
    filled = {name: dict(value) if isinstance(value, dict) else value for name, value in values.items()}
    for path, marks in read_marks(Config).items():
        section, _, name = path.rpartition(".")
        place = filled.get(section, {}) if section else filled
        for mark in marks:
            if isinstance(mark, Off):
                place.setdefault(name, mark.value)
    return filled


def teach(config: Config, dataset: Dataset) -> Dataset:
    """Return the student's data set with what its teacher says of train and of the unlabelled texts.

    Raises:
        ConfigError: as find_teacher.
        MissingError: a training of the teacher's has no success yet; the message says what makes it.
        StoreError: its predictions cannot be read, or lack a text.
    """
    if exported.is_folder(str(config.teacher)):
        return _ask_folder(config, dataset)
    store, teacher = Store(Path(config.results_dir)), find_teacher(config, dataset)
    ids = [
        identify(
            fold,
            data_fingerprint=dataset.fingerprint,
            model_revision=str(read_value(teacher, "canonical_config.model.revision")),
            unlabelled=dataset.unlabelled_fingerprint,
        ).run_id
        for fold in list_folds(config, dataset)
    ]
    records = [record for one in ids if (record := store.read(one)) is not None and record.is_success]
    if len(records) < len(ids):
        raise MissingError(
            f"teacher={config.teacher}: {len(ids) - len(records)} of the {len(ids)} trainings that predict "
            f"for its students have no success in {store.folder}; a sweep trains them first: "
            f"{_tell_sweep(config)}"
        )
    probabilities = _gather([store.read_predictions(one) for one in ids], dataset)
    train = dataset.splits["train"]
    right = probabilities[: len(train)].argmax(axis=1) == train["label"].to_numpy()
    return dataclasses.replace(
        dataset,
        teaching=Teaching(
            probabilities,
            {
                "run_id": teacher.run_id,
                "method": teacher.config["method"]["title"],
                "model": read_value(teacher, "config.model.name"),
                "run_ids": ids,
                "seconds": count_seconds(teacher),
                "fold_seconds": add_seconds([count_seconds(record) for record in records]),
                "accuracy": float(right.mean()),
            },
        ),
    )


def _ask_folder(config: Config, dataset: Dataset) -> Dataset:
    """Return the data set with what an exported folder says of the unlabelled texts, of train nothing.

    Raises:
        ConfigError, MissingError: it cannot be read, or cannot answer here.
    """
    teacher, train, asked = str(config.teacher), dataset.splits["train"], dataset.asked[UNLABELLED]
    said, content = exported.read_folder(teacher), split_content(teacher)[1]
    where = {"devices": config.devices, "cache_dir": config.cache_dir}
    answers = exported.ask(teacher, list_texts(asked), labels=len(dataset.labels), **where)
    unknown = np.full((len(train), len(dataset.labels)), np.nan)
    described: dict[str, Any] = {
        "run_id": said.run_id,
        "method": said.method,
        "model": said.base.name,
        "content": content,
        "fingerprint": said.fingerprint,
        "run_ids": [],
        "seconds": said.seconds,
        "answer_seconds": answers.seconds,
    }
    return dataclasses.replace(
        dataset, teaching=Teaching(np.concatenate([unknown, answers.probabilities]), described)
    )


def _gather(predictions: Sequence[pd.DataFrame], dataset: Dataset) -> npt.NDArray[np.float64]:
    """Put together what each training said of its part, and of unlabelled texts the mean of all.

    Returns:
        (texts, labels)

    Raises:
        StoreError: a text's probabilities are not there, or are none.
    """
    columns = [f"probability_{label}" for label in dataset.labels]
    train, asked = dataset.splits["train"], dataset.asked.get(UNLABELLED)
    try:
        held = pd.concat([one[one["split"] == HELD_OUT] for one in predictions])
        own = held.set_index("id")[columns].loc[train["id"]].to_numpy(np.float64)
        said = [one[one["split"] == UNLABELLED].set_index("id")[columns] for one in predictions]
        others = [one.loc[asked["id"]].to_numpy(np.float64) for one in said if asked is not None] or [
            np.zeros((0, len(columns)))
        ]
    except (KeyError, ValueError) as error:
        raise StoreError(
            f"predictions.csv of a teacher lacks a text or a label ({error}); it was changed"
        ) from None
    probabilities = np.concatenate([own, np.mean(others, axis=0)])
    if len(own) != len(train) or not exported.are_probabilities(probabilities):
        raise StoreError(
            "predictions.csv of a teacher holds other than a probability for each text; it was changed"
        )
    return probabilities


def count_seconds(record: Result) -> float | None:
    """Return what the run took in all, or its share of a pack."""
    if record.packed is not None:
        seconds = record.packed.get("pack_seconds")
        return None if seconds is None else seconds / record.packed["size"]
    seconds = record.time.get("total_seconds")
    return None if seconds is None else float(seconds)


def add_seconds(values: Sequence[float | None]) -> float | None:
    """Add up what several runs took; None where it is unknown of one."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _tell_sweep(config: Config) -> str:
    """Return the command whose sweep trains the student's teachers, and then the student."""
    lines = list_overrides(to_dict(config, without=["report"]))
    if lines is None:
        return "the same command with `bench sweep` in place of `bench run`"
    usual = f"results/{config.data.name}"
    where = [override_line("results_dir", config.results_dir)] if config.results_dir != usual else []
    return shlex.join(["bench", "sweep", *lines, *where])
