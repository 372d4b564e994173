"""A sweep trains what predicts for students before them, and says what cannot teach."""

import dataclasses
import json
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd
import pytest
from sweeps import Compose, Trainer, record

from bench.config.checks import check
from bench.config.schema import Config, replace_values
from bench.errors import BenchError, ConfigError, MissingError
from bench.model import weights
from bench.results.store import Result, Store
from bench.run.manifest import Manifest
from bench.run.teacher import teach
from bench.sweep.engine import Sweep
from bench.sweep.plan import Plan, Point
from bench.sweep.request import Identifier, Teachers, plan_request, require_hours
from bench.sweep.search.hours import TimeBudget
from bench.sweep.search.turns import rehearse

LABELS = ["债券", "外汇", "股市"]
Ask = Callable[..., tuple[Config, Plan]]


@pytest.fixture
def lines(texts: Path, tmp_path: Path) -> list[str]:
    """Settings that a teacher and its students share."""
    more = ["track.mode=disabled", "distillation.folds=3", "train.max_length=32"]
    return ["data=files", f"data.train={texts}", f"results_dir={tmp_path}/results", *more]


@pytest.fixture
def identify(compose: Compose) -> Identifier:
    """Run ids without a look at weights."""
    models = ("minilm", "smollm2")
    revisions = {repr(compose(f"model={name}").model): name for name in models}
    return Identifier(revisions=revisions, readable=_Everything())


class _Everything(set[tuple[str, str]]):
    """No tokenizer is asked whether it can read the texts."""

    def __contains__(self, _: object) -> bool:
        return True


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


@pytest.fixture
def ask(compose: Compose, lines: list[str], identify: Identifier) -> Ask:
    """The plan of a sweep with further overrides."""

    def ask_for(*more: str) -> tuple[Config, Plan]:
        return plan_request([*lines, *more], compose=lambda given: compose(*given), identify=identify)

    return ask_for


@pytest.fixture
def teacher(ask: Ask, store: Store) -> Result:
    """A success of LoRA on smollm2, with settings of its own."""
    _, plan = ask(
        "method=lora", "model=smollm2", "lora.r=4", "seed=5", "train.max_steps=7", "train.warmup_steps=1"
    )
    [point] = plan.points
    made = dataclasses.replace(record(point, "success"), labels=LABELS)
    store.write(made)
    return made


def test_the_teachers_parts_have_its_settings_and_the_students_texts(
    ask: Ask, teacher: Result, compose: Compose
) -> None:
    _, plan = ask(
        "method=distilled", "teacher=best:lora", "distillation.weight=0.3,0.7", "train.max_steps=40"
    )
    assert len(plan.points) == 2
    assert {point.config.teacher for point in plan.points} == {teacher.run_id}
    assert [point.config.data.held_out for point in plan.teachers] == [0, 1, 2]
    assert plan.every == (*plan.teachers, *plan.points)
    for point in plan.teachers:
        config = point.config
        assert (config.method.name, config.lora.r, config.seed, config.train.max_steps) == ("lora", 4, 5, 7)
        assert config.model.name == "smollm2"
        assert (config.data.train, config.data.cross_fit) == (plan.points[0].config.data.train, 3)
        assert check(config) == []
        assert compose(*point.overrides) == config  # as the sweep's jobs compose it
    assert len({point.run_id for point in plan.every} | {teacher.run_id}) == 6


@pytest.mark.usefixtures("teacher")
def test_a_sweep_trains_them_first_and_once_and_goes_on_where_it_was_killed(
    ask: Ask, compose: Compose, identify: Identifier, store: Store
) -> None:
    base, plan = ask("method=distilled,full", "teacher=best:lora", "distillation.weight=0.3,0.7")
    teachers = Teachers(lambda given: compose(*given), identify)
    dies = iter([True])

    def end(point: Point) -> str | None:
        if point.config.method.distils and next(dies, False):
            raise KeyboardInterrupt
        return "success"

    first = Trainer(store, status=end)
    with pytest.raises(KeyboardInterrupt):
        Sweep(plan, base, first, identify, teach=teachers).run()
    assert [point.config.data.held_out for point in first.jobs[0]] == [0, 1, 2]
    assert all(point.config.data.held_out is None for point in first.jobs[1])
    second = Trainer(store)
    outcome = Sweep(plan, base, second, identify, teach=teachers).run()
    assert all(point.config.data.held_out is None for job in second.jobs for point in job)
    assert (outcome.planned, outcome.statuses["success"]) == (len(plan.every), len(plan.every))
    third = Trainer(store)
    assert Sweep(plan, base, third, identify, teach=teachers).run().skipped == len(plan.every)
    assert third.jobs == []


