"""Runs as wandb itself writes, reads and uploads them; a server on loopback stands in for W&B's."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.errors import MissingError
from bench.run.tracking import wandb_run as tracking
from bench.run.tracking.wandb_run import Mode

KEY = "0123456789abcdef0123456789abcdef01234567"
OFFLINE = Mode("offline", "asked for")
ROWS = [{"loss": 2.0, "accuracy": None}, {"loss": 1.0, "accuracy": 0.5}, {"loss": 0.5, "accuracy": None}]
PREDICTIONS = pd.DataFrame(
    {"split": ["test", "test"], "id": [0, 1], "label": ["债券", "股票"], "p": [0.25, 1.0], "note": [None, 1]},
    dtype=object,
)


class FakeServer(ThreadingHTTPServer):
    """Answers what `wandb sync` and `wandb.init` ask for; keeps what was sent, refuses or hangs on demand."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), FakeHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[str] = []
        self.uploads: dict[str, bytes] = {}
        self.refuses = False
        self.hangs = threading.Event()


class FakeHandler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_GET(self) -> None:
        self._answer(200, {})

    def do_PUT(self) -> None:
        self.server.uploads[self.path.removeprefix("/put/")] = self._body()
        self._answer(200, {})

    def do_POST(self) -> None:
        body = self._body()
        self.server.requests.append(self.path)
        if self.server.hangs.is_set():
            time.sleep(30)
        if self.server.refuses:
            self._answer(401, {})
        else:
            self._answer(200, {"data": self._data(json.loads(body)) if self.path == "/graphql" else {}})

    def _data(self, request: dict[str, Any]) -> dict[str, object]:
        variables = request.get("variables") or {}
        if "createRunFiles" in request["query"]:
            files = [
                {"name": name, "uploadUrl": f"{self.server.url}/put/{name}"} for name in variables["files"]
            ]
            return {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}
        if "upsertBucket" in request["query"]:
            project = {"id": "p", "name": "bench", "entity": {"id": "e", "name": "us"}}
            bucket = {"id": "x", "name": variables["name"], "displayName": "n", "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        return {}

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, code: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def _no_wandb_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if (name.startswith("WANDB_") and name != "WANDB_SERVICE") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def start(folder: Path, mode: Mode = OFFLINE, **changes: Any) -> tracking.Tracker:
    described = {
        "project": "bench",
        "entity": None,
        "run_id": "4f2a9c01",
        "name": "lora r=8",
        "group": "quickstart",
        "tags": ["lora", "finance8"],
        "config": {"lora": {"r": 8}, "train": {"lr": 1e-4}},
    }
    return tracking.start(mode, folder=folder, **(described | changes))


def write_run(folder: Path, *, success: bool = True) -> tracking.Tracker:
    tracker = start(folder)
    for number, row in enumerate(ROWS):
        tracker.log(row, step=number * 10)
    summary = {"test_accuracy": 0.75, "status": "success", "joules": None}
    tracker.finish(summary=summary, predictions=PREDICTIONS, success=success)
    return tracker


def inspect(folder: Path, *options: str) -> list[dict[str, Any]]:
    """What wandb's own reader finds in the folder of a run."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", *options, "--json", str(folder)]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return [json.loads(text)] if options else [json.loads(line) for line in text.splitlines()]


def test_an_offline_run_reads_back_as_it_was_logged(tmp_path: Path) -> None:
    tracker = write_run(tmp_path)
    assert (tracker.mode, tracker.reason) == ("offline", "asked for")
    (folder,) = tracking.offline_folders(tmp_path)
    assert folder.parent == tmp_path / "wandb"

    (found,) = inspect(folder, "--summary")
    assert found["run_id"] == tracker.wandb_run_id
    assert str(tracker.wandb_run_id).startswith("4f2a9c01-")
    assert (found["project"], found["name"], found["tags"]) == ("bench", "lora r=8", ["lora", "finance8"])
    assert found["config"] == {"lora": {"r": 8}, "train": {"lr": 1e-4}, "run_id": "4f2a9c01"}
    assert (found["state"], found["exit_code"], found["console"]) == ("finished", 0, [])
    assert (found["summary"]["test_accuracy"], found["summary"]["status"]) == (0.75, "success")
    assert "joules" not in found["summary"]

    records = inspect(folder)
    (run,) = [record["run"] for record in records if record["type"] == "run"]
    assert run["run_group"] == "quickstart"
    metrics = [record["metric"] for record in records if record["type"] == "metric"]
    assert [(metric["glob_name"], metric["step_metric"]) for metric in metrics] == [("*", "step")]
    items = [record["history"]["item"] for record in records if record["type"] == "history"]
    own = [{key: value for key, value in item.items() if not key.startswith("_")} for item in items]
    assert own[:3] == [
        {"loss": 2.0, "step": 0},
        {"loss": 1.0, "accuracy": 0.5, "step": 10},
        {"loss": 0.5, "step": 20},
    ]


def test_the_predictions_are_a_table_in_the_folder_of_the_run(tmp_path: Path) -> None:
    write_run(tmp_path)
    (folder,) = tracking.offline_folders(tmp_path)
    (found,) = inspect(folder, "--summary")
    stored = found["summary"]["predictions"]
    assert (stored["_type"], stored["nrows"], stored["ncols"]) == ("table-file", 2, 5)
    table = json.loads((folder / "files" / stored["path"]).read_text(encoding="utf-8"))
    assert table["columns"] == list(PREDICTIONS.columns)
    assert table["data"] == PREDICTIONS.to_numpy().tolist()
    assert all(record["type"] != "artifact" for record in inspect(folder))


def test_a_failed_run_is_marked_as_failed(tmp_path: Path) -> None:
    write_run(tmp_path, success=False)
    (found,) = inspect(tracking.offline_folders(tmp_path)[0], "--summary")
    assert (found["state"], found["exit_code"]) == ("failed", 1)


def test_two_runs_in_one_process_are_distinct(tmp_path: Path) -> None:
    first, second = start(tmp_path, name="first"), start(tmp_path, name="second")
    second.log({"loss": 2.0}, step=0)
    first.log({"loss": 1.0}, step=0)
    first.finish(summary={}, predictions=None, success=True)
    second.log({"loss": 3.0}, step=1)
    second.finish(summary={}, predictions=None, success=True)
    assert first.wandb_run_id != second.wandb_run_id
    found = [inspect(folder, "--summary")[0] for folder in tracking.offline_folders(tmp_path)]
    losses = {run["name"]: (run["run_id"], run["summary"]["loss"]) for run in found}
    assert losses == {"first": (first.wandb_run_id, 1.0), "second": (second.wandb_run_id, 3.0)}


def test_an_offline_run_sends_nothing_and_keeps_to_its_folder(server: FakeServer, tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
import pandas as pd
from bench.run.tracking import wandb_run as tracking
tracker = tracking.start(tracking.Mode("offline", None), project="p", entity=None, folder=Path(sys.argv[1]),
                         run_id="r", name="n", group="g", tags=[], config={})
tracker.log({"loss": 1.0}, step=1)
tracker.finish(summary={"accuracy": 1.0}, predictions=pd.DataFrame({"id": [1]}), success=True)
print(tracker.mode, tracker.reason)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    home = tmp_path / "home"
    home.mkdir()
    environment |= {"HOME": str(home), "WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url}
    command = [sys.executable, "-c", script, str(tmp_path / "results"), "--token=on-the-command-line"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env=environment, cwd=_root()
    )
    assert (done.stdout, done.stderr) == ("offline None\n", "")
    assert server.requests == []
    assert not (home / ".local").exists()
    written = [file for file in (tmp_path / "results").rglob("*") if file.is_file()]
    assert any(file.suffix == ".wandb" for file in written)
    for file in written:
        content = file.read_bytes()
        assert KEY.encode() not in content, file
        assert b"on-the-command-line" not in content, file


def test_an_error_of_a_real_run_stays_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = start(tmp_path)
    assert isinstance(tracker, tracking.WandbTracker)
    tracker.run.finish()
    tracker.log({"loss": 1.0}, step=3)  # wandb raises: the run is finished
    tracker.finish(summary={"a": 1}, predictions=PREDICTIONS, success=True)
    assert [record.levelname for record in caplog.records if record.name == tracking.__name__] == ["WARNING"]
    assert tracker.mode == "offline"
    assert "failed to log step 3" in str(tracker.reason)


def test_a_folder_that_cannot_be_written_disables_tracking(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    tracker = start(tmp_path / "file")
    assert (tracker.mode, tracker.wandb_run_id) == ("disabled", None)
    assert str(tracker.reason).startswith("W&B could not start: FileExistsError")
    tracker.log({"loss": 1.0}, step=0)
    tracker.finish(summary={}, predictions=None, success=True)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_sync_uploads_each_run_once(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = write_run(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    server.refuses = True
    assert tracking.sync(tmp_path, probe_seconds=5) == (0, 1)
    server.refuses = False
    assert tracking.sync(tmp_path, probe_seconds=5) == (1, 0)
    assert f"/files/us/bench/{tracker.wandb_run_id}/file_stream" in server.requests
    (table,) = [name for name in server.uploads if name.startswith("media/table/predictions")]
    assert json.loads(server.uploads[table])["data"] == PREDICTIONS.to_numpy().tolist()
    assert json.loads(server.uploads["wandb-summary.json"])["test_accuracy"] == 0.75
    server.requests.clear()
    assert tracking.sync(tmp_path, probe_seconds=5) == (0, 0)
    assert server.requests == []
    assert not (tmp_path / "elsewhere" / "wandb").exists()


def test_sync_gives_up_on_a_server_that_dies(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path)
    monkeypatch.setattr(tracking, "UPLOAD_SECONDS", 4)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    server.hangs.set()
    started = time.monotonic()
    assert tracking.sync(tmp_path, probe_seconds=5) == (0, 1)
    assert time.monotonic() - started < 20
    assert len(tracking.offline_folders(tmp_path)) == 1


def test_sync_needs_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(MissingError, match=r"^bench sync: the W&B server 127\.0\.0\.1:9 cannot be reached"):
        tracking.sync(tmp_path, probe_seconds=5)
    assert len(tracking.offline_folders(tmp_path)) == 1


def test_an_online_run_outlives_its_server(server: FakeServer, tmp_path: Path) -> None:
    script = """
import sys, threading, time
from pathlib import Path
from bench.run.tracking import wandb_run as tracking
tracking.FINISH_SECONDS = 3
mode = tracking.resolve("online", probe_seconds=5)
tracker = tracking.start(mode, project="p", entity=None, folder=Path(sys.argv[1]), run_id="r", name="n",
                         group="g", tags=[], config={})
print(tracker.mode, flush=True)
sys.stdin.readline()
started = time.monotonic()
tracker.log({"loss": 1.0}, step=1)
tracker.finish(summary={"accuracy": 1.0}, predictions=None, success=True)
print(time.monotonic() - started)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url}
    command = [sys.executable, "-c", script, str(tmp_path / "results")]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=_root(),
    ) as process:
        assert process.stdout
        mode = process.stdout.readline()
        server.hangs.set()
        out, err = process.communicate("\n", timeout=60)
    assert mode == "online\n"
    assert err.startswith("W&B is incomplete, its server did not take everything in 3 s; ")
    assert len(err.splitlines()) == 1
    again = start(tmp_path / "results", Mode("online", None))  # another run of the sweep does not wait again
    assert (again.mode, str(again.reason)[:23]) == ("offline", "W&B's server was lost e")
    again.finish(summary={}, predictions=None, success=True)
    tracking.begin_sweep(tmp_path / "results")
    assert not list((tmp_path / "results" / "wandb").glob(".server-lost"))
    assert float(out) < 20
    assert KEY not in "".join(
        file.read_text(errors="replace") for file in tmp_path.rglob("*.*") if file.is_file()
    )


def _root() -> Path:
    return Path(tracking.__file__).parents[3]
