"""Verdicts, calibrated times and totals of a plan, from predictions that are given."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.config.cards import GIB, read_cards
from bench.config.identity import identify
from bench.config.schema import Config, replace_values
from bench.memory.calibration import read_measured
from bench.memory.prediction import Prediction
from bench.results.store import Result, Store, start_record
from bench.run import driver
from bench.run.driver import Device, Driver, Holder
from bench.sweep import forecast, overview, predict
from bench.sweep.isolate import Isolation
from bench.sweep.overview import tabulate
from bench.sweep.plan import Plan, make_plan
from bench.sweep.predict import FITS, TIGHT, TOO_LARGE, Calibration, Target, calibrate, find_target, foresee

Compose = Callable[..., Config]

CARD = read_cards()["rtx4090"]
TARGET = Target("cuda", CARD.name, 100, CARD)
CPU = Target("cpu", "cpu", 100, None)


def make_prediction(peak: int = 80, *, least: int | None = None, flops: float = 1e12) -> Prediction:
    return Prediction(
        device_type="cuda",
        phases={"train": {"peak_allocated_bytes": peak, "peak_reserved_bytes": peak}},
        least_bytes=peak if least is None else least,
        parts={"weights": peak // 2, "activations": peak // 2},
        paged_bytes=0,
        parameters=1000,
        trained_bytes=400,
        largest_bytes=100,
        optimizer_bytes=800,
        work={"micro_batch": [[flops, 0, "bfloat16", 1]], "step": [], "eval": [[flops, 0, "bfloat16", 1]]},
        train_rows=1000,
        piece_rows=[1000],
        batch_tokens=10,
        mean_batch_tokens=10.0,
        eval_batch_tokens=10,
        eval_tokens={"validation": 10, "test": 10},
    )


def make_small_plan(compose: Compose, *lines: str) -> Plan:
    """Full fine-tuning with three ranks, which are one run, and LoRA with two rates."""
    methods = [("method=full", f"lora.r={r}") for r in (8, 16, 32)]
    methods += [("method=lora", f"train.lr={lr}") for lr in (0.001, 0.002)]
    expanded = [(line, compose("train.max_steps=120", *line, *lines)) for line in methods]
    return make_plan(
        expanded, lambda config: identify(config, data_fingerprint="texts", model_revision="weights")
    )


def finish(plan: Plan, place: int, *, seconds: float, target: str) -> Result:
    point = plan.points[place]
    started = start_record(point.config, point.identity, earlier=None)
    times = {"train_seconds": seconds, "eval_seconds": 0.0}
    return dataclasses.replace(started, status="success", time=times, prediction={"target": target})


@pytest.mark.parametrize(
    ("peak", "least", "verdict"),
    [(90, 90, FITS), (91, 91, TIGHT), (100, 100, TIGHT), (120, 100, TIGHT), (101, 101, TOO_LARGE)],
)
def test_a_run_fits_with_a_tenth_to_spare(peak: int, least: int, verdict: str) -> None:
    assert TARGET.judge(make_prediction(peak, least=least)) == verdict


XORG = Holder(1200, "Xorg", 2 * GIB)


def make_device(name: str, gib: float, *, index: int = 0, held_gib: float = 0.0) -> Device:
    total, held = int(gib * GIB), int(held_gib * GIB)
    return Device(index, f"GPU-{index}", name, total, total - held, (XORG,) if held else ())


L4 = make_device("NVIDIA L4", 22.5)
H100 = make_device("NVIDIA H100 80GB HBM3", 79, index=1)
GT, RTX = make_device("NVIDIA GeForce GT 1030", 2), make_device("NVIDIA GeForce RTX 4090", 23.5, index=1)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The machine's own cards."""

    def make(*devices: Device) -> None:
        found = Driver("580.65.06", (13, 0), devices) if devices else None
        monkeypatch.setattr(driver, "ask", lambda: found)
        monkeypatch.setattr(driver, "read_torch_cuda", lambda: "13.0")
        monkeypatch.delenv(driver.VISIBLE, raising=False)

    return make


