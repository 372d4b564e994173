"""What table.md says of students: what their teachers cost, and what they brought beside labels alone."""

from dataclasses import replace

import pytest
from records import make_evidence, make_run, render_markdown

from bench.config.identity import hash_canonical
from bench.report.language.text import LANGUAGES
from bench.results.store import Result

TEACHER = {
    "run_id": "0123456789ab",
    "method": "LoRA",
    "model": "smollm2",
    "run_ids": ["1" * 12, "2" * 12, "3" * 12],
    "seconds": 90.0,
    "fold_seconds": 210.0,
    "accuracy": 0.91,
}
COUNTS = {"given": 100, "used": 60, "test": 20, "validation": 10, "train": 7, "duplicates": 3}


def make_student(*, test: float = 0.93, teacher: dict[str, object] | None = None) -> Result:
    run = make_run("full", test=test, train_seconds=30.0)
    run.config["method"] |= {"name": "distilled", "title": "Distilled", "distils": True}
    canonical = {**run.canonical_config, "teacher": "0123456789ab"}
    data = {**run.data, "teacher": teacher or TEACHER, "unlabelled": COUNTS}
    return replace(run, run_id=hash_canonical(canonical), canonical_config=canonical, data=data)


def make_held_out(part: int) -> Result:
    run = make_run("lora", revision="m2", test=0.99, validation=0.99)
    canonical = {**run.canonical_config, "data": {"fingerprint": "d1", "cross_fit": 3, "held_out": part}}
    return replace(run, run_id=hash_canonical(canonical), canonical_config=canonical)


def read_section(markdown: str) -> tuple[list[str], str]:
    section = markdown.partition("## Distillation\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [cell.strip() for cell in lines[-1].split("|")[1:-1]] if lines else [], section


def test_a_student_stands_beside_its_teachers_cost_and_its_gain_over_labels_alone() -> None:
    evidence = make_evidence([make_student(), make_run("full", test=0.85), make_run("lora", test=0.8)])
    cells, section = read_section(render_markdown(evidence, text=LANGUAGES["en"]))
    assert cells[:6] == [
        "Distilled",
        "LoRA on smollm2 (0123456789ab)",
        "91.0 %",
        "1 min 30 s + 3 min 30 s for 3 parts",
        "30.0 s",
        "not measured",
    ]
    assert cells[6].startswith("+8.0 (")
    assert "60 of 100 were learned from; left out: 20 in test, 10 in validation" in section


@pytest.mark.parametrize(("student", "sign"), [(0.93, "+"), (0.80, "-")])
def test_the_gain_is_the_students_less_the_other_whichever_comes_first(student: float, sign: str) -> None:
    evidence = make_evidence([make_student(test=student), make_run("full", test=0.86)])
    [pair] = evidence.comparisons
    cells, _ = read_section(render_markdown(evidence, text=LANGUAGES["en"]))
    size = abs(pair.accuracy.estimate)
    assert cells[6].startswith(f"{sign}{100 * size:.1f} (")
    numbers = [float(one) for one in cells[6].replace("(", "").replace(")", "").replace("to", "").split()]
    assert numbers[1] < numbers[0] < numbers[2]


def test_without_the_same_student_on_labels_alone_the_gain_is_unknown() -> None:
    evidence = make_evidence([make_student(), make_run("lora", test=0.8)])
    cells, _ = read_section(render_markdown(evidence, text=LANGUAGES["en"]))
    assert cells[7] == "the same student on labels alone was not trained"


def test_an_unknown_cost_is_not_zero() -> None:
    evidence = make_evidence([make_student(teacher={**TEACHER, "fold_seconds": None}), make_run("full")])
    cells, _ = read_section(render_markdown(evidence, text=LANGUAGES["en"]))
    assert cells[3] == LANGUAGES["en"]("unknown")


@pytest.mark.parametrize(
    ("fingerprint", "said"),
    [("d1", "so it has seen no test text"), ("other", "if it has seen test texts"), (None, "if it has seen")],
)
def test_an_exported_teacher_has_answered_and_may_have_seen_test_texts(
    fingerprint: str | None, said: str
) -> None:
    made = {name: value for name, value in TEACHER.items() if name not in ("accuracy", "fold_seconds")}
    teacher = {**made, "run_ids": [], "content": "c" * 16, "answer_seconds": 12.0, "fingerprint": fingerprint}
    evidence = make_evidence([make_student(teacher=teacher), make_run("full")])
    cells, section = read_section(render_markdown(evidence, text=LANGUAGES["en"]))
    assert cells[1:4] == [
        "LoRA on smollm2 (a folder of 0123456789ab)",
        LANGUAGES["en"]("unknown"),
        "1 min 30 s + 12.0 s for its answers",
    ]
    assert said in section


def test_trainings_that_predict_for_a_student_are_no_row_and_no_candidate() -> None:
    whole = make_run("lora", revision="m2", test=0.9)
    evidence = make_evidence([whole, *map(make_held_out, range(3))])
    [row] = evidence.rows
    assert (row.run_ids, row.runs) == ((whole.run_id,), 1)


def test_without_students_there_is_no_section() -> None:
    evidence = make_evidence([make_run("full"), make_run("lora")])
    assert "## Distillation" not in render_markdown(evidence, text=LANGUAGES["en"])


def test_texts_without_labels_are_named_by_their_file_where_students_had_others() -> None:
    students = []
    for name, test in (("first", 0.9), ("more", 0.95)):
        run = make_student(test=test)
        run.config["data"]["unlabelled"] = f"/texts/{name}.csv"
        data = {**run.canonical_config["data"], "unlabelled": name * 10}
        canonical = {**run.canonical_config, "data": data}
        metrics = {**run.metrics, "validation": {**run.metrics["validation"], "accuracy": test}}
        run = replace(run, run_id=hash_canonical(canonical), canonical_config=canonical, metrics=metrics)
        students.append(run)
    [row] = make_evidence(students).rows
    assert row.hyperparameters["unlabelled"] == "more.csv"
