"""Long texts are read as the run read them, wherever it is used."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from trainings import forget_temperature

import bench
from bench.data import dataset
from bench.errors import ConfigError
from bench.results.store import Result, Store
from bench.winner import classifier, export
from bench.winner.generate import generate

Train = Callable[..., tuple[Store, Result]]

METHODS = {
    "head": (("method=lora",), "bert"),
    "written": (("method=lora", "task=label_likelihood", "model.template='{text}?'"), "llama"),
    "frozen": (("method=head",), "bert"),
    "asked": (("method=zero_shot", "task=label_likelihood", "model.template='{text}?'"), "llama"),
}


@pytest.fixture(scope="module")
def long_texts(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny texts, of which the middle alone tells the label, and of which a third are long."""
    frame = pd.read_csv(texts)
    filler = ["期 " * (30 if number % 7 in (0, 3) else 1) for number in range(len(frame))]
    frame["text"] = [f"{one}{text}{one}" for one, text in zip(filler, frame["text"], strict=True)]
    path = tmp_path_factory.mktemp("long") / "long.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def trained(train: Train, long_texts: Path) -> Callable[[str, str], tuple[Store, Result]]:
    def find(name: str, way: str) -> tuple[Store, Result]:
        overrides, base = METHODS[name]
        lines = (
            f"data.train={long_texts}",
            "train.max_length=24",
            f"data.long_texts={way}",
            "train.max_steps=60",
        )
        return train(*lines, *overrides, base=base)

    return find


@pytest.mark.parametrize("name", ["head", "written"])
@pytest.mark.parametrize("way", ["head_tail", "windows"])
def test_an_exported_folder_reads_long_texts_as_its_run_did(
    trained: Callable[[str, str], tuple[Store, Result]], tmp_path: Path, name: str, way: str
) -> None:
    store, result = trained(name, way)
    export.export(store, result, tmp_path / "model")
    rows = store.read_predictions(result.run_id).query("split == 'test'")
    texts = dataset.load(classifier.read_config(result).data).splits["test"]["text"].tolist()
    told: list[int] = []
    found = forget_temperature(bench.load(tmp_path / "model")).predict(
        texts, batch_size=4, advance=told.append
    )
    values = np.array([[*one.probabilities.values()] for one in found])
    assert np.abs(values - rows.iloc[:, -3:].to_numpy()).max() < 1e-4
    assert sum(told) == len(texts)
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert f"data.long_texts={way}, as bench does; the code above cuts them at their end" in card


@pytest.mark.parametrize("name", ["frozen", "asked"])
def test_a_base_that_is_only_read_averages_windows_too(
    trained: Callable[[str, str], tuple[Store, Result]], name: str
) -> None:
    store, result = trained(name, "windows")
    assert (result.data["truncated_share"], round(result.data["long_share"], 1)) == (0, 0.3)
    rows = store.read_predictions(result.run_id)
    assert len(rows) == 36
    assert np.allclose(rows.iloc[:, -3:].sum(axis=1), 1)


def test_what_is_written_cannot_be_averaged(
    trained: Callable[[str, str], tuple[Store, Result]],
) -> None:
    found = classifier.rebuild(*trained("written", "windows"))
    options = {"max_new_tokens": 1, "temperature": 0.0, "top_p": 1.0, "seed": 0, "batch_size": 1}
    with pytest.raises(ConfigError, match="reads long texts in windows"):
        generate(found, ["a"], **options)  # type: ignore[arg-type]