def test_the_hours_bound_the_teachers_parts_too_which_no_method_pays_for(
    ask: Ask, compose: Compose, identify: Identifier, store: Store, teacher: Result
) -> None:
    store.write(dataclasses.replace(teacher, time={"total_seconds": 12.0}))
    more = ["sweep.final_seeds=[0,1]", "sweep.pack=off", f"sweep.hours={47 / 3600}"]
    weights = "distillation.weight=0.1,0.3,0.5,0.7,0.9"
    base, plan = ask("method=distilled", f"teacher='{teacher.run_id}'", weights, *more)
    assert {plan.guess_seconds(point) for point in plan.teachers} == {12.0}
    assert plan.guess_seconds(plan.points[0]) is None
    takes = {True: 5.0, False: 10.0}
    known = TimeBudget(
        47.0, base.sweep, predict=lambda one: takes[one.config.method.distils], clock=lambda: 0.0
    )
    assert [len(left) for left in (rehearse(plan, known, limits={}) or {}).values()] == [
        3
    ]  # as the plan says
    trainer = Trainer(store, seconds=lambda point: 5.0 if point.config.method.distils else 10.0)
    teachers = Teachers(lambda given: compose(*given), identify)
    sweep = Sweep(plan, base, trainer, identify, teach=teachers, clock=lambda: trainer.now)
    sweep.run()
    # Three parts, two students, and a seed more of the better one; for a part no time of seeds is kept.
    names = ["student" if point.config.method.distils else "part" for job in trainer.jobs for point in job]
    assert names == ["part"] * 3 + ["student"] * 3
    assert [point.config.seed for point in trainer.jobs[-1]] == [1]
    assert sweep.budget.spent == pytest.approx(45.0)
    assert len(sweep.list_untried()) == 3


@pytest.mark.usefixtures("teacher")
def test_a_student_whose_teacher_has_no_time_leaves_it_to_one_that_needs_none(
    ask: Ask, identify: Identifier, store: Store
) -> None:
    base, plan = ask("method=distilled", "teacher=best:lora", "distillation.weight=0.3,0.7")
    costly, free = plan.points

    def teach_one(points: Iterable[Point]) -> list[Point]:
        return [*plan.teachers] if costly in points else []

    sweep = Sweep(plan, base, Trainer(store), identify, teach=teach_one)
    takes = {True: 5.0, False: 10.0}
    sweep.budget = TimeBudget(
        20.0, base.sweep, predict=lambda one: takes[one.config.method.distils], clock=lambda: 0.0
    )
    assert sweep._afford(plan.points) == [free]


@pytest.mark.parametrize(
    ("hours", "spent", "needed", "told"),
    [
        (2.5, 0.0, 3.0, r"2\.5 h in all, and the .* take about 3\.0 h; give more than 3\.0 h, or fewer"),
        (
            3.0,
            2.0,
            2.5,
            r"3\.0 h in all, 2\.0 h of them spent, and .* take about 2\.5 h; give more than 4\.5 h",
        ),
    ],
)
def test_hours_that_do_not_hold_the_teacher_are_refused_before_it_trains(
    hours: float, spent: float, needed: float, told: str
) -> None:
    budget = {"hours": hours, "spent_hours": spent, "teachers_hours": needed}
    with pytest.raises(ConfigError, match=told):
        require_hours({"budget": budget})
    for other in ({**budget, "hours": 24.0}, {**budget, "teachers_hours": 0.0}, None):
        require_hours({"budget": other})
    require_hours({"budget": {**budget, "teachers_hours": None}})  # unknown


def test_a_best_of_the_students_own_model_is_no_teacher(ask: Ask, store: Store) -> None:
    _, plan = ask("method=lora", "model=minilm")
    store.write(dataclasses.replace(record(plan.points[0], "success"), labels=LABELS))
    with pytest.raises(ConfigError, match="no success of method=lora with another base model on these texts"):
        ask("method=distilled", "teacher=best:lora", "model=minilm")


def change_method(made: Result, **fields: object) -> Result:
    return dataclasses.replace(made, config={**made.config, "method": {**made.config["method"], **fields}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda made: dataclasses.replace(made, labels=["a", "b"]),
            "its labels are a, b, the student's are 债券",
        ),
        (
            lambda made: dataclasses.replace(made, labels=LABELS[::-1]),
            "both must have the same, in one order",
        ),
        (lambda made: dataclasses.replace(made, status="oom"), "it as oom, and only a success can teach"),
        (lambda made: change_method(made, distils=True), "was taught itself"),
        (lambda made: change_method(made, estimator="tfidf"), "trains no network"),
    ],
)
def test_a_run_that_cannot_teach_is_refused(
    ask: Ask, teacher: Result, store: Store, change: Callable[[Result], Result], message: str
) -> None:
    (store.run_folder(teacher.run_id) / "result.json").unlink()
    store.write(change(teacher))
    with pytest.raises(ConfigError, match=message):
        ask("method=distilled", f"teacher='{teacher.run_id}'")


