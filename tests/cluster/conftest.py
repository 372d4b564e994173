"""Real engines on this machine, the command line on them, and orders that runs find at their first step."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

COUNT = re.compile(r"(\w+)=(\d+)")

# Python runs this at its start in every process: at a run's first step it says where it is, and obeys once.
# A run is known by its learning rate.
WATCHER = """
import importlib.abc, importlib.machinery, json, os, pathlib, sys, time

ORDERS = pathlib.Path({folder!r})


def obey(rate):
    job = os.getppid()
    seen = {{"pid": os.getpid(), "variables": dict(os.environ)}}
    (ORDERS / f"{{rate}}.new").write_text(json.dumps(seen))
    (ORDERS / f"{{rate}}.new").rename(ORDERS / f"{{rate}}.seen")
    try:
        order = (ORDERS / rate).read_text()
        (ORDERS / rate).unlink()
    except FileNotFoundError:
        return
    if order == "meet":  # another run, which has to run at the same time
        end = time.monotonic() + 60
        while len(list(ORDERS.glob("*.seen"))) < 2:
            assert time.monotonic() < end, "no other run came"
            time.sleep(0.1)
        return
    if order in ("kill run", "kill job"):
        os.kill(os.getpid() if order == "kill run" else job, 9)
    time.sleep(120)


def wrap(module):
    original, steps = module.take_step, []

    def take_step(training, micro_batches):
        if not steps:
            obey(repr(training.members[0].optimizer.param_groups[0]["initial_lr"]))
        steps.append(1)
        original(training, micro_batches)

    module.take_step = take_step


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "bench.train.loop":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            wrap(module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
"""

# A cluster of two nodes with one CPU each, until standard input ends.
RAY = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@dataclass
class Bench:
    """The command on one engine, or on this machine alone with no ``launcher``, in ``folder``."""

    folder: Path
    launcher: Sequence[str]
    variables: Mapping[str, str]
    orders: Path

    def __call__(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Sweeps to the end."""
        with self.start(*arguments) as process:
            try:
                out, err = process.communicate(timeout=180)
            finally:
                process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Starts a sweep in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "bench", "sweep", *arguments, *self.launcher],
            cwd=self.folder,
            env=_without_wandb() | self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def order(self, orders: Mapping[float, str]) -> None:
        """What the runs with these learning rates do at their first step, once."""
        for rate, order in orders.items():
            (self.orders / repr(rate)).write_text(order)

    def see(self, rate: float) -> dict[str, Any]:
        """What the run with this learning rate said at its first step; waits for it."""
        path = self.orders / f"{rate!r}.seen"
        end = time.monotonic() + 90
        while not path.exists():
            assert time.monotonic() < end, f"the run with learning rate {rate} did not begin"
            time.sleep(0.1)
        seen: dict[str, Any] = json.loads(path.read_text())
        return seen

    def records(self) -> dict[str, dict[str, Any]]:
        """The records in results/, by run_id."""
        paths = (self.folder / "results").rglob("result.json")
        return {path.parent.name: json.loads(path.read_text()) for path in paths}


@pytest.fixture(scope="session", autouse=True)
def _stop_engines_on_sigterm() -> Iterator[None]:
    """SIGTERM ends the tests as SIGINT does, so that no daemon is left."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where all runs of all tests look for orders."""
    folder = tmp_path_factory.mktemp("orders")
    (folder / "python").mkdir()
    (folder / "python" / "sitecustomize.py").write_text(WATCHER.format(folder=str(folder)))
    return folder


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, orders: Path) -> dict[str, str]:
    """Variables of every process here: a home of its own, and the same arithmetic with every launcher."""
    return {
        "HOME": str(tmp_path_factory.mktemp("home")),
        "PYTHONPATH": str(orders / "python"),
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@pytest.fixture(scope="session")
def slurm() -> Iterator[Mapping[str, str]]:
    """A running SLURM, as the variables of its commands."""
    spec = spec_from_file_location("slurm", Path(__file__).with_name("slurm.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, module.run_slurm(Path(folder)) as variables:
        yield variables


@pytest.fixture(scope="session")
def ray_folder() -> Iterator[dict[str, str]]:
    """Where Ray keeps its sessions: a short path, as they hold sockets."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield {"RAY_TMPDIR": folder}


@pytest.fixture(scope="session")
def ray_address(home: dict[str, str], ray_folder: dict[str, str]) -> Iterator[str]:
    """The address of a running Ray cluster of two nodes."""
    process = subprocess.Popen(
        [sys.executable, "-c", RAY],
        env=_without_wandb() | home | ray_folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        process_group=0,
    )
    with process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, "Ray did not start; run `make test-cluster`"
        yield address
        with suppress(subprocess.TimeoutExpired):
            process.communicate("", timeout=30)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


Start = Callable[[str], Bench]


@pytest.fixture
def bench_on(request: pytest.FixtureRequest, home: dict[str, str], orders: Path, tmp_path: Path) -> Start:
    """The command on ``slurm``, ``ray`` or, for comparison, ``local``, each in an empty folder of its own."""
    for left in orders.glob("0.*"):
        left.unlink()

    def make(engine: str) -> Bench:
        folder = tmp_path / engine
        folder.mkdir()
        launcher, variables = [], dict(home)
        if engine == "slurm":
            launcher = ["hydra/launcher=submitit_slurm"]
            variables |= request.getfixturevalue("slurm")
        if engine == "ray":
            address = request.getfixturevalue("ray_address")
            launcher = ["hydra/launcher=ray", f"hydra.launcher.ray.init.address={address}"]
        return Bench(folder, launcher, variables, orders)

    return make


@pytest.fixture
def tiny(tiny_bert: Path, texts: Path) -> list[str]:
    """Overrides of short runs of the tiny model, three of them."""
    return [
        "model=local",
        f"model.path={tiny_bert}",
        "data=files",
        f"data.train={texts}",
        "method=lora",
        "train.lr=0.001,0.002,0.003",
        "train.max_steps=12",
        "train.warmup_steps=0",
        "train.eval_steps=6",
        "train.micro_batch_size=8",
        "train.checkpoint_steps=4",
        "track.mode=disabled",
    ]


@pytest.fixture
def count() -> Callable[[str], dict[str, int]]:
    """The numbers of a sweep's last line that are not 0."""

    def counts_of(stdout: str) -> dict[str, int]:
        last = stdout.splitlines()[-1]
        assert last.startswith("sweep: planned=")
        return {name: int(number) for name, number in COUNT.findall(last) if int(number)}

    return counts_of


def _without_wandb() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
