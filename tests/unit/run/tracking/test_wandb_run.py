"""What tracking decides before any run: online, offline or disabled, in bounded time and without a secret."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest

from bench.errors import ConfigError, MissingError
from bench.run.tracking import wandb_run as tracking
from bench.run.tracking.wandb_run import Mode

KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _no_wandb_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith("WANDB_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@contextmanager
def listening(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def status(code: int) -> Iterator[str]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with listening(answer) as url:
        yield url


@contextmanager
def dripping() -> Iterator[str]:
    """A server that sends one header after the other, so that no single read ever times out."""
    stop = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n")
        for number in range(60):
            if stop.wait(0.2):
                break
            handler.wfile.write(f"X-Drip-{number}: 0\r\n".encode())

    with listening(answer) as url:
        try:
            yield url
        finally:
            stop.set()


@contextmanager
def silent() -> Iterator[str]:
    """A socket that accepts a connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def refused() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def configure(monkeypatch: pytest.MonkeyPatch, url: str, key: str | None = KEY) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", url)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)


def test_asked_for_modes_need_no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "probe", lambda *_: pytest.fail("probed"))
    assert tracking.resolve("disabled", probe_seconds=1) == Mode("disabled", "track.mode=disabled")
    offline = tracking.resolve("offline", probe_seconds=1)
    assert offline == Mode("offline", "track.mode=offline; upload later with `bench sync`")


def test_unknown_mode_names_the_allowed_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"^track\.mode=on: must be one of auto, online, offline, disabled$"
    ):
        tracking.resolve("on", probe_seconds=1)


def test_auto_without_key_is_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    with status(200) as url:
        configure(monkeypatch, url, key=None)
        mode = tracking.resolve("auto", probe_seconds=1)
    assert mode.mode == "offline"
    host = url.removeprefix("http://")
    assert mode.reason == (
        f"no API key is configured for the W&B server {host}; upload later with `bench sync`"
    )


@pytest.mark.parametrize("code", [200, 204, 401, 404])
@pytest.mark.parametrize("asked", ["auto", "online"])
def test_any_answer_below_500_is_online(monkeypatch: pytest.MonkeyPatch, code: int, asked: str) -> None:
    with status(code) as url:
        configure(monkeypatch, url)
        assert tracking.resolve(asked, probe_seconds=5) == Mode("online", None)


@pytest.mark.parametrize("code", [500, 503])
def test_a_failing_server_is_offline(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    with status(code) as url:
        configure(monkeypatch, url)
        mode = tracking.resolve("auto", probe_seconds=5)
        with pytest.raises(MissingError, match=rf"^track\.mode=online: .* answered HTTP {code}; check the"):
            tracking.resolve("online", probe_seconds=5)
    assert mode.mode == "offline"
    assert f"answered HTTP {code}; upload later with `bench sync`" in str(mode.reason)


@pytest.mark.parametrize("server", [silent, dripping])
def test_a_hanging_server_costs_the_probe_only(
    monkeypatch: pytest.MonkeyPatch, server: Callable[[], AbstractContextManager[str]]
) -> None:
    import wandb  # noqa: F401  -- its import is not the probe's time

    with server() as url:
        configure(monkeypatch, url)
        started = time.monotonic()
        mode = tracking.resolve("auto", probe_seconds=1)
        seconds = time.monotonic() - started
    assert mode.mode == "offline"
    assert "did not answer within 1 s" in str(mode.reason)
    assert 0.9 < seconds < 6


def test_a_refused_port_is_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, refused())
    mode = tracking.resolve("auto", probe_seconds=5)
    assert mode.mode == "offline"
    assert "cannot be reached (Connection refused); upload later with `bench sync`" in str(mode.reason)


def test_online_without_key_is_an_error_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, refused(), key=None)
    with pytest.raises(ConfigError, match=r"^track\.mode=online: no API key .*; set WANDB_API_KEY or run"):
        tracking.resolve("online", probe_seconds=1)


def test_online_without_server_is_an_error_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, refused())
    with pytest.raises(MissingError, match=r"^track\.mode=online: .* cannot be reached .*WANDB_BASE_URL"):
        tracking.resolve("online", probe_seconds=5)


def test_sync_asks_for_key_and_server_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    configure(monkeypatch, refused(), key=None)
    with pytest.raises(ConfigError, match=r"^bench sync: no API key"):
        tracking.sync(tmp_path, probe_seconds=1)
    configure(monkeypatch, refused())
    with pytest.raises(MissingError, match=r"^bench sync: .* cannot be reached"):
        tracking.sync(tmp_path, probe_seconds=5)


@pytest.mark.parametrize("password", [KEY, ""])
def test_a_key_in_netrc_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, password: str) -> None:
    with status(200) as url:
        configure(monkeypatch, url, key=None)
        host = url.removeprefix("http://")
        entry = f'machine {host}\n  login user\n  password "{password}"\n'
        (tmp_path / "netrc").write_text(entry, encoding="utf-8")
        assert tracking.resolve("auto", probe_seconds=5).mode == ("online" if password else "offline")


def test_a_key_of_another_server_does_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {KEY}\n", encoding="utf-8")
    with status(200) as url:
        configure(monkeypatch, url, key=None)
        assert tracking.resolve("auto", probe_seconds=5).mode == "offline"


