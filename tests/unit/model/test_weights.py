"""Base models are found or asked for in one message, and a revision stands for the content."""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.config.schema import Config, ModelConfig
from bench.errors import ConfigError, MissingError
from bench.model import weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PACKAGE = ModelConfig(
    name="minilm",
    source="package",
    path="no_such_wheel/model",
    hub_id=None,
    revision=None,
    template="{text}",
    weights="saved",
    target_modules="auto",
    precision="auto",
    architecture=None,
)
HUB = dataclasses.replace(PACKAGE, name="hub", source="hub", path=None, hub_id="owner/name", revision=COMMIT)
MIB = 2**20
INDEX = "pytorch_model.bin.index.json"


def local(path: Path) -> ModelConfig:
    return dataclasses.replace(PACKAGE, name="local", source="local", path=str(path))


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


@pytest.fixture(autouse=True)
def hash_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where hashes of big files are remembered: nowhere yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bench" / "hashes"


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


def save_shards(folder: Path, *names: str, type: str = "chatglm") -> Path:
    """A folder as ChatGLM-6B was released, with these of its two shards."""
    folder.mkdir()
    shards = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    (folder / "config.json").write_text(json.dumps({"model_type": type}), encoding="utf-8")
    index = {"metadata": {}, "weight_map": {"a": shards[0], "b": shards[1], "c": shards[0]}}
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
    for name in names or shards:
        (folder / name).write_bytes(name.encode())
    return folder


def test_a_model_released_as_pickled_shards_is_found_by_their_content(tmp_path: Path) -> None:
    folder = save_shards(tmp_path / "model")
    assert weights.locate(local(folder)) == folder
    assert weights.is_pickled(folder)
    before = weights.revision(local(folder))
    (folder / "pytorch_model-00002-of-00002.bin").write_bytes(b"other weights")
    assert weights.revision(local(folder)) != before


def test_safetensors_come_before_pickled_shards(tmp_path: Path) -> None:
    folder = save_shards(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"weights")
    assert not weights.is_pickled(folder)
    before = weights.revision(local(folder))
    (folder / "pytorch_model-00002-of-00002.bin").write_bytes(b"not read, so it does not count")
    assert weights.revision(local(folder)) == before


def test_pickled_shards_of_other_types_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the only format that cannot run code; convert it"):
        weights.locate(local(save_shards(tmp_path / "model", type="bert")))


def test_no_weights_of_a_type_that_may_be_pickled_says_so(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", file="model.pt")
    (folder / "config.json").write_text('{"model_type": "chatglm"}', encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"cannot run code \(this type of model may have pytorch_model\*\.bin"
    ):
        weights.locate(local(folder))


def test_a_shard_that_is_not_there_is_named(tmp_path: Path) -> None:
    folder = save_shards(tmp_path / "model", "pytorch_model-00001-of-00002.bin")
    with pytest.raises(
        ConfigError, match=r"lacks pytorch_model-00002-of-00002\.bin, which .* names; copy it"
    ):
        weights.locate(local(folder))


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"weight_map": 1}'])
def test_an_index_of_shards_that_is_not_whole_is_named(tmp_path: Path, content: str | None) -> None:
    folder = save_shards(tmp_path / "model")
    (folder / INDEX).unlink()
    if content is not None:
        (folder / INDEX).write_text(content, encoding="utf-8")
    with pytest.raises(
        ConfigError, match=rf"but no whole {INDEX}, which says what is in them; copy it again"
    ):
        weights.locate(local(folder))
    (folder / "pytorch_model.bin").write_bytes(b"all in one file")
    assert weights.locate(local(folder)) == folder


def test_the_same_content_is_the_same_revision_wherever_it_is(tmp_path: Path) -> None:
    first = save_model(tmp_path / "first")
    second = shutil.copytree(first, tmp_path / "elsewhere" / "second")
    (second / "README.md").write_text("no weights, no tokenizer", encoding="utf-8")
    (tmp_path / "link").symlink_to(first)
    found = {weights.revision(local(folder)) for folder in (first, second, tmp_path / "link")}
    assert len(found) == 1
    assert len(found.pop()) == 16


@pytest.mark.parametrize("size", [1, 1000, 5 * MIB])
@pytest.mark.parametrize("place", [0.0, 0.3, 0.7, 1.0])
def test_a_changed_byte_anywhere_is_another_revision(tmp_path: Path, size: int, place: float) -> None:
    content = bytearray(size)
    before = weights.revision(local(save_model(tmp_path / "before", content=bytes(content))))
    content[round(place * (size - 1))] ^= 1
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