def test_a_teacher_of_other_texts_is_refused(ask: Ask, teacher: Result) -> None:
    with pytest.raises(ConfigError, match="it was trained on other texts or splits"):
        ask("method=distilled", f"teacher='{teacher.run_id}'", "data.split_seed=1")


def test_what_names_no_teacher_is_refused(ask: Ask, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no bench.json; give a folder that `bench export` has made"):
        ask("method=distilled", f"teacher={tmp_path}")
    with pytest.raises(
        ConfigError, match="must be a run_id of 12 hexadecimal digits, best:METHOD, or a folder"
    ):
        ask("method=distilled", "teacher=somebody")
    with pytest.raises(ConfigError, match="has no such run"):
        ask("method=distilled", "teacher=abcdefabcdef")
    with pytest.raises(ConfigError, match="teacher=null: method=distilled learns from another run"):
        ask("method=distilled")


@pytest.fixture
def unlabelled(tmp_path: Path) -> Path:
    path = tmp_path / "more.csv"
    path.write_text("text\n一\n二\n", encoding="utf-8")
    return path


def write_folder(folder: Path, **said: object) -> Path:
    """An exported folder as far as a plan looks at it."""
    folder.mkdir()
    base = dict.fromkeys(("source", "path", "hub_id", "revision")) | {"name": "smollm2", "content": "w"}
    values: dict[str, object] = dict.fromkeys(field.name for field in dataclasses.fields(Manifest))
    values |= {"labels": LABELS, "run_id": "0" * 12, "method": "lora", "base": base, "version": 1}
    values |= {"pairs": False, **said}
    (folder / "bench.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


def test_a_folder_is_pinned_by_its_content_and_needs_no_parts(
    ask: Ask, tmp_path: Path, unlabelled: Path
) -> None:
    def plan_with(folder: Path) -> Plan:
        more = [f"teacher={folder}", f"data.unlabelled={unlabelled}", "distillation.folds=2,5"]
        return ask("method=distilled", *more)[1]

    folder = write_folder(tmp_path / "teacher@home")
    plan = plan_with(folder)
    [point] = plan.points  # whatever the folds, of which there are none
    assert plan.teachers == ()
    assert str(point.config.teacher).startswith(f"{folder}@")
    assert str(folder) not in json.dumps(point.identity.canonical)
    moved = folder.rename(tmp_path / "moved")
    (moved / "README.md").write_text("a card", encoding="utf-8")
    assert plan_with(moved).points[0].run_id == point.run_id
    (moved / "adapter_model.safetensors").write_bytes(b"others")
    assert plan_with(moved).points[0].run_id != point.run_id


def test_a_run_stays_the_teacher_whatever_folders_there_are(
    ask: Ask, teacher: Result, tmp_path: Path, unlabelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / teacher.run_id)
    for name in (teacher.run_id, "best:lora"):
        _, plan = ask("method=distilled", f"teacher='{name}'", f"data.unlabelled={unlabelled}")
        assert plan.points[0].config.teacher == teacher.run_id
        assert len(plan.teachers) == 3
    write_folder(tmp_path / "abcdefabcdef")
    with pytest.raises(ConfigError, match=r"; the folder of this name is teacher=\./abcdefabcdef"):
        ask("method=distilled", "teacher=abcdefabcdef")
    _, plan = ask("method=distilled", "teacher=./abcdefabcdef", f"data.unlabelled={unlabelled}")
    assert plan.teachers == ()


def test_a_plan_says_once_what_a_folder_is_asked_and_what_is_not_known_of_it(
    ask: Ask, tmp_path: Path, unlabelled: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_folder(tmp_path / "teacher")
    more = [f"teacher={folder}", f"data.unlabelled={unlabelled}", "distillation.weight=0.3,0.7"]
    ask("method=distilled", *more)
    [said] = [one for one in caplog.messages if one.startswith(f"teacher={folder}: ")]
    assert "answers the 2 texts without labels alone" in said
    assert said.endswith("so it may have seen test texts")


def test_a_pinned_folder_that_is_gone_is_said_to_be(ask: Ask, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"teacher={tmp_path}/gone: there is no such folder; give one that"):
        ask("method=distilled", f"teacher={tmp_path}/gone@{'0' * 16}")


def test_a_folder_that_is_no_export_is_not_read_through(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "hash_folder", lambda _: pytest.fail("it may hold anything"))
    with pytest.raises(ConfigError, match=r"holds no bench.json"):
        ask("method=distilled", f"teacher={tmp_path}")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"labels": LABELS[::-1]}, "its labels are 股市, 外汇, 债券, the student's are 债券, 外汇, 股市"),
        ({"pairs": True}, "it reads pairs of texts, the student reads one"),
        ({"thresholds": [0.5, 0.5, 0.5]}, "it answers with several labels a text"),
        ({"tasks": {"one": LABELS}}, "it answers with several tasks"),
        ({"labels": None}, r"bench\.json: cannot be read \(it has no labels\); export the run again"),
        ({"labels": 3}, r"bench\.json: cannot be read \(its labels is 3, which no run writes there\)"),
        ({"seconds": "long"}, r"bench\.json: cannot be read \(its seconds is 'long'"),
    ],
)
def test_a_folder_that_cannot_teach_is_refused(
    ask: Ask, tmp_path: Path, unlabelled: Path, said: dict[str, object], message: str
) -> None:
    folder = write_folder(tmp_path / "teacher", **said)
    with pytest.raises(ConfigError, match=message) as raised:
        ask("method=distilled", f"teacher={folder}", f"data.unlabelled={unlabelled}")
    assert raised.value.exit_code == 2