def test_the_public_server_is_found_under_its_old_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(tracking, "probe", lambda url, _: asked.append(url))
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {KEY}\n", encoding="utf-8")
    assert tracking.resolve("auto", probe_seconds=5).mode == "online"
    assert asked[0].rstrip("/") in ("https://api.forge.coreweave.com", "https://api.wandb.ai")


def test_a_server_in_the_settings_file_is_the_one_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with status(200) as url:
        (tmp_path / "settings").write_text(f"[default]\nbase_url = {url}\n", encoding="utf-8")
        assert tracking.resolve("auto", probe_seconds=5).mode == "online"


@pytest.mark.parametrize(("own", "expected"), [("offline", "offline"), ("disabled", "disabled")])
def test_auto_obeys_the_mode_of_wandb(monkeypatch: pytest.MonkeyPatch, own: str, expected: str) -> None:
    with status(200) as url:
        configure(monkeypatch, url)
        monkeypatch.setenv("WANDB_MODE", own)
        mode = tracking.resolve("auto", probe_seconds=5)
    assert mode.mode == expected
    assert "WANDB_MODE" in str(mode.reason)


@pytest.mark.parametrize("scheme", ["http", "gopher"])
@pytest.mark.parametrize("key", [KEY, f"local-{KEY}", f"bad key {KEY}"])
def test_no_secret_in_any_message(monkeypatch: pytest.MonkeyPatch, scheme: str, key: str) -> None:
    address = refused().removeprefix("http://")
    configure(monkeypatch, f"{scheme}://user:hunter2@{address}", key)
    with pytest.raises((ConfigError, MissingError)) as raised:
        tracking.resolve("online", probe_seconds=5)
    texts = [str(tracking.resolve("auto", probe_seconds=5).reason), str(raised.value), repr(raised.value)]
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__
    for text in texts:
        assert KEY not in text
        assert "hunter2" not in text
        assert "user:" not in text


def test_errors_are_described_without_secrets() -> None:
    error = OSError(f"GET https://me:hunter2@host/graphql with {KEY}\nsecond line")
    assert tracking.describe_error(error) == "OSError: GET https://***host/graphql with ***"
    assert tracking.describe_error(OSError()) == "OSError: no message"


def test_the_server_is_asked_without_the_credentials_of_its_url(monkeypatch: pytest.MonkeyPatch) -> None:
    with status(200) as url:
        configure(monkeypatch, url.replace("http://", "http://user:hunter2@"))
        assert tracking.resolve("auto", probe_seconds=5) == Mode("online", None)


def test_disabled_imports_neither_wandb_nor_torch(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from bench.run.tracking import wandb_run as tracking
mode = tracking.resolve("disabled", probe_seconds=1)
tracker = tracking.start(mode, project="p", entity=None, folder=Path(sys.argv[1]), run_id="r", name="n",
                         group="g", tags=[], config={})
tracker.log({"loss": 1.0}, step=1)
tracker.finish(summary={}, predictions=None, success=True)
assert (tracker.mode, tracker.reason, tracker.wandb_run_id) == ("disabled", "track.mode=disabled", None)
print(sorted({"wandb", "torch"} & set(sys.modules)))
"""
    folder = tmp_path / "results"
    command = [sys.executable, "-c", script, str(folder)]
    root = Path(tracking.__file__).parents[3]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert not folder.exists()


def test_a_run_that_raises_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def __init__(self) -> None:
            self.logged: list[object] = []
            self.exits: list[int] = []

        def log(self, row: object) -> None:
            self.logged.append(row)
            raise RuntimeError(f"lost {KEY}")

        def finish(self, *, exit_code: int) -> None:
            self.exits.append(exit_code)
            raise RuntimeError("lost again")

    run = Broken()
    tracker = tracking.WandbTracker(
        run=run, mode="offline", reason="asked", wandb_run_id="r-1", folder=tmp_path
    )
    tracker.log({"loss": None}, step=1)
    assert tracker.reason == "asked"  # nothing to log, so wandb was not called
    tracker.log({"loss": 1.0}, step=2)
    tracker.log({"loss": 1.0}, step=3)
    tracker.finish(summary={"accuracy": 1.0}, predictions=pd.DataFrame({"id": [1]}), success=True)
    assert (run.logged, run.exits) == ([{"loss": 1.0, "step": 2}], [0])
    assert tracker.reason == "W&B is incomplete, it failed to log step 2: RuntimeError: lost ***"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert KEY not in caplog.text


def test_only_folders_without_the_mark_of_wandb_are_pending(tmp_path: Path) -> None:
    names = {
        "offline-run-20260102_000000-new": ["run-new.wandb"],
        "offline-run-20260101_000000-old": ["run-old.wandb"],
        "offline-run-20260101_000001-done": ["run-done.wandb", "run-done.wandb.synced"],
        "offline-run-20260101_000002-partly": ["run-a.wandb", "run-a.wandb.synced", "run-b.wandb"],
        "offline-run-20260101_000003-empty": [],
        "run-20260101_000004-online": ["run-online.wandb"],
    }
    for name, files in names.items():
        folder = tmp_path / "wandb" / name
        folder.mkdir(parents=True)
        for file in files:
            (folder / file).touch()
    found = [folder.name.rpartition("-")[2] for folder in tracking.offline_folders(tmp_path)]
    assert found == ["old", "partly", "new"]
    assert tracking.offline_folders(tmp_path / "missing") == []
