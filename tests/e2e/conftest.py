"""The real command line in an empty folder, and an injector of faults into the processes that it starts."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import pytest

COUNT = re.compile(r"(\w+)=(\d+)")

# Python runs this at its start in every process: it wraps bench.train.loop.take_step, for runs alone, and the
# training of packs once they are imported. A run is known by its learning rate; each fault fires once, at its
# step, and leaves a mark. What a run meets in a pack and alone are two faults; the first needs a step that is
# logged.
INJECTOR = """
import importlib.abc, importlib.machinery, json, os, sys, time

PLAN = json.loads(os.environ["FAULTS"])  # learning rate -> [fault, step]
PACKED = json.loads(os.environ["FAULTS_PACKED"])
MARKS = os.environ["FAULT_MARKS"]


def fire(fault, model):
    import signal
    import torch

    if fault == "exception":
        raise ValueError("injected")
    if fault == "exit":
        sys.exit(0)
    if fault == "_exit":
        os._exit(0)
    if fault in ("SIGKILL", "SIGSEGV"):
        os.kill(os.getpid(), getattr(signal, fault))
    if fault == "torch_oom":
        raise torch.OutOfMemoryError("injected")
    if fault == "cuda_oom":
        raise RuntimeError("CUDA error: out of memory")
    if fault == "native_oom":  # bitsandbytes' word for it
        os.write(2, b"Error out of memory at line 62 in file /src/csrc/ops.cu\\n")
        os._exit(1)
    if fault == "memory_error":
        raise MemoryError
    if fault == "full_disk":
        raise OSError(28, "No space left on device")
    if fault == "nan":
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(float("nan"))
    if fault == "hang":
        time.sleep(3600)


def wrap(module):
    original, steps = module.take_step, []

    def take_step(training, micro_batches):
        steps.append(1)
        rate = repr(training.members[0].optimizer.param_groups[0]["initial_lr"])
        fault, step = PLAN.get(rate, [None, 0]) if len(training.members) == 1 else [None, 0]
        mark = os.path.join(MARKS, rate)
        if fault and len(steps) == step and not os.path.exists(mark):
            os.makedirs(mark)
            fire(fault, training.model)
        original(training, micro_batches)

    module.take_step = take_step


def wrap_packs(module):
    original = module.fit_pack

    def fit_pack(configs, *rest, logs, **named):
        def watch(rate, log):
            fault, step = PACKED.get(rate, [None, 0])
            mark = os.path.join(MARKS, "packed", rate)

            def log_and_fire(row, at):
                log(row, at)
                if fault and at == step and not os.path.exists(mark):
                    os.makedirs(mark)
                    fire(fault, None)

            return log_and_fire

        watched = [watch(repr(one.train.lr), log) for one, log in zip(configs, logs, strict=True)]
        return original(configs, *rest, logs=watched, **named)

    module.fit_pack = fit_pack


WRAPPED = {"bench.train.loop": wrap, "bench.packs.fit": wrap_packs}


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in WRAPPED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            WRAPPED[name](module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
"""


@dataclass
class Bench:
    """The command, run in ``folder`` without a W&B key and without a home of its own."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that the command gets."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        home = {"HOME": str(self.folder / "home"), "XDG_CACHE_HOME": str(self.folder / "cache")}
        return kept | home | self.variables

    def __call__(
        self, *arguments: str, module: Sequence[str] = ("bench",)
    ) -> "subprocess.CompletedProcess[str]":
        """Runs it to its end."""
        with self.start(*arguments, module=module) as process:
            out, err = process.communicate(timeout=900)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def start(self, *arguments: str, module: Sequence[str] = ("bench",)) -> "subprocess.Popen[str]":
        """Starts it in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", *module, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def inject(
        self,
        faults: Mapping[float, tuple[str, int]],
        packed: Mapping[float, tuple[str, int]] = MappingProxyType({}),
    ) -> None:
        """From now on the run with this learning rate meets this fault at this step, once; also in a pack."""
        alone, together = ({repr(rate): one for rate, one in plan.items()} for plan in (faults, packed))
        (self.folder / "injector").mkdir(exist_ok=True)
        (self.folder / "injector" / "sitecustomize.py").write_text(INJECTOR)
        self.variables |= {
            "PYTHONPATH": os.pathsep.join([str(self.folder / "injector"), *_read_pythonpath()]),
            "FAULTS": json.dumps(alone),
            "FAULTS_PACKED": json.dumps(together),
            "FAULT_MARKS": str(self.folder / "marks"),
        }

    def records(self) -> dict[float, dict[str, object]]:
        """The records in results/, by learning rate."""
        found = [json.loads(path.read_text()) for path in (self.folder / "results").rglob("result.json")]
        return {record["config"]["train"]["lr"]: record for record in found}


def _read_pythonpath() -> list[str]:
    return [one for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture(scope="module")
def shared_bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """One folder for all tests of a module."""
    return Bench(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def tiny(tiny_bert: Path, texts: Path) -> list[str]:
    """Overrides of a short run of the tiny model."""
    return [
        "model=local",
        f"model.path={tiny_bert}",
        "data=files",
        f"data.train={texts}",
        "train.max_steps=12",
        "train.warmup_steps=0",
        "train.eval_steps=6",
        "train.log_steps=2",
        "train.micro_batch_size=8",
        "train.checkpoint_steps=4",
        "track.mode=disabled",
        "sweep.pack=off",
    ]


Count = Callable[[str], dict[str, int]]


@pytest.fixture
def count() -> Count:
    """The numbers of a sweep's last line that are not 0."""

    def counts_of(stdout: str) -> dict[str, int]:
        last = stdout.splitlines()[-1]
        assert last.startswith("sweep: planned=")
        numbers = {name: int(number) for name, number in COUNT.findall(last)}
        statuses = [number for name, number in numbers.items() if name not in ("planned", "skipped")]
        assert sum(statuses) == numbers["planned"]
        return {name: number for name, number in numbers.items() if number}

    return counts_of