def test_a_folder_without_texts_to_answer_is_refused(ask: Ask, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="so it answers texts without labels alone; give some"):
        ask("method=distilled", f"teacher={write_folder(tmp_path / 'teacher')}")


@pytest.mark.usefixtures("teacher")
def test_a_missing_part_is_named_with_the_command_that_makes_it(ask: Ask, identify: Identifier) -> None:
    _, plan = ask("method=distilled", "teacher=best:lora", "distillation.weight=0.3")
    config = plan.points[0].config
    with pytest.raises(MissingError, match="3 of the 3 trainings that predict for its students") as raised:
        teach(config, identify.load(config))
    command = str(raised.value).partition("trains them first: ")[2]
    words = shlex.split(command)
    assert words[:3] == ["bench", "sweep", "method=distilled"]
    _, again = ask(*words[2:])
    assert [point.run_id for point in again.points] == [plan.points[0].run_id]


def write_parts(plan: Plan, store: Store, identify: Identifier) -> None:
    """What the teacher's trainings leave: of a held-out text a probability that its id decides."""
    for part, point in enumerate(plan.teachers):
        held = identify.load(point.config).splits["train"]
        rows = held[held.index % 3 == part]
        sure = 0.5 + 0.001 * rows["id"].to_numpy()
        values = {f"probability_{name}": (1 - sure) / 2 for name in LABELS[1:]}
        frame = pd.DataFrame({"split": "held_out", "id": rows["id"], "label": "", "prediction": ""})
        done = record(point, "success")
        store.write(dataclasses.replace(done, time={"total_seconds": 10.0}))
        store.write_predictions(point.run_id, frame.assign(**{f"probability_{LABELS[0]}": sure}, **values))


@pytest.mark.usefixtures("teacher")
def test_a_train_text_has_what_the_training_without_it_said_and_all_are_the_cost(
    ask: Ask, identify: Identifier, store: Store
) -> None:
    _, plan = ask("method=distilled", "teacher=best:lora")
    write_parts(plan, store, identify)
    config = plan.points[0].config
    taught = teach(config, identify.load(config)).teaching
    assert taught is not None
    ids = identify.load(config).splits["train"]["id"]
    assert taught.probabilities[:, 0] == pytest.approx(0.5 + 0.001 * ids.to_numpy(), rel=1e-5)
    assert taught.described["fold_seconds"] == 30.0
    assert taught.described["run_ids"] == [point.run_id for point in plan.teachers]


@pytest.mark.usefixtures("teacher")
def test_predictions_that_lack_a_text_are_refused(ask: Ask, identify: Identifier, store: Store) -> None:
    _, plan = ask("method=distilled", "teacher=best:lora")
    write_parts(plan, store, identify)
    first = plan.teachers[0].run_id
    store.write_predictions(first, store.read_predictions(first).iloc[1:])
    config = plan.points[0].config
    with pytest.raises(BenchError, match="lacks a text or a label"):
        teach(config, identify.load(config))


def test_a_student_has_one_label_a_text_a_head_and_one_loss(compose: Compose) -> None:
    config = compose("method=distilled", "teacher=best:lora")
    for path, value in {
        "task": "label_likelihood",
        "train.loss": "focal",
        "data.multi_label": True,
        "data.held_out": 0,
        "distillation.weight": 1.5,
        "distillation.temperature": 0.0,
        "distillation.folds": 1,
    }.items():
        assert any(
            path in fault or "method.distils" in fault
            for fault in check(replace_values(config, {path: value}))
        )
