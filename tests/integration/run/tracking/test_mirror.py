"""Each success has exactly one offline W&B run, whatever killed what wrote it."""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.config.schema import Config
from bench.results.store import Result, Store
from bench.run.run import run
from bench.run.tracking import mirror
from bench.run.tracking import wandb_run as tracking

Compose = Callable[..., Config]


Mirrored = tuple[Config, Store, Result]


@pytest.fixture
def mirror_run(
    compose_tiny: Compose, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[str], Mirrored]:
    """A success of a method with its offline W&B run."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def run_offline(method: str) -> Mirrored:
        lines = ("track.mode=offline", "train.max_steps=4", "train.eval_steps=4")
        config = compose_tiny(f"method={method}", *lines)
        return config, Store(Path(config.results_dir)), run(config)

    return run_offline


@pytest.fixture
def mirrored(mirror_run: Callable[[str], Mirrored]) -> Mirrored:
    return mirror_run("majority")


def inspect(folder: Path) -> dict[str, Any]:
    """What wandb's own reader finds, without times; the table's numbers have six digits in its file."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    text, records = (
        subprocess.run([*command, *more], capture_output=True, text=True, check=True, timeout=60).stdout
        for more in (["--summary"], [])
    )
    found = json.loads(text)
    rows = [json.loads(line) for line in records.splitlines()]
    items = [row["history"]["item"] for row in rows if row["type"] == "history"]
    kept = ("run_id", "project", "name", "tags", "config", "state", "exit_code")
    return {name: found[name] for name in kept} | {
        "summary": _without_times(found["summary"]),
        "history": [_without_times(item) for item in items],
        "rows": found["summary"]["predictions"]["nrows"],
    }


def _without_times(item: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in item.items() if not key.startswith(("_", "predictions"))}


def test_a_partial_or_missing_mirror_is_made_again_and_that_of_a_replaced_attempt_goes(
    mirror_run: Callable[[str], Mirrored],
) -> None:
    config, store, result = mirror_run("lora")
    [folder] = tracking.offline_folders(store.folder)
    before = inspect(folder)
    assert mirror.mend(store, config) == (0, 0)

    replaced = folder.with_name(f"offline-run-20260101_000000-{result.run_id}-00000000")
    shutil.copytree(folder, replaced)
    (folder / "bench-complete").unlink()  # as where the process was killed while it wrote
    with store.claim(result.run_id):
        assert mirror.mend(store, config) == (0, 0)  # another process has the run
    assert mirror.mend(store, config) == (1, 1)
    [again] = tracking.offline_folders(store.folder)
    assert again.name.endswith(f"-{result.tracking['wandb_run_id']}")
    assert inspect(again) == before

    shutil.rmtree(again)
    assert mirror.mend(store, config) == (1, 0)
    assert mirror.mend(store, config) == (0, 0)
    assert len(tracking.offline_folders(store.folder)) == 1


def test_a_success_whose_mirror_could_not_start_gets_one(mirrored: Mirrored) -> None:
    config, store, result = mirrored
    shutil.rmtree(store.folder / "wandb")
    reason = f"{tracking.NOT_STARTED}: OSError: no luck"
    blank = {"mode": "disabled", "wandb_run_id": None, "reason": reason}
    store.write(dataclasses.replace(result, tracking=blank))
    assert mirror.mend(store, config) == (1, 0)
    [folder] = tracking.offline_folders(store.folder)
    found = store.read(result.run_id)
    assert found is not None
    assert folder.name.endswith(f"-{found.tracking['wandb_run_id']}")
    assert (found.tracking["mode"], found.metrics) == ("offline", result.metrics)


@pytest.mark.parametrize(
    "kept", [{"mode": "online"}, {"mode": "disabled", "wandb_run_id": None, "reason": "track.mode=disabled"}]
)
def test_what_was_online_or_is_not_wanted_is_not_made(mirrored: Mirrored, kept: dict[str, Any]) -> None:
    config, store, result = mirrored
    shutil.rmtree(store.folder / "wandb")
    store.write(dataclasses.replace(result, tracking={**result.tracking, **kept}))
    assert mirror.mend(store, config) == (0, 0)


def test_what_was_uploaded_is_not_made_again_once_its_folder_has_gone(
    mirrored: Mirrored, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, store, _ = mirrored
    [folder] = tracking.offline_folders(store.folder)

    def upload(*_: Any, **__: Any) -> None:
        file = next(folder.glob("*.wandb"))
        file.with_suffix(".wandb.synced").touch()

    monkeypatch.setattr(tracking, "require_server", lambda *_: None)
    monkeypatch.setattr(tracking.subprocess, "run", upload)
    assert tracking.sync(store.folder, probe_seconds=1) == (1, 0)
    shutil.rmtree(folder)  # as `wandb sync --clean` does
    assert mirror.mend(store, config) == (0, 0)
