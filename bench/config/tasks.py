"""Several tasks as one data set: which data sets they are, and what a run on them cannot be."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.config.fields import find_faults, write
from bench.config.overrides import load_file
from bench.config.schema import CONF_DIR, Config, DataConfig, read_data, read_field
from bench.errors import ConfigError
from bench.redaction import has_credentials
from bench.spelling import guess

SOURCE = "tasks"
_GROUP = "data"  # of conf/
_OF_FILES = ("text_column", "label_column", "encoding")  # that tasks which are files take from here
_SIZES = ("train_size", "validation_size", "test_size")
# Settings of one data set, which say nothing of several.
_OF_EACH = (
    *("multi_label", "label_columns", "text_pair_column", "text_template", "train", "validation", "test"),
    *("hub_id", "subset", "revision", "labels", "label_map", "label_words", "folds", "fold", "noise"),
    *("stream", "pieces", "date_column", "late_labels", "unlabelled", "cross_fit", "held_out"),
)
# What each must be where a run has several tasks, or this is why not and what to do.
_REQUIRED: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    (
        "task",
        ("sequence_classification",),
        "a label's words would be of all tasks at once; set sequence_classification",
    ),
    (
        "method.estimator",
        ("network",),
        "it has no head for each task; choose a method that fine-tunes, for example method=lora",
    ),
    ("method.experts", (None,), "what gates choose is counted for one task; choose a method without gates"),
    ("method.distils", (False,), "a teacher has the labels of one data set; choose another method"),
    ("sweep.curve", (None,), "it halves one train split, and each task has its own; set null"),
)


def read_tasks(data: DataConfig) -> dict[str, DataConfig]:
    """Return the settings of each task by its name, empty where there is one data set.

    Each is what its own runs have, with data=NAME or data=files, but for the sizes that are set here, the
    split's seed, and how texts that are too long are read.

    Raises:
        ConfigError: a task is there twice, or it is no preset and no file.
    """
    tasks = dict[str, DataConfig]()
    for given in data.tasks or ():
        name, layers = _list_layers(given, data)
        if name in tasks:
            raise ConfigError(
                f"data.tasks={write(data.tasks)}: {name} is there twice; leave one out, or rename the file"
            )
        one = read_data(*layers)
        sizes = {size: value for size in _SIZES if (value := getattr(data, size)) is not None}
        tasks[name] = dataclasses.replace(
            one,
            **sizes,
            resample=data.resample and data.train_size is not None,
            split_seed=data.split_seed,
            long_texts=data.long_texts,
        )
    return tasks


def _list_layers(given: str, data: DataConfig) -> tuple[str, list[Mapping[str, Any]]]:
    """Return the task's name, and the settings of it, the last ones winning."""
    files = {path.stem for path in (CONF_DIR / _GROUP).glob("*.yaml")} - {"files", "hub"}  # no texts alone
    if given in files:
        return given, [load_file(_GROUP, given)]
    if not Path(given).suffix:
        presets = sorted(files - {SOURCE})
        near = guess(given, presets)
        raise ConfigError(
            f"data.tasks: there is no data set {given} in conf/data/ and no such file{near or ';'} give one "
            f"of {', '.join(presets)}, or a file such as {given}.csv"
        )
    name = Path(given).name.partition(".")[0]
    own = {setting: getattr(data, setting) for setting in _OF_FILES}
    return name, [load_file(_GROUP, "files"), {**own, "name": name, "train": given}]


def check_tasks(config: Config) -> list[str]:
    """Ask for two tasks that are texts with one label each, and for nothing that several tasks lack."""
    data = config.data
    given = f"data.tasks={write(data.tasks)}"
    if data.source != SOURCE:
        missing = [
            f"data.{name}=null: is needed here; give a share of the rows or a number of them"
            for name in ("validation_size", "test_size")
            if getattr(data, name) is None
        ]
        apart = f"{given} with data.source={data.source}: that is one data set; use data=tasks"
        return missing if data.tasks is None else [*missing, apart]
    if data.tasks is None or len(data.tasks) < 2:
        return [f"{given}: must list two data sets or more, [bbc_headlines,bbc_news] or [a.csv,b.csv]"]
    faults = [
        f"{path}={write(value)} with data=tasks: {reason}"
        for path, allowed, reason in _REQUIRED
        if (value := read_field(config, path)) not in allowed
    ]
    faults += [
        f"data.{name}={write(value)} with data=tasks: each task has its own; say it in its file in conf/data/"
        for name in _OF_EACH
        if (value := getattr(data, name)) not in (None, False, {}, [])
    ]
    if any(map(has_credentials, data.tasks)):
        return faults  # as checks says of every text
    try:
        tasks = read_tasks(data)
    except ConfigError as error:
        return [*faults, str(error)]
    return [*faults, *(fault for name, one in tasks.items() for fault in _check_task(name, one))]


def _check_task(name: str, data: DataConfig) -> Iterator[str]:
    """Say why one of the data sets cannot be a task beside others."""
    where = f"data.tasks: {name}"
    yield from (f"{where}: {fault}" for fault in find_faults(data, "data.", hidden=lambda _: False))
    if data.source == SOURCE:
        yield f"{where} is several tasks itself; list them one by one"
    if data.multi_label:
        yield f"{where} has texts with several labels, and a head answers with one; leave it out"
    if data.text_pair_column is not None:
        yield f"{where} has pairs of texts, and one model reads all texts alike; leave it out"
    if data.source == "finance8_synthetic" and data.resample:
        yield f"{where} makes as many texts as data.train_size says, none to choose from; data.resample=false"
    if data.source == "hub" and data.revision is None:
        yield f"{where} has no data.revision; write a commit of {data.hub_id} into conf/data/{name}.yaml"