def test_files_that_swap_their_contents_are_another_revision(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", content=b"one")
    (folder / "other.safetensors").write_bytes(b"two")
    before = weights.revision(local(folder))
    (folder / "model.safetensors").write_bytes(b"two")
    (folder / "other.safetensors").write_bytes(b"one")
    assert weights.revision(local(folder)) != before


def test_a_name_that_is_not_utf_8_is_a_name(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model")
    before = weights.revision(local(folder))
    (folder / os.fsdecode(b"\xff.txt")).write_text("a", encoding="utf-8")
    assert weights.revision(local(folder)) != before


def ask_again(folder: Path) -> tuple[str, list[str]]:
    """The revision as another process finds it, and which files it read for that."""
    opened: list[str] = []

    def note(path: Path, *arguments: object, **named: object) -> object:
        opened.append(path.name)
        return real_open(path, *arguments, **named)  # type: ignore[call-overload]

    real_open = Path.open
    weights._hash_files.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", note)
        return weights.revision(local(folder)), [name for name in opened if name.endswith(".safetensors")]


def save_big_model(folder: Path) -> Path:
    """A model whose weights are big enough to be remembered, and were written a while ago."""
    save_model(folder, content=bytes(2 * MIB))
    os.utime(folder / "model.safetensors", (1e9, 1e9))
    return folder


def test_big_weights_are_read_once_and_by_content(tmp_path: Path, hash_cache: Path) -> None:
    folder = save_big_model(tmp_path / "model")
    first, read = ask_again(folder)
    assert read == ["model.safetensors"]
    assert ask_again(folder) == (first, [])
    assert ask_again(save_big_model(tmp_path / "copy")) == (first, ["model.safetensors"])
    assert len(list(hash_cache.iterdir())) == 2


@pytest.mark.parametrize("seconds", [1, 1e9 + 1e-3])
def test_remembered_weights_that_changed_are_read_again(
    tmp_path: Path, hash_cache: Path, seconds: float
) -> None:
    folder = save_big_model(tmp_path / "model")
    before, _ = ask_again(folder)
    (folder / "model.safetensors").write_bytes(b"\1" * 2 * MIB)
    os.utime(folder / "model.safetensors", (seconds, seconds))
    after, read = ask_again(folder)
    assert after != before
    assert read == ["model.safetensors"]
    assert ask_again(folder) == (after, [])
    assert len(list(hash_cache.iterdir())) == 1


def test_weights_written_a_moment_ago_are_not_remembered(tmp_path: Path, hash_cache: Path) -> None:
    folder = save_model(tmp_path / "model", content=bytes(2 * MIB))
    assert ask_again(folder) == ask_again(folder)
    assert not hash_cache.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"x"', "{}", "\x00"])
def test_a_damaged_cache_is_read_over(tmp_path: Path, hash_cache: Path, content: str) -> None:
    folder = save_big_model(tmp_path / "model")
    before, _ = ask_again(folder)
    (note,) = hash_cache.iterdir()
    whole = note.read_bytes()
    path, size, changed, _ = json.loads(whole)
    for damage in (content, json.dumps([path, size, changed, 7]), json.dumps([path, size, changed])):
        note.write_text(damage, encoding="utf-8")
        assert ask_again(folder) == (before, ["model.safetensors"])
        assert note.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_big_model(tmp_path / "model")
    before, _ = ask_again(folder)
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert ask_again(folder) == (before, ["model.safetensors"])
    assert ask_again(folder) == (before, ["model.safetensors"])


def test_many_at_once_find_the_same(tmp_path: Path, hash_cache: Path) -> None:
    folder = save_big_model(tmp_path / "model")
    path = folder / "model.safetensors"
    stat = path.stat()
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: weights._hash_file(path, stat.st_size, stat.st_mtime_ns), range(32)))
    assert found == {hashlib.sha256(bytes(2 * MIB)).hexdigest()}
    assert [note.suffix for note in hash_cache.iterdir()] == [".json"]


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
    assert (
        "check the name and the network, or use model=local model.path=DIR; experiment=quickstart" in message
    )
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


@pytest.mark.parametrize(("type", "fetched"), [("chatglm", True), ("bert", False)])
def test_pickled_shards_are_downloaded_only_where_nothing_else_was_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, type: str, fetched: bool
) -> None:
    """The hub's folder has shards, of which the first download brings none."""
    folder = tmp_path / "cached"
    asked: list[list[str]] = []

    def download(*_: object, allow_patterns: list[str], local_files_only: bool, **__: object) -> str:
        if local_files_only:
            raise FileNotFoundError
        asked.append(allow_patterns)
        if not folder.exists():
            save_shards(folder, "README.md", type=type)
        if "pytorch_model*.bin" in allow_patterns:
            for number in (1, 2):
                (folder / f"pytorch_model-0000{number}-of-00002.bin").write_bytes(b"weights")
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    if fetched:
        assert weights.locate(HUB) == folder
    else:
        with pytest.raises(ConfigError, match=r"holds no \.safetensors file"):
            weights.locate(HUB)
    assert len(asked) == 1 + fetched


def test_a_model_of_the_hub_without_safetensors_is_refused(cache: Path) -> None:
    save_model(snapshot(cache), file="pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"^model\.hub_id=owner/name: holds no \.safetensors .* reached$"):
        weights.locate(HUB)


def test_random_weights_need_an_architecture_and_no_files(tmp_path: Path) -> None:
    declared = dataclasses.replace(HUB, weights="random", revision=None, architecture={"model_type": "llama"})
    assert weights.locate(declared) is None
    found = weights.revision(declared)
    assert found.startswith("random:")
    assert weights.revision(dataclasses.replace(declared, name="other", hub_id="a/b")) == found
    other = dataclasses.replace(declared, architecture={"model_type": "llama", "vocab_size": 8})
    assert weights.revision(other) != found
    folder = save_model(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    bare = dataclasses.replace(local(folder), weights="random")
    assert weights.locate(bare) is None
    assert weights.read_architecture(bare) == {"model_type": "bert"}
    assert weights.revision(bare).startswith("random:")
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"^model\.path=.*/model: holds no config\.json"):
        weights.locate(bare)
    with pytest.raises(MissingError, match="there is no such folder"):
        weights.locate(dataclasses.replace(bare, path=str(tmp_path / "nowhere")))
