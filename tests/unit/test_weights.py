"""Base models are found or asked for in one message, and a revision stands for the content."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import weights
from bench.config import Config, ModelConfig
from bench.errors import ConfigError, MissingError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PACKAGE = ModelConfig(name="minilm", source="package", path="no_such_wheel/model", hub_id=None, revision=None)
HUB = ModelConfig(name="hub", source="hub", path=None, hub_id="owner/name", revision=COMMIT)
MIB = 2**20


def local(path: Path) -> ModelConfig:
    return ModelConfig(name="local", source="local", path=str(path), hub_id=None, revision=None)


def save_model(folder: Path, *, content: bytes = b"weights", file: str = "model.safetensors") -> Path:
    """A folder as save_pretrained leaves it, with these bytes as its weights."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    (folder / "vocab.txt").write_text("a\nb\n", encoding="utf-8")
    (folder / file).write_bytes(content)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no way to the hub itself."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def snapshot(cache: Path) -> Path:
    return cache / "models--owner--name" / "snapshots" / COMMIT


def test_a_missing_package_is_named_with_the_way_to_get_it() -> None:
    with pytest.raises(MissingError, match=r"no_such_wheel is not installed; run `make setup`$") as caught:
        weights.locate(PACKAGE)
    assert str(caught.value).startswith("model.path=no_such_wheel/model: ")
    assert caught.value.exit_code == 3


def test_an_installed_package_is_found_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_model(tmp_path / "a_wheel" / "model")
    (tmp_path / "a_wheel" / "__init__.py").write_text("raise RuntimeError('imported')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert weights.locate(dataclasses.replace(PACKAGE, path="a_wheel/model")) == folder


def test_the_default_model_is_here(compose: Callable[..., Config]) -> None:
    folder = weights.locate(compose().model)
    assert weights.read_config(folder)["model_type"] == "bert"


@pytest.mark.parametrize("path", ["/data/my-model", "./my-model", "my.model/x", "my-model", "../x"])
def test_a_folder_of_ones_own_needs_model_local(path: str) -> None:
    with pytest.raises(ConfigError, match=f"^model.path={path}: .*for a folder of your own add model=local$"):
        weights.locate(dataclasses.replace(PACKAGE, path=path))


def test_a_local_folder_is_itself(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model")
    assert weights.locate(local(folder)) == folder
    assert weights.read_config(folder) == {"model_type": "bert"}


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        MissingError, match=r"model\.path=.*/model: there is no such folder; give the folder of"
    ):
        weights.locate(local(tmp_path / "model"))


def test_a_folder_without_config_is_no_model(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model")
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"holds no config\.json; save it with save_pretrained"):
        weights.locate(local(folder))


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_weights_that_could_run_code_are_refused(tmp_path: Path, file: str) -> None:
    folder = save_model(tmp_path / "model", file=file)
    with pytest.raises(
        ConfigError, match=r"holds no \.safetensors file, the only format that cannot run code"
    ):
        weights.revision(local(folder))


def test_the_same_content_is_the_same_revision_wherever_it_is(tmp_path: Path) -> None:
    first = save_model(tmp_path / "first")
    second = shutil.copytree(first, tmp_path / "elsewhere" / "second")
    (second / "README.md").write_text("no weights, no tokenizer", encoding="utf-8")
    (tmp_path / "link").symlink_to(first)
    found = {weights.revision(local(folder)) for folder in (first, second, tmp_path / "link")}
    assert len(found) == 1
    assert len(found.pop()) == 16


@pytest.mark.parametrize(
    ("size", "place"),
    [
        *[(size, place) for size in (1, 1000, 4 * MIB) for place in ("first", "middle", "last")],
        *[(5 * MIB, place) for place in ("first", "last")],  # of a big file only samples are read
    ],
)
def test_a_changed_byte_is_another_revision(tmp_path: Path, size: int, place: str) -> None:
    content = bytearray(size)
    before = weights.revision(local(save_model(tmp_path / "before", content=bytes(content))))
    content[{"first": 0, "middle": size // 2, "last": size - 1}[place]] ^= 1
    assert weights.revision(local(save_model(tmp_path / "after", content=bytes(content)))) != before


def test_another_length_tokenizer_or_name_is_another_revision(tmp_path: Path) -> None:
    longer = save_model(tmp_path / "longer", content=b"weights+")
    named = save_model(tmp_path / "named", file="model-00001-of-00001.safetensors")
    tokenizer = save_model(tmp_path / "tokenizer")
    (tokenizer / "vocab.txt").write_text("a\nc\n", encoding="utf-8")
    folders = [save_model(tmp_path / "model"), longer, named, tokenizer]
    assert len({weights.revision(local(folder)) for folder in folders}) == 4


def test_weights_changed_in_place_are_seen(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model")
    before = weights.revision(local(folder))
    (folder / "model.safetensors").write_bytes(b"WEIGHTS")
    assert weights.revision(local(folder)) != before


def test_a_model_in_the_hubs_cache_needs_no_network(cache: Path) -> None:
    folder = save_model(snapshot(cache))
    assert weights.locate(HUB) == folder


def test_a_model_on_the_hub_is_its_name_and_commit() -> None:
    assert weights.revision(HUB) == f"owner/name@{COMMIT}"


@pytest.mark.parametrize("commit", [COMMIT, COMMIT[::-1]])
def test_a_model_that_is_nowhere_is_one_message(cache: Path, commit: str) -> None:
    if commit != COMMIT:
        save_model(snapshot(cache))  # another commit of the same model is not the model
    with pytest.raises(MissingError) as caught:
        weights.locate(dataclasses.replace(HUB, revision=commit))
    message = str(caught.value)
    assert message.startswith(f"model.hub_id=owner/name model.revision={commit}: not on this machine and ")
    assert message.endswith("check the name and the network, or use model=local model.path=DIR")
    assert len(message.splitlines()) == 1


def test_a_cache_with_the_tokenizer_alone_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: object, local_files_only: bool, **__: object) -> str:
        if not local_files_only:
            (tmp_path / "cached" / "model.safetensors").write_bytes(b"weights")
        return str(tmp_path / "cached")

    (save_model(tmp_path / "cached") / "model.safetensors").unlink()
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert weights.locate(HUB) == tmp_path / "cached"
    assert (tmp_path / "cached" / "model.safetensors").is_file()


def test_a_model_of_the_hub_without_safetensors_is_refused(cache: Path) -> None:
    save_model(snapshot(cache), file="pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"^model\.hub_id=owner/name: holds no \.safetensors .* reached$"):
        weights.locate(HUB)
