"""What figures show besides the evidence: histories and answers of the chosen runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.errors import StoreError
from bench.report.numbers.evidence import Evidence
from bench.report.numbers.rows import ReportTask, Row
from bench.report.page.answers import MethodAnswers, read_answers, read_texts
from bench.results.store import Result, Store


@dataclass(frozen=True)
class Course:
    """The history of one chosen run."""

    row: Row
    run: Result
    history: Sequence[Mapping[str, Any]]  # of each logged step


@dataclass(frozen=True)
class Details:
    """Details of the chosen runs alone: those of all runs would be thousands of files."""

    courses: Sequence[Course]
    answers: Sequence[MethodAnswers]
    texts: Mapping[ReportTask, Mapping[Any, str] | str]  # test texts by id, or why they cannot be read again
    unread: Sequence[tuple[Row, str]]  # files that could not be read, and why


def gather_details(evidence: Evidence, store: Store) -> Details:
    """Read history.jsonl and predictions.csv of the chosen runs, and the test texts where they still are."""
    answers, unread = read_answers(evidence.rows, store.read_predictions)
    courses = []
    for row in evidence.rows:
        for run in row.selection.results if row.selection and not row.baseline else ():
            try:
                courses.append(Course(row, run, store.read_history(run.run_id)))
            except StoreError as error:
                unread.append((row, str(error)))
    texts = {
        task: read_texts(value) for task, value in {answer.row.task: answer for answer in answers}.items()
    }
    return Details(courses, answers, texts, unread)
