"""A folder that is asked about texts: what its process is given, and answers that are none."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import bench
from bench.errors import MissingError
from bench.run import driver, exported

PINNED = f"teacher@{'0' * 16}"
TEXTS = ["股市上涨", ("one", "二")]
ROWS = [[0.25, 0.75], [0.5, 0.5]]


@dataclass
class Answering:
    """A process that answers with these rows, and what it was given."""

    rows: list[list[float]]
    given: list[str] = field(default_factory=list)

    def __call__(self, command: list[str], *, input: str, **_: Any) -> Any:
        """Stand for subprocess.run."""
        self.given.append(input)
        Path(command[-1]).write_text(json.dumps(self.rows))
        return SimpleNamespace(returncode=0, stderr="")


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Answering:
    made = Answering(ROWS)
    monkeypatch.setattr(subprocess, "run", made)
    return made


def ask(folder: Path) -> list[list[float]]:
    answers = exported.ask(PINNED, TEXTS, labels=2, devices="cpu", cache_dir=str(folder))
    rows: list[list[float]] = answers.probabilities.tolist()
    return rows


def test_answers_are_kept_and_texts_pass_whatever_the_encoding_of_a_process(
    answering: Answering, tmp_path: Path
) -> None:
    assert ask(tmp_path) == ask(tmp_path) == ROWS
    [given] = answering.given
    assert given.isascii()
    assert json.loads(given) == ["股市上涨", ["one", "二"]]


@pytest.mark.parametrize(
    "damaged", ["", "[]", '{"probabilities": [[NaN, NaN], [0.5, 0.5]], "seconds": 1}', '{"seconds": 1}']
)
def test_damaged_answers_are_asked_for_again(
    answering: Answering, tmp_path: Path, damaged: str, caplog: pytest.LogCaptureFixture
) -> None:
    ask(tmp_path)
    [kept] = (tmp_path / "answers").iterdir()
    kept.write_text(damaged)
    assert ask(tmp_path) == ROWS
    assert len(answering.given) == 2
    assert "the teacher is asked again" in caplog.text


def test_answers_that_are_no_probabilities_are_refused_and_not_taken_for_texts_that_were_not_asked(
    answering: Answering, tmp_path: Path
) -> None:
    answering.rows = [[float("nan")] * 2, [0.5, 0.5]]
    with pytest.raises(MissingError, match="other than probabilities, as damaged weights do; export the run"):
        ask(tmp_path)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("code", "said", "why"),
    [
        (-9, "a warning", "its process was killed by SIGKILL"),
        (3, "a warning\nthe base is gone", "the base is gone"),
        (1, "", "its process ended with 1"),
    ],
)
def test_a_folder_that_cannot_answer_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, said: str, why: str
) -> None:
    ended = SimpleNamespace(returncode=code, stderr=said)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: ended)
    with pytest.raises(MissingError, match=f"cannot answer the texts of data.unlabelled: {why}"):
        ask(tmp_path)


def test_a_folder_answers_on_the_processor_where_that_is_meant(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []

    def load(_: str) -> Any:
        seen.append(os.environ.get(driver.VISIBLE))
        return SimpleNamespace(predict=list)

    monkeypatch.setattr(bench, "load", load)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(read=lambda: "[]"))
    monkeypatch.setenv(driver.VISIBLE, "0")
    exported.main(str(os.getppid()), "teacher", "cpu*2", str(tmp_path / "out.json"))
    assert seen == [""]


def test_a_folder_stops_answering_where_the_student_was_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.run.exported", "0", "teacher", "cpu", str(tmp_path / "out.json")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.wait(60) == 1  # it would wait for texts
        assert process.stderr is not None
        assert process.stderr.read() == b""
