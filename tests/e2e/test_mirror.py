"""W&B is a mirror only: whatever its server does, every record is complete and a sweep is hardly delayed."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

KEY = "0123456789abcdef0123456789abcdef01234567"


class Server(ThreadingHTTPServer):
    """Stands in for W&B's; ``fault`` is what it does wrong, from the beginning or once runs have begun."""

    daemon_threads = True

    def __init__(self, fault: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.fault = fault
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.began = threading.Event()  # a run was announced


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self._answer(b"{}", 500 if self.server.fault == "500" else 200)

    def do_PUT(self) -> None:
        self._answer(b"", 200)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.fault == "bad key":
            return self._answer(b'{"errors": [{"message": "invalid API key"}]}', 401)
        data: dict[str, object] = {}
        if b"upsertBucket" in body:
            name = json.loads(body)["variables"]["name"]
            project = {"id": "p", "name": "bench", "entity": {"id": "e", "name": "us"}}
            bucket = {"id": "x", "name": name, "displayName": "n", "project": project}
            data = {"upsertBucket": {"bucket": bucket, "inserted": True}}
            self.server.began.set()
        return self._answer(json.dumps({"data": data}).encode(), 200)

    def _answer(self, body: bytes, code: int) -> None:
        if self.server.fault == "hung" or (self.server.fault == "dies" and self.server.began.is_set()):
            time.sleep(120)
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(request.param)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("server", ["refused", "hung", "500", "bad key", "dies"], indirect=True)
def test_a_server_in_trouble_costs_no_run_and_little_time(
    bench: Any, tiny: list[str], count: Any, server: Server
) -> None:
    url = "http://127.0.0.1:9" if server.fault == "refused" else server.url
    bench.variables |= {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": url}
    command = ["sweep", *tiny, "track.mode=auto", "lora.r=2,4,8"]
    started = time.monotonic()
    quiet = bench("sweep", *tiny, "track.mode=disabled", "lora.r=2,4,8", "results_dir=results/quiet")
    assert quiet.returncode == 0
    print(f"without W&B: {time.monotonic() - started:.1f} s", end="; ")
    started = time.monotonic()
    done = bench(*command, "results_dir=results/mirrored")
    seconds = time.monotonic() - started
    print(f"W&B {server.fault}: {seconds:.1f} s")
    assert (done.returncode, done.stderr) == (0, "")
    assert count(done.stdout) == {"planned": 3, "success": 3}
    assert seconds < 30 + 60  # 30 for W&B; the three runs themselves take a fraction of a minute
    folder = bench.folder / "results"
    mirrored, alone = (
        {
            path.parent.name: json.loads(path.read_text())
            for path in (folder / name).glob("runs/*/result.json")
        }
        for name in ("mirrored", "quiet")
    )
    assert set(mirrored) == set(alone)
    for run_id, record in alone.items():
        assert mirrored[run_id]["metrics"] == record["metrics"]
        assert mirrored[run_id]["tracking"]["reason"]
    everything = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in everything if KEY.encode() in path.read_bytes()]
