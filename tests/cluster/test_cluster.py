"""Sweeps on a real SLURM and a real Ray: the same records as alone, and what dies is only what was killed."""

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.cluster

Start = Callable[[str], Any]
Count = Callable[[str], dict[str, int]]
each_engine = pytest.mark.parametrize("engine", ["slurm", "ray"])


@each_engine
def test_a_sweep_comes_to_what_it_comes_to_alone_and_is_not_run_twice(
    bench_on: Start, tiny: list[str], count: Count, engine: str
) -> None:
    command = [*tiny, "method=majority,lora", "sweep.final_seeds=[0,1]"]
    alone, bench = bench_on("local"), bench_on(engine)
    control = alone(*command)
    assert control.returncode == 0, control.stderr
    for left in bench.orders.glob("*.seen"):
        left.unlink()
    bench.order({0.001: "meet", 0.002: "meet"})
    done = bench(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert count(done.stdout) == count(control.stdout) == {"planned": 5, "success": 5}
    expected, found = alone.records(), bench.records()
    assert set(found) == set(expected)
    for run_id, record in found.items():
        assert record["metrics"] == expected[run_id]["metrics"]
        assert record["canonical_config"] == expected[run_id]["canonical_config"]
        assert set(record) == set(expected[run_id])
    if engine == "slurm":
        gpus = {bench.see(rate)["variables"]["CUDA_VISIBLE_DEVICES"] for rate in (0.001, 0.002)}
        assert gpus == {"0", "1"}

    again = bench(*command)
    assert (again.returncode, count(again.stdout)) == (0, {"planned": 5, "success": 5, "skipped": 5})
    assert bench.records() == found


@each_engine
def test_a_killed_job_is_a_crash_of_one_run_and_the_same_command_completes_it(
    bench_on: Start, tiny: list[str], count: Count, engine: str
) -> None:
    bench = bench_on(engine)
    bench.order({0.001: "kill job", 0.002: "kill run"})
    done = bench(*tiny)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert count(done.stdout) == {"planned": 3, "success": 1, "crashed": 2}, done.stdout
    errors = {record["config"]["train"]["lr"]: record["error"] for record in bench.records().values()}
    assert {"slurm": "SLURM's job", "ray": "Ray's task"}[engine] in errors[0.001]["message"]
    assert errors[0.002]["signal"] == "SIGKILL"
    assert errors[0.003] is None
    assert [record["attempt"] for record in bench.records().values()] == [1, 1, 1]

    again = bench(*tiny)
    assert (again.returncode, count(again.stdout)) == (0, {"planned": 3, "success": 3, "skipped": 1})


@each_engine
def test_an_interrupted_sweep_ends_its_jobs_in_10_s(
    bench_on: Start, tiny: list[str], count: Count, engine: str
) -> None:
    bench = bench_on(engine)
    bench.order({0.001: "hang", 0.002: "hang"})
    with bench.start(*tiny) as process:
        jobs = [bench.see(rate)["pid"] for rate in (0.001, 0.002)]
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        out, err = process.communicate(timeout=60)
    assert time.monotonic() - started < 10
    assert (process.returncode, count(out)) == (130, {"planned": 3, "interrupted": 3}), out + err
    assert "stopped; to go on: " in out
    time.sleep(5)  # a job outlives its cancelling by the time that its run takes to write it down
    assert [pid for pid in jobs if psutil.pid_exists(pid)] == []
    assert [record["status"] for record in bench.records().values()] == ["interrupted", "interrupted"]

    again = bench(*tiny)
    assert (again.returncode, count(again.stdout)) == (0, {"planned": 3, "success": 3})


@each_engine
def test_a_run_over_the_time_limit_is_ended_alone(
    bench_on: Start, tiny: list[str], count: Count, engine: str
) -> None:
    bench = bench_on(engine)
    bench.order({0.002: "hang"})
    done = bench(*tiny, "sweep.time_limit_seconds=60")
    assert (done.returncode, count(done.stdout)) == (1, {"planned": 3, "success": 2, "timeout": 1}), (
        done.stdout
    )


def test_a_job_that_scancel_ends_is_interrupted(bench_on: Start, tiny: list[str], count: Count) -> None:
    bench = bench_on("slurm")
    bench.order({0.002: "hang"})
    with bench.start(*tiny) as process:
        seen = bench.see(0.002)["variables"]
        job = f"{seen['SLURM_ARRAY_JOB_ID']}_{seen['SLURM_ARRAY_TASK_ID']}"
        subprocess.run(["scancel", job], env=seen, check=True)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, count(out)) == (1, {"planned": 3, "success": 2, "interrupted": 1}), out + err


def test_ray_starts_here_where_no_cluster_is_named(
    bench_on: Start, ray_folder: dict[str, str], count: Count
) -> None:
    bench = bench_on("local")
    bench.variables |= ray_folder
    bench.launcher = ["hydra/launcher=ray"]
    done = bench("method=majority,tfidf", "track.mode=disabled")
    assert (done.returncode, count(done.stdout)) == (0, {"planned": 2, "success": 2}), done.stderr


@pytest.mark.parametrize(
    ("engine", "wrong", "code", "message"),
    [
        ("slurm", "hydra.launcher.partition=nowhere", 2, "invalid partition"),
        ("slurm", "hydra.launcher.timeout_min=2", 2, "hydra.launcher.timeout_min=2: must be at least 5"),
        ("ray", "hydra.launcher.ray.init.address=127.0.0.1:1", 3, "address=127.0.0.1:1: "),
    ],
)
def test_what_a_cluster_cannot_do_is_one_message(
    bench_on: Start, tiny: list[str], engine: str, wrong: str, code: int, message: str
) -> None:
    bench = bench_on(engine)
    bench.launcher = bench.launcher[:1]
    done = bench(*tiny, wrong)
    assert done.returncode == code, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert bench.records() == {}


def test_slurm_without_its_commands_is_one_message(bench_on: Start, tiny: list[str], tmp_path: Path) -> None:
    bench = bench_on("local")
    bench.launcher = ["hydra/launcher=submitit_slurm"]
    bench.variables["PATH"] = str(tmp_path)
    done = bench(*tiny)
    assert done.returncode == 3, done.stderr
    assert "run this where SLURM's commands work" in done.stderr
    assert "Traceback" not in done.stderr
