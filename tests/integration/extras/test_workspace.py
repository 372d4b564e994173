"""The W&B dashboard as code: shows what runs really log; made, updated or refused as W&B answers."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import cli
from bench.config.schema import Config
from bench.errors import MissingError
from bench.extras import dashboard
from bench.results.store import Store
from bench.run.run import run
from bench.run.tracking import wandb_run as tracking
from bench.run.tracking.wandb_run import Mode

Compose = Callable[..., Config]
ONLINE = Mode("online", None)


class Views:
    """Stands in for the part of W&B that keeps workspaces."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Any]] = {}
        self.error: Exception | None = None

    def upsert(self, view: Any) -> dict[str, Any]:
        if self.error:
            raise self.error
        identifier = view.id or f"id-{len(self.kept)}"
        spec = view.spec.model_dump_json(by_alias=True, exclude_none=True)
        self.kept[view.name] = {"id": identifier, "displayName": view.display_name, "spec": spec}
        return {"upsertView": {"view": {"name": view.name, "id": identifier}}}

    def find(self, entity: str, project: str, name: str) -> dict[str, Any]:
        assert (entity, project) == ("us", "bench")
        found = self.kept.get(name) or self.kept.get(f"nw-{name}-v")
        if found is None:
            raise ValueError(f"Workspace `{name}` not found in project `{project}`")
        return found


@pytest.fixture
def views(monkeypatch: pytest.MonkeyPatch) -> Views:
    from wandb_workspaces.workspaces import interface, internal

    views = Views()
    monkeypatch.setattr(internal, "upsert_view2", views.upsert)
    monkeypatch.setattr(internal, "get_view_dict", views.find)
    monkeypatch.setattr(interface, "get_app_url", lambda _: "https://wandb.example")
    monkeypatch.setattr(interface.wandb, "Api", object)
    monkeypatch.setattr(interface.wandb, "termlog", lambda _: None)
    monkeypatch.setattr(tracking, "resolve", lambda *_, **__: ONLINE)
    monkeypatch.setattr(tracking, "default_entity", lambda: "us")
    return views


@pytest.fixture(scope="module")
def finished(
    compose: Compose, tiny_bert: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The results of one real run, and beside them what it told W&B."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        clear_wandb(patch, folder)
        for limit in ("INIT_SECONDS", "FINISH_SECONDS"):  # which a busy machine may take
            patch.setattr(f"bench.run.tracking.wandb_run.{limit}", 120.0)
        config = compose(
            "method=lora",
            "model=local",
            f"model.path={tiny_bert}",
            "data=files",
            f"data.train={texts}",
            f"results_dir={folder}/mine",
            f"cache_dir={folder}/cache",
            "track.mode=offline",
            "train.max_steps=4",
            "train.warmup_steps=0",
            "train.eval_steps=2",
            "train.log_steps=1",
            "devices=cpu",
        )
        assert run(config).status == "success"
    return folder / "mine"


@pytest.fixture
def store(finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    """A copy of them."""
    clear_wandb(monkeypatch, tmp_path)
    return Store(Path(shutil.copytree(finished, tmp_path / "mine", symlinks=True)))


def clear_wandb(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """No key, no settings of this machine's."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_ENTITY"):
        patch.delenv(name, raising=False)
    patch.setenv("NETRC", str(folder / "netrc"))
    patch.setenv("WANDB_CONFIG_DIR", str(folder))


def publish(store: Store, *, mode: str = "auto") -> str:
    return dashboard.publish(store, mode=mode, project=None, entity=None, seconds=1)


def read(store: Store) -> dict[str, Any]:
    described: dict[str, Any] = json.loads((store.folder / "dashboard.json").read_text(encoding="utf-8"))
    return described


def find_fields(spec: Any) -> Iterator[tuple[str, str]]:
    """Where a panel looks for a value, config, summary or history, and its name there."""
    for section in spec["section"]["panelBankConfig"]["sections"]:
        for panel in section["panels"]:
            values = panel["config"]
            where = "history" if panel["viewType"] == "Run History Line Plot" else "summary"
            names = [*values.get("metrics", []), values.get("targetKey"), values.get("groupBy")]
            names += [values.get(axis) for axis in ("xAxis", "yAxis")]
            names += [column["accessor"] for column in values.get("columns", [])]
            for name in filter(None, names):
                if ".value" in name:
                    yield "config", name.removeprefix("config:").replace(".value", "")
                else:
                    yield where, name.removeprefix("summary:")


def test_each_panel_shows_what_a_run_logs(store: Store) -> None:
    publish(store, mode="offline")
    (folder,) = (store.folder / "wandb").glob("offline-run-*")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    records = [
        json.loads(line)
        for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    ]
    logged: dict[str, set[str]] = {
        "config": set(),
        "summary": {name for one in records for name in one.get("summary", {}).get("update", {})},
        "history": {name for one in records for name in one.get("history", {}).get("item", {})},
    }
    (started,) = [one["run"] for one in records if one["type"] == "run"]
    for name, value in started["config"]["update"].items():
        logged["config"] |= {f"{name}.{inner}" for inner in value} if isinstance(value, dict) else {name}
    found = set(find_fields(read(store)["spec"]))
    assert len(found) > 15
    assert {(where, name) for where, name in found if name not in logged[where]} == set()
    assert ("config", "lora.dropout") in found
    assert ("summary", "train_peak_resident_bytes") in found
    (filters,) = [one["filters"] for one in read(store)["spec"]["section"]["runSets"]]
    assert started["run_group"] in json.dumps(filters)


def test_offline_it_is_a_file_that_is_the_same_each_time(store: Store) -> None:
    line = publish(store)
    first = (store.folder / "dashboard.json").read_bytes()
    assert line.startswith(f"{store.folder}/dashboard.json written, nothing uploaded: no API key")
    publish(store)
    assert (store.folder / "dashboard.json").read_bytes() == first
    assert read(store)["url"] is None


def test_online_it_is_made_once_and_then_updated(store: Store, views: Views) -> None:
    line = publish(store)
    assert line.startswith("dashboard: https://wandb.example/us/bench?nw=")
    (made,) = views.kept.values()
    assert made["displayName"] == f"bench {store.folder.name}"
    name, before = next(iter(views.kept)), made["spec"]
    views.kept[name]["spec"] = before.replace("Runs side by side", "Something else")
    assert publish(store) == line
    assert list(views.kept) == [name]
    assert "Runs side by side" in views.kept[name]["spec"]
    views.kept.clear()  # somebody deleted it
    assert publish(store) != line
    assert len(views.kept) == 1


def test_a_server_that_refuses_is_one_message(store: Store, views: Views) -> None:
    views.error = PermissionError("no access for key 0123456789abcdef0123456789abcdef01234567")
    with pytest.raises(MissingError, match=r"^bench dashboard: W&B did not take it .*us/bench") as caught:
        publish(store)
    assert "0123456789abcdef" not in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["track.mode=online"], 2, "track.mode=online: no API key is configured"),
        (["lora.r=8"], 2, "lora.r=8: only track.* can be set here"),
        (["--offline"], 2, "--offline: draws in a terminal"),
    ],
)
def test_what_cannot_be_is_one_message(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "dashboard", "--results", str(store.folder), *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code
    assert capsys.readouterr().err.startswith(message)
    assert not (store.folder / "dashboard.json").exists()
