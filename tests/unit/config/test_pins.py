"""What is on the hub without a commit gets one before anything else, and keeps it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.config import pins
from bench.config.schema import Config
from bench.errors import MissingError

Compose = Callable[..., Config]

COMMITS = ("0123456789abcdef0123456789abcdef01234567", "89abcdef0123456789abcdef0123456789abcdef")
MODEL = ("model=hub", "model.hub_id=owner/name")
DATA = ("data=hub", "data.hub_id=owner/texts")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, no way to the hub itself, and nothing remembered."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    pins._find_commit.cache_clear()
    return tmp_path / "hub"


def name_main(cache: Path, folder: str, commit: str) -> None:
    """Has the cache know main's commit, as a download of main leaves it."""
    refs = cache / folder / "refs"
    refs.mkdir(parents=True, exist_ok=True)
    (refs / "main").write_text(commit)


def test_the_commit_is_the_one_that_the_cache_calls_main(compose: Compose, cache: Path) -> None:
    name_main(cache, "models--owner--name", COMMITS[0])
    name_main(cache, "datasets--owner--texts", COMMITS[1])
    config = compose(*MODEL, *DATA)
    pinned = pins.pin(config)
    assert (pinned.model.revision, pinned.data.revision) == COMMITS
    assert pins.find_pins(config) == {"model.revision": COMMITS[0], "data.revision": COMMITS[1]}
    assert pins.find_pins(pinned) == {}


@pytest.mark.parametrize(
    "lines",
    [
        (),
        (*MODEL, f"model.revision={COMMITS[0]}"),
        (*DATA, f"data.revision={COMMITS[0]}"),
        ("model=local", "model.path=x"),
        ("model=qwen3-0.6b", "model.weights=random"),
    ],
)
def test_what_has_a_commit_or_needs_none_is_left_alone(compose: Compose, lines: tuple[str, ...]) -> None:
    assert pins.pin(compose(*lines)) == compose(*lines)


@pytest.mark.parametrize(
    ("lines", "name", "remedy"),
    [
        (MODEL, "model.hub_id=owner/name", "set model.revision to a commit .* model=local model.path=DIR"),
        (DATA, "data.hub_id=owner/texts", "set data.revision to a commit .* data=files data.train=FILE"),
    ],
)
def test_without_cache_and_hub_one_message_says_what_to_do(
    compose: Compose, lines: tuple[str, ...], name: str, remedy: str
) -> None:
    with pytest.raises(MissingError, match=f"^{name}: not on this machine, .*{remedy}; ") as caught:
        pins.pin(compose(*lines))
    assert caught.value.exit_code == 3
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).endswith(
        "(make sweep EXPERIMENT=quickstart)"
    )  # which on a large card is not run


@pytest.mark.parametrize(
    ("lines", "kind", "folder"),
    [(MODEL, "model", "models--owner--name"), (DATA, "dataset", "datasets--owner--texts")],
)
def test_the_hub_is_asked_once_and_its_answer_lasts(
    compose: Compose,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    lines: tuple[str, ...],
    kind: str,
    folder: str,
) -> None:
    asked = []

    def download(hub_id: str, *, repo_type: str, allow_patterns: list[str]) -> str:
        asked.append((hub_id, repo_type, len(allow_patterns)))
        name_main(cache, folder, COMMITS[0])
        return str(cache / folder / "snapshots" / COMMITS[0])

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    config = compose(*lines)
    found = [pins.find_pins(config) for _ in range(3)]
    pins._find_commit.cache_clear()  # as in a later process
    found.append(pins.find_pins(config))
    assert [list(one.values()) for one in found] == [[COMMITS[0]]] * 4
    assert asked == [(lines[1].partition("=")[2], kind, 1)]