@pytest.mark.parametrize(
    ("lines", "devices", "name", "usable_gib"),
    [
        (["plan.card=rtx4090"], [], "rtx4090", 23.0),
        (["plan.card=rtx4090"], [GT], "rtx4090", 23.0),
        (["plan.card=rtx4090", "device_memory_gib=8"], [], "rtx4090", 8.0),
        ([], [L4], "l4", 22.0),
        (["device_memory_gib=8"], [L4], "l4", 8.0),
        ([], [make_device("NVIDIA L4", 22.5, held_gib=4)], "l4", 18.0),
        ([], [L4, H100], "h100", 78.5),  # the one that runs get
        (["devices='0,1'"], [L4, H100], "l4", 22.0),  # the smaller of those that they get
        ([], [GT, RTX], "rtx4090", 23.0),
        (["devices='0'"], [GT, RTX], "NVIDIA GeForce GT 1030", 1.5),
        ([], [make_device("NVIDIA Z9", 10)], "NVIDIA Z9", 9.5),
        (["devices='0,1'"], [L4, make_device("NVIDIA L4", 22.5, index=1, held_gib=9)], "l4", 13.0),
        ([], [make_device("NVIDIA L4", 22.5, held_gib=22.4)], "l4", 0.0),
    ],
)
def test_a_plan_is_for_what_is_free_on_the_card_that_runs_get(
    compose: Compose,
    own: Callable[..., None],
    lines: list[str],
    devices: list[Device],
    name: str,
    usable_gib: float,
) -> None:
    own(*devices)
    target = find_target(compose(*lines))
    assert (target.device_type, target.name) == ("cuda", name)
    assert target.usable_bytes == pytest.approx(usable_gib * GIB, rel=1e-6)


def test_a_plan_without_a_card_is_for_the_cpu(compose: Compose, own: Callable[..., None]) -> None:
    own(L4)
    assert find_target(compose("devices=cpu")).device_type == "cpu"
    own()
    assert find_target(compose()).device_type == "cpu"


@pytest.mark.parametrize(
    ("name", "capability", "precision"),
    [("NVIDIA Z9", (9, 0), "bf16"), ("NVIDIA Z7", (7, 5), "fp16"), ("NVIDIA Z", None, "auto")],
)
def test_a_card_that_no_table_knows_is_planned_for_in_the_precision_that_it_has(
    compose: Compose,
    own: Callable[..., None],
    name: str,
    capability: tuple[int, int] | None,
    precision: str,
) -> None:
    own(dataclasses.replace(make_device(name, 10), capability=capability))
    target = find_target(compose())
    assert target.settle(compose("train.precision=auto")).train.precision == precision
    assert target.settle(compose("train.precision=fp32")).train.precision == "fp32"


