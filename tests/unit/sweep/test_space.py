"""What a plan takes of the disks and of the machine's memory, from predictions that are given."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra_plugins.bench.sweeper import BenchSweeper

from bench.config.cards import GIB, read_cards
from bench.config.identity import identify
from bench.config.schema import Config, replace_values
from bench.errors import MissingError, StoreError
from bench.memory.prediction import Prediction
from bench.results.store import Store, start_record
from bench.sweep import forecast, overview, space
from bench.sweep.forecast import Forecast
from bench.sweep.plan import Plan, make_plan
from bench.sweep.predict import Found, Target
from bench.sweep.space import PROCESS_BYTES, Space

Compose = Callable[..., Config]
Find = Callable[..., Space]

CARD = read_cards()["rtx4090"]
TARGET = Target("cuda", CARD.name, 24 * GIB, CARD)
# Full fine-tuning's weights and states, and an adapter's.
FULL = {"trained_bytes": 12 * GIB, "optimizer_bytes": 12 * GIB, "largest_bytes": GIB, "paged_bytes": 12 * GIB}
ADAPTER = {"trained_bytes": GIB, "optimizer_bytes": 2 * GIB, "largest_bytes": GIB // 4, "paged_bytes": 0}
RUNS = (  # three of full, two of lora
    *(("method=full", f"train.lr={lr}") for lr in (0.001, 0.002, 0.003)),
    *(("method=lora", f"lora.r={r}") for r in (8, 16)),
)


def make_prediction(*, weights: int = 12 * GIB, **values: int) -> Prediction:
    return Prediction(
        device_type="cuda",
        phases={"train": {"peak_allocated_bytes": 80, "peak_reserved_bytes": 80}},
        least_bytes=80,
        parts={"weights": weights, "activations": 99 * GIB},
        parameters=6 * GIB,
        work={"micro_batch": [], "step": [], "eval": []},
        train_rows=1000,
        piece_rows=[1000],
        batch_tokens=160,
        mean_batch_tokens=100.0,
        eval_batch_tokens=10,
        eval_tokens={"validation": 10, "test": 10},
        **values,  # type: ignore[arg-type]
    )


def make(compose: Compose, *lines: str) -> Plan:
    common = ("train.max_steps=400", "train.checkpoint_steps=100", "train.micro_batch_size=16", *lines)
    expanded = [(run, compose(*common, *run)) for run in RUNS]
    return make_plan(
        expanded, lambda config: identify(config, data_fingerprint="texts", model_revision="weights")
    )


def predict(plan: Plan) -> dict[str, Found]:
    kinds = {"full": FULL, "lora": ADAPTER}
    return {point.run_id: make_prediction(**kinds[point.config.method.name]) for point in plan.points}


@pytest.fixture
def base(compose: Compose, tmp_path: Path) -> Config:
    folders = {"results_dir": f"{tmp_path}/new/results", "cache_dir": f"{tmp_path}/cache"}
    return replace_values(compose(), {**folders, "sweep.final_seeds": [0, 1, 2], "track.mode": "disabled"})


@pytest.fixture
def find(compose: Compose, base: Config, monkeypatch: pytest.MonkeyPatch) -> Find:
    """What the runs take of a disk and a memory of so many GiB."""

    def find_with(
        *lines: str,
        free: int = 1000,
        memory: tuple[int, int] = (60, 64),
        change: Callable[[Plan, dict[str, Found]], Any] = lambda *_: None,
        target: Target = TARGET,
        **settings: Any,
    ) -> Space:
        plan = make(compose, *lines)
        found = predict(plan)
        change(plan, found)
        available, total = (one * GIB for one in memory)
        known = SimpleNamespace(available=available, total=total)
        monkeypatch.setattr(space.psutil, "virtual_memory", lambda: known)
        monkeypatch.setattr(space.shutil, "disk_usage", lambda _: SimpleNamespace(free=free * GIB))
        given = replace_values(base, settings)
        return space.find_space(plan, given, Store(Path(base.results_dir)), found=found, target=target)

    return find_with


def count(found: Space) -> Mapping[str, int]:
    """The needs of the only disk, in GiB."""
    (disk,) = found.disks
    return {name: value // GIB for name, value in disk.needs.items()}


@pytest.mark.parametrize(
    ("keep", "weights", "checkpoints"),
    [
        # Three runs and two seeds of the best, of full and of lora; while a run trains three checkpoints of
        # weights, best weights and states (36), and new best weights before the old ones go (12).
        ("best", 3 * 12 + 2 * 12 + 2 + 2 + 12, 3 * 36),
        ("chosen", 3 * 12 + 3 + 12, 3 * 36),
        ("auto", 3 * 12 + 2 + 2 + 12, 3 * 36),
        ("none", 12 + 12, 3 * 36),
        ("all", 3 * 12 + 2 * 12 + 2 + 2 + 12, 3 * 36 + 3 * 2 * 36 + 2 * 2 * 4),
    ],
)
def test_weights_and_checkpoints_are_counted_as_train_keep_has_it(
    find: Find, keep: str, weights: int, checkpoints: int
) -> None:
    assert count(find(f"train.keep={keep}")) == {
        "weights": weights,
        "checkpoints": checkpoints,
        "tokens": 0,
    }


@pytest.mark.parametrize(("every", "checkpoints"), [("null", 0), ("400", 0), ("200", 36), ("100", 108)])
def test_a_training_has_as_many_checkpoints_as_it_comes_to_write(
    find: Find, every: str, checkpoints: int
) -> None:
    assert count(find(f"train.checkpoint_steps={every}"))["checkpoints"] == checkpoints


def test_runs_at_once_each_need_their_checkpoints_and_memory(find: Find) -> None:
    one, two = find(devices="0"), find(devices="0,1")
    assert count(two)["checkpoints"] == 2 * count(one)["checkpoints"]
    assert one.host is not None
    assert two.host is not None
    assert two.host.needed_bytes == 2 * one.host.needed_bytes


def test_rungs_of_halving_keep_weights_and_a_checkpoint_each(find: Find) -> None:
    # 400 steps are 67, 134, 268 and 400: of 3 runs of full 3, 2, 1 and 1, of 2 of lora 2, 1, 1 and 1.
    found = count(find("train.keep=best", "train.checkpoint_steps=null", **{"sweep.strategy": "halving"}))
    assert found["weights"] == 7 * 12 + 2 * 12 + 5 + 2 + 12
    assert found["checkpoints"] == 6 * 36 + 4 * 4


def test_what_is_done_needs_no_disk(find: Find, base: Config, compose: Compose) -> None:
    store = Store(Path(base.results_dir))
    plan = make(compose)
    for point in plan.points:
        store.write(_succeed(point.config))
    assert count(find()) == {"weights": 2 * 12 + 2, "checkpoints": 0, "tokens": 0}  # final seeds are left
    for seed in (1, 2):
        for method in ("method=full", "method=lora"):
            store.write(_succeed(compose(method, f"seed={seed}")))
    assert count(find()) == {"weights": 0, "checkpoints": 0, "tokens": 0}


def _succeed(config: Config) -> Any:
    identity = identify(config, data_fingerprint="texts", model_revision="weights")
    return dataclasses.replace(start_record(config, identity, earlier=None), status="success")


def test_a_sweep_without_the_room_is_refused_with_numbers_and_a_remedy(find: Find, base: Config) -> None:
    short = find("train.keep=best", free=183)
    message = (
        r"^disk of results_dir=\S+, cache_dir=\S+: 184\.0 GiB needed \(weights 76\.0, checkpoints 108\.0, "
        r"tokens 0\.0\), 183\.0 free: .* set train\.keep=chosen or train\.checkpoint_steps=null or another "
        r"results_dir= or another cache_dir=; plan\.force=true tries it$"
    )
    with pytest.raises(StoreError, match=message) as caught:
        space.require(short, base)
    assert caught.value.exit_code == 3
    assert space.summarise(short)[0] == str(caught.value)
    space.require(short, replace_values(base, {"plan.force": True}))
    space.require(find("train.keep=best", free=185), base)
    assert "train.keep=chosen" not in space.summarise(find("train.keep=chosen", free=1))[0]


def test_what_never_fits_the_card_writes_nothing_unless_it_is_forced(find: Find) -> None:
    def grow(plan: Plan, found: dict[str, Found]) -> None:
        for point in plan.points[:3]:
            found[point.run_id] = make_prediction(weights=25 * GIB, **FULL)

    assert count(find(change=grow))["weights"] == 2 + 2 + 1
    assert count(find(change=grow, **{"plan.force": True}))["weights"] > 36


def test_unknown_sizes_are_said_to_be_unknown(find: Find) -> None:
    def forget(plan: Plan, found: dict[str, Found]) -> None:
        found |= {point.run_id: "int8" for point in plan.points[:3]}

    found = find(change=forget)
    assert space.summarise(found)[1] == (
        "disk: the weights of 3 runs are not counted, as their size is unknown"
    )
    assert space.describe(found)["runs_of_unknown_weights"] == 3


@pytest.mark.parametrize("is_here", [True, False])
def test_a_model_that_is_not_here_is_a_download_of_estimated_size(
    find: Find, monkeypatch: pytest.MonkeyPatch, is_here: bool
) -> None:
    asked: list[str | None] = []
    monkeypatch.setattr(space.weights, "is_here", lambda model: asked.append(model.hub_id) or is_here)
    found = find("model=qwen3-8b")
    assert count(found).get("downloads") == (None if is_here else 2 * 6)
    assert asked == ["Qwen/Qwen3-8B"]  # once for all runs
    assert ("downloads 12.0 (estimated)" in space.summarise(found)[0]) is not is_here


def test_a_gguf_file_is_converted_once_into_the_cache_and_counted_until_it_is(
    find: Find, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    spaces = find("model=smollm2")
    assert count(spaces)["conversions"] == 4 * 6
    assert "conversions 24.0" in space.summarise(spaces)[0]
    assert f"XDG_CACHE_HOME={tmp_path / 'bench'}" in space.summarise(spaces)[0]
    monkeypatch.setattr(space.weights, "is_here", lambda _: True)
    assert "conversions" not in count(find("model=smollm2"))


def test_folders_on_two_file_systems_are_counted_apart(
    find: Find, base: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = Path.stat

    def pretend(path: Path, **options: Any) -> Any:
        real = stat(path, **options)
        return SimpleNamespace(st_dev=7, st_mode=real.st_mode) if path.name == "cache" else real

    Path(base.cache_dir).mkdir()
    monkeypatch.setattr(Path, "stat", pretend)
    results, cache = find().disks
    assert (results.folders, set(results.needs)) == (
        (f"results_dir={base.results_dir}",),
        {"weights", "checkpoints"},
    )
    assert (cache.folders, set(cache.needs)) == ((f"cache_dir={base.cache_dir}",), {"tokens"})
    assert 40_000 <= cache.needed_bytes < 60_000  # a thousand texts of ten tokens, as int32


@pytest.mark.parametrize(
    ("lines", "needed"),
    [
        (("model.weights=random",), 12 + 1),  # paged states, and the largest tensor while it is saved
        (("train.weights=bf16",), 12 + 1),  # the base takes 6 G weights x 2 bytes while it is read
        (("train.precision=bf16",), 24),  # full holds them in fp32
    ],
)
def test_the_machines_memory_holds_paged_states_or_a_base_that_is_read(
    find: Find, lines: tuple[str, ...], needed: int
) -> None:
    found = find(*lines)
    assert found.host is not None
    assert found.host.needed_bytes == needed * GIB + PROCESS_BYTES


def test_a_machine_with_too_little_memory_is_refused_and_one_that_is_busy_is_not(
    find: Find, base: Config
) -> None:
    lines = ("model.weights=random",)
    with pytest.raises(MissingError, match=r"^RAM: 14\.0 GiB needed .* 3\.0 of 13\.0 available: ") as caught:
        space.require(find(*lines, memory=(3, 13)), base)
    assert caught.value.exit_code == 3
    busy = find(*lines, memory=(3, 14))
    space.require(busy, base)
    assert space.summarise(busy)[-1].endswith("3.0 of 14.0 available")
    assert find(*lines, target=Target("cpu", "cpu", GIB, None)).host is None


def test_a_sweep_that_has_not_the_room_trains_nothing(
    base: Config, compose: Compose, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make(compose)
    known = Forecast(TARGET, predict(plan), {}, {}, base.report)
    monkeypatch.setattr(forecast, "forecast", lambda *_, **__: known)
    monkeypatch.setattr(forecast, "describe_plan", lambda *_: {"total_hours": None, "budget": None})
    monkeypatch.setattr(overview, "summarise", lambda *_: [])
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: SimpleNamespace(free=GIB))
    sweeper = object.__new__(BenchSweeper)
    sweeper.worker = None
    store = Store(Path(base.results_dir))
    with pytest.raises(StoreError, match=r"1\.0 free: the disk would be full"):
        sweeper._foresee(plan, base, store, [])
    assert "GiB needed" in capsys.readouterr().out
    sweeper._foresee(plan, replace_values(base, {"plan.force": True}), store, [])
