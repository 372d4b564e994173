"""A model of the hub without a commit is pinned in a sweep's first process; the cache is made by hand."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Bench = Any  # tests/e2e/conftest.py

COMMITS = ("0123456789abcdef0123456789abcdef01234567", "89abcdef0123456789abcdef0123456789abcdef")


@pytest.fixture
def cached(bench: Bench, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny model as a download of main leaves it, and the command to look there and nowhere else."""
    home = bench.folder / "hf"
    repository = home / "hub" / "models--owner--tiny"
    shutil.copytree(tiny_bert, repository / "snapshots" / COMMITS[0])
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMITS[0])
    bench.variables |= {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return repository


@pytest.mark.slow
def test_every_run_of_a_sweep_has_the_commit_that_the_cache_calls_main(
    bench: Bench, tiny: list[str], cached: Path, count: Callable[[str], dict[str, int]]
) -> None:
    model = ["model=hub", "model.hub_id=owner/tiny"]
    overrides = [*(line for line in tiny if not line.startswith("model")), *model, "method=full,lora"]
    done = bench("sweep", *overrides)
    assert (done.returncode, count(done.stdout)) == (0, {"planned": 2, "success": 2}), done.stderr
    records = [json.loads(path.read_text()) for path in bench.folder.rglob("result.json")]
    assert [record["config"]["model"]["revision"] for record in records] == [COMMITS[0]] * 2
    assert {record["canonical_config"]["model"]["revision"] for record in records} == {
        f"owner/tiny@{COMMITS[0]}"
    }
    assert {record["provenance"]["model_revision"] for record in records} == {f"owner/tiny@{COMMITS[0]}"}
    again = bench("sweep", *overrides)
    assert count(again.stdout) == {"planned": 2, "success": 2, "skipped": 2}
    (cached / "refs" / "main").write_text(COMMITS[1])  # something has downloaded a newer one
    shutil.copytree(cached / "snapshots" / COMMITS[0], cached / "snapshots" / COMMITS[1])
    planned = json.loads(bench("plan", "--json", *overrides).stdout)
    assert (planned["done"], planned["remaining"]) == (0, 2)


@pytest.mark.parametrize("command", ["run", "plan", pytest.param("sweep", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("cached")
def test_a_model_that_is_nowhere_is_named(bench: Bench, command: str) -> None:
    done = bench(command, "model=qwen3-0.6b", "track.mode=disabled")
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.startswith("model.hub_id=Qwen/Qwen3-0.6B: not on this machine, ")
    assert len(done.stderr.splitlines()) == 1
    assert not (bench.folder / "results").exists()