@pytest.mark.usefixtures("fake")
def test_a_plan_and_a_refusal_name_who_holds_the_cards_memory(
    compose: Compose, own: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own(GT, make_device("NVIDIA GeForce RTX 4090", 23.5, index=1, held_gib=2))
    plan = make_small_plan(compose)
    base = plan.points[0].config
    monkeypatch.setattr(forecast, "find_target", find_target)
    monkeypatch.setattr(predict, "CONTEXT_BYTES", int(21.5 * GIB) - 100)
    known = forecast.forecast(plan, base, Store(tmp_path), isolation=Isolation())
    described = forecast.describe_plan(plan, base, Store(tmp_path), known)
    lines = overview.summarise(described, known)
    assert "on rtx4090, 0.0 GiB usable while Xorg (pid 1200) holds 2.0 GiB: " in lines[1]
    assert "devices=auto takes card 1" in lines[2]
    assert described["device"]["index"] == 1
    refuse = forecast.make_refusal(known, base, isolation=Isolation())
    assert "rtx4090 has 0.0 GiB usable while Xorg (pid 1200) holds 2.0 GiB;" in str(refuse(plan.points[0], 0))


def test_what_is_not_known_says_why(compose: Compose) -> None:
    config = compose("method=lora")
    assert foresee(config, "no shapes", TARGET, {}).reason == "no shapes"
    assert foresee(config, None, TARGET, {}).fits is None
    unknown = foresee(config, make_prediction(), CPU, {})
    assert (unknown.fits, unknown.seconds) == (True, None)
    assert "no run has finished yet" in str(unknown.reason)


def test_time_is_a_lower_bound_until_runs_have_finished(compose: Compose) -> None:
    plan = make_small_plan(compose)
    found = {point.run_id: make_prediction() for point in plan.points}
    config = plan.points[0].config
    # 120 steps, and 3 evaluations of validation and one of test, as long as a step each.
    least = (120 + 3 + 1) * 1e12 / CARD.flops_per_second["bf16"]
    assert foresee(config, found[plan.points[0].run_id], TARGET, {}).seconds == pytest.approx(least)
    results = [
        finish(plan, 0, seconds=3 * least, target="rtx4090"),
        finish(plan, 1, seconds=2 * least, target="rtx4090"),
        finish(plan, 2, seconds=9 * least, target="l4"),  # another card
    ]
    known = calibrate(results, plan.points, found, TARGET)
    assert (known[""].ratio, known[""].runs) == (pytest.approx(2.5), 2)
    assert known[""].error == pytest.approx(0.2)
    for place, ratio in ((0, 3), (1, 2), (2, 2)):  # each method by its own runs
        point = plan.points[place]
        outlooked = foresee(point.config, found[point.run_id], TARGET, known)
        assert outlooked.seconds == pytest.approx(ratio * least)


def test_a_run_is_compared_with_the_work_that_it_had(compose: Compose) -> None:
    plan = make_small_plan(compose)
    found = {point.run_id: make_prediction() for point in plan.points}
    result = finish(plan, 0, seconds=60.0, target="rtx4090")
    result.prediction["cost"] = {"train": 20.0, "eval": 10.0}  # an earlier version read each prompt again
    assert calibrate([result], plan.points, found, TARGET)[""].ratio == pytest.approx(2.0)


def test_on_a_cpu_finished_runs_alone_tell_the_time(compose: Compose) -> None:
    plan = make_small_plan(compose)
    found = {point.run_id: make_prediction() for point in plan.points}
    known = calibrate([finish(plan, 1, seconds=60.0, target="cpu")], plan.points, found, CPU)
    other = plan.points[2]
    assert foresee(other.config, found[other.run_id], CPU, known).seconds == pytest.approx(60.0)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Predictions of 40 bytes and 4 for each text; 8-bit optimizers and checkpointing save 30 each."""
    asked: list[Config] = []

    def predict_each(points: Any, *_: Any) -> list[Prediction | str]:
        asked.extend(point.config for point in points)
        return [one(point.config) for point in points]

    def one(config: Config) -> Prediction | str:
        saved = 30 * config.train.gradient_checkpointing + 30 * ("8bit" in config.train.optimizer)
        activations = 4 * config.train.micro_batch_size
        fixed = (90 if config.method.trainable == "all" else 40) - saved
        prediction = make_prediction(fixed + activations)
        return dataclasses.replace(prediction, parts={"weights": fixed, "activations": activations})

    monkeypatch.setattr(predict, "predict_each", predict_each)
    monkeypatch.setattr(forecast, "predict_each", predict_each)
    monkeypatch.setattr(forecast, "find_target", lambda _: TARGET)
    return asked


@pytest.mark.usefixtures("fake")
def test_a_plan_adds_up(compose: Compose, tmp_path: Path) -> None:
    plan = make_small_plan(compose, "train.micro_batch_size=8", "report.price_per_hour=3")
    store = Store(tmp_path)
    known = forecast.forecast(plan, plan.points[0].config, store, isolation=Isolation())
    described = forecast.describe_plan(plan, plan.points[0].config, store, known)
    hours = (120 + 3 + 1) * 1e12 / CARD.flops_per_second["bf16"] / 3600
    assert (described["combinations"], described["distinct"]) == (5, 3)
    assert described["total_hours"] == pytest.approx(3 * hours)
    assert described["naive_hours"] == pytest.approx(5 * hours)
    assert described["distinct_hours"] == pytest.approx(3 * hours)
    # Both LoRA runs for 18 steps and an evaluation, and then one of them to its end and its test.
    assert described["halving_hours"] == pytest.approx(hours * (1 + (2 * 19 + 105) / 124))
    assert described["rungs"] == []
    halves = replace_values(plan.points[0].config, {"sweep.strategy": "halving", "sweep.pack": 2})
    halved = forecast.describe_plan(plan, halves, store, known)
    assert halved["rungs"] == [{"method": "lora", "steps": [18, 36, 72, 120], "runs": [2, 1, 1, 1]}]
    # In a pack, and the one that is left begins anew; the other method's only run trains as ever.
    assert halved["total_hours"] == pytest.approx(hours * (1 + 2 * 19 / 124 + 1))
    assert described["kwh"] == pytest.approx(3 * hours * 0.45)
    assert described["cost"] == pytest.approx(9 * hours)
    assert [run["fits"] for run in described["runs"]] == [False, True, True]
    assert [run["predicted_peak_reserved_bytes"] for run in described["runs"]] == [122, 72, 72]
    assert "1 do not fit, 2 fit" in overview.summarise(described, known)[1]


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("finished", [False, True])
def test_hours_energy_and_cost_are_the_least_until_a_run_has_finished(
    compose: Compose, tmp_path: Path, finished: bool
) -> None:
    plan = make_small_plan(compose, "train.micro_batch_size=8", "report.price_per_hour=3")
    known = forecast.forecast(plan, plan.points[0].config, Store(tmp_path), isolation=Isolation())
    if finished:
        known = dataclasses.replace(known, calibrations={"": Calibration(1.0, 0.05, 2)})
    described = forecast.describe_plan(plan, plan.points[0].config, Store(tmp_path), known)
    bound, other = ("about", "at least") if finished else ("at least", "about")
    [line] = [line for line in overview.summarise(described, known) if line.startswith("time: ")]
    assert line.count(bound) == 6  # to go, kWh, cost, and three other ways
    assert f"cost {bound} " in line
    header, _ = tabulate(plan, described)
    lines = [line, *overview.list_runs(plan, described), header[-1]]
    assert all(bound in one and other not in one for one in lines)


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(("devices", "slots"), [("0", 1), ("0,1", 2)])
def test_several_devices_share_the_teachers_hours(
    compose: Compose, tmp_path: Path, devices: str, slots: int
) -> None:
    plan = make_small_plan(compose, "train.micro_batch_size=8")
    plan = dataclasses.replace(plan, points=plan.points[:1], teachers=plan.points[1:])
    base = replace_values(plan.points[0].config, {"devices": devices, "sweep.hours": 1.0})
    known = forecast.forecast(plan, base, Store(tmp_path), isolation=Isolation())
    budget = forecast.describe_plan(plan, base, Store(tmp_path), known)["budget"]
    hours = (120 + 3 + 1) * 1e12 / CARD.flops_per_second["bf16"] / 3600
    assert budget["teachers_hours"] == pytest.approx(2 * hours / slots)


@pytest.mark.usefixtures("fake")
def test_advice_is_tried(compose: Compose, tmp_path: Path) -> None:
    plan = make_small_plan(compose, "train.micro_batch_size=8")

    def recompose(lines: Any) -> Config:
        return compose("train.max_steps=120", "train.micro_batch_size=8", *lines)

    known = forecast.forecast(plan, plan.points[0].config, Store(tmp_path), isolation=Isolation())
    full, lora = forecast.advise(plan, known, compose=recompose, isolation=Isolation())
    assert (full.method, full.largest_micro_batch) == ("full", None)  # 90 + 4 is more than 90
    assert full.remedies[0] == ("train.gradient_checkpointing=true",)
    assert ("method=qlora",) in full.remedies
    assert not any(
        len(lines) == 2 and set(one) < set(lines) for lines in full.remedies for one in full.remedies
    )
    assert (lora.method, lora.largest_micro_batch, lora.remedies) == ("lora", 8, ())


def test_a_sweep_refuses_what_cannot_fit_unless_it_is_forced(compose: Compose, fake: list[Config]) -> None:
    plan = make_small_plan(compose, "train.micro_batch_size=8")
    known: Any = SimpleNamespace(target=TARGET)
    full, lora, _ = plan.points
    refuse = forecast.make_refusal(known, full.config, isolation=Isolation())
    assert "would take 0.0 GiB with train.micro_batch_size=8" in str(refuse(full, 0))
    assert refuse(lora, 0) is None
    assert fake[-1].train.micro_batch_size == 8
    assert refuse(full, 2) is None  # 90 + 8 fits tightly
    assert fake[-1].train.micro_batch_size == 2
    forced = compose("plan.force=true")
    assert forecast.make_refusal(known, forced, isolation=Isolation())(full, 0) is None
    on_cpu: Any = SimpleNamespace(target=CPU)
    assert forecast.make_refusal(on_cpu, full.config, isolation=Isolation())(full, 0) is None


def write_check(folder: Path, *, card: str = "rtx4090", written_at: str = "2030-01-02T03:04:05.678") -> None:
    """What gpu-check found of LoRA: twice the time at full speed to train, and five times to evaluate."""
    row = {"family": "adapter none False", "ratio": 2.0, "eval_ratio": 5.0}
    folder.mkdir(parents=True, exist_ok=True)
    report = {"card": card, "written_at": written_at, "calibration": [row]}
    (folder / f"{card}.json").write_text(json.dumps(report))


@pytest.mark.usefixtures("fake")
def test_gpu_check_tells_the_time_until_runs_have_finished(compose: Compose, tmp_path: Path) -> None:
    plan = make_small_plan(compose, "train.micro_batch_size=8")
    base, store = plan.points[0].config, Store(tmp_path / "results" / "mine")
    write_check(tmp_path / "results" / "gpu", card="l4")
    unit = 1e12 / CARD.flops_per_second["bf16"]
    full, lora, _ = plan.points

    def foresee_all() -> tuple[dict[str, float | None], str]:
        known = forecast.forecast(plan, base, store, isolation=Isolation())
        told = overview.summarise(forecast.describe_plan(plan, base, store, known), known)[2]
        return {name: one.seconds for name, one in known.outlooks.items()}, told

    seconds, told = foresee_all()
    assert seconds[lora.run_id] == pytest.approx((120 + 4) * unit)  # another card's says nothing
    assert "at the card's full speed" in told
    write_check(tmp_path / "results" / "gpu")
    seconds, told = foresee_all()
    for point in (full, lora):  # of another family the same is guessed
        assert seconds[point.run_id] == pytest.approx((2 * 120 + 5 * 4) * unit)
    assert "about" in told
    assert "(as measured by gpu-check on 2030-01-02)" in told
    store.prepare()
    store.write(finish(plan, 0, seconds=3 * (120 + 4) * unit, target="rtx4090"))
    seconds, told = foresee_all()
    assert seconds[full.run_id] == pytest.approx(3 * (120 + 4) * unit)
    assert seconds[lora.run_id] == pytest.approx((2 * 120 + 5 * 4) * unit)
    assert "(as 1 finished run took; other methods as measured by gpu-check on 2030-01-02)" in told


def test_a_report_that_cannot_be_read_calibrates_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_check(tmp_path)
    assert {*read_measured(tmp_path, "rtx4090")} == {"adapter none False", ""}
    (tmp_path / "rtx4090.json").write_text("{")
    assert read_measured(tmp_path, "rtx4090") == {}
    assert "rtx4090.json" in caplog.text
    assert read_measured(tmp_path / "nowhere", "rtx4090") == {}
