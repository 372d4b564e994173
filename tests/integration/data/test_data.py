"""Data sets of the Hugging Face hub, from a local folder in the hub's layout: no network."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from datasets import ClassLabel, Features, Value

from bench.config.overrides import load_file
from bench.config.schema import DataConfig
from bench.data.dataset import describe, load
from bench.errors import DataError, MissingError

HUB = DataConfig(**load_file("data", "hub"))
Configure = Callable[..., DataConfig]


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Configs for a folder that stands for the hub's data set."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()

    def configure(**changed: object) -> DataConfig:
        usual = {
            "text_column": "headline",
            "label_column": "topic",
            "hub_id": str(tmp_path / "hub"),
            "revision": "0" * 40,
            "validation_size": 0.2,
            "test_size": 0.2,
        }
        return dataclasses.replace(HUB, **{**usual, **changed})

    return configure


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hub").mkdir()
    return tmp_path / "hub"


def write(path: Path, labels: list[int], features: Features | None = None) -> None:
    texts = [f"{path.stem} {number}" for number in range(len(labels))]
    datasets.Dataset.from_dict({"headline": texts, "topic": labels}, features=features).to_parquet(path)


NAMED = Features({"headline": Value("string"), "topic": ClassLabel(names=["体育", "科技"])})


def test_label_numbers_become_the_names_that_the_data_set_declares(
    folder: Path, configure: Configure
) -> None:
    write(folder / "train.parquet", [1, 1, 1, 0, 0] * 10, NAMED)
    write(folder / "test.parquet", [0, 1], NAMED)
    dataset = load(configure(test="test"))
    assert dataset.labels == ("体育", "科技")
    assert describe(dataset)["label_counts"] == {
        "train": {"体育": 16, "科技": 24},
        "validation": {"体育": 4, "科技": 6},
        "test": {"体育": 1, "科技": 1},
    }
    assert dataset.splits["test"]["text"].tolist() == ["test 0", "test 1"]


def test_a_csv_data_set_with_bare_numbers_works_and_can_be_folded(folder: Path, configure: Configure) -> None:
    rows = [f'"=line {number}\nof text",{number % 3}' for number in range(60)]
    (folder / "train.csv").write_text("\n".join(["headline,topic", *rows]))
    dataset = load(configure(label_map={"0": "even", "1": "odd", "2": "even"}))
    assert dataset.labels == ("even", "odd")
    assert {split: len(frame) for split, frame in dataset.splits.items()} == {
        "train": 36,
        "validation": 12,
        "test": 12,
    }
    assert dataset.splits["train"]["text"].str.match(r"=line \d+\nof text").all()


def test_secret_labels_are_missing_labels(folder: Path, configure: Configure) -> None:
    write(folder / "train.parquet", [0, 1] * 20, NAMED)
    write(folder / "test.parquet", [0, -1, -1], NAMED)
    with pytest.raises(DataError, match=r"split test: 2 of 3 rows have no text or no label, .*row 2"):
        load(configure(test="test"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"validation": "dev"}, r"data\.validation=dev: .* has no such split; it has train"),
        ({"label_column": "label"}, r"data\.label_column=label: .* it has headline, topic"),
        ({"subset": "tiny"}, r"data\.subset=tiny: .*Available: \['default'\]"),
    ],
)
def test_what_the_data_set_has_not_is_named(
    changed: dict[str, object], message: str, folder: Path, configure: Configure
) -> None:
    write(folder / "train.parquet", [0, 1] * 20, NAMED)
    with pytest.raises(DataError, match=message):
        load(configure(**changed))


def test_without_the_hub_one_message_says_what_is_missing(configure: Configure) -> None:
    with pytest.raises(
        MissingError, match=r"data\.hub_id=owner/news, data\.revision=0{40}: .*data=files"
    ) as caught:
        load(configure(hub_id="owner/news"))
    assert "\n" not in str(caught.value)


def test_code_that_comes_with_a_data_set_is_not_run(
    folder: Path, configure: Configure, tmp_path: Path
) -> None:
    (folder / "hub.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises((DataError, MissingError)):
        load(configure())
    assert not (tmp_path / "ran").exists()
