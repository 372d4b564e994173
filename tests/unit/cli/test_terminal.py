"""What a terminal gets: nothing is lost however narrow it is, and nothing steers it."""

import re

import pytest
from rich.cells import cell_len

from bench.cli import terminal
from bench.report.blocks import Section, Table, make_bullets

ROWS = [["LoRA", "r=16, alpha=16, dropout=0.05, lr=0.003", "0.72"], ["基线", "none at all", "1234.56"]]
HEADER = ["Method", "Chosen hyperparameters", "Peak memory (GiB)"]


@pytest.fixture
def width(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    monkeypatch.setenv("COLUMNS", str(request.param))
    return int(request.param)


def words(text: str) -> list[str]:
    return sorted(re.findall(r"[^\s─:]+", text))


@pytest.mark.parametrize("width", [200, 80, 60, 40, 30], indirect=True)
def test_no_width_cuts_anything_off(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_table(HEADER, ROWS, right=[2])
    out = capsys.readouterr().out
    assert max(map(cell_len, out.splitlines())) <= width
    assert "…" not in out
    assert set(words(" ".join(cell for row in ROWS for cell in row))) <= set(words(out))
    assert set(words(" ".join(HEADER[1:]))) <= set(words(out))


@pytest.mark.parametrize("width", [20], indirect=True)
def test_a_word_longer_than_the_terminal_is_broken_and_whole(
    width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "/a/very/long/path/that/no/narrow/terminal/can/hold/in/one/line"
    terminal.print_table(["What", "Found"], [["model", path]])
    terminal.print_lines([path])
    out = capsys.readouterr().out
    assert all(len(line) <= width for line in out.splitlines())
    assert re.sub(r"\s", "", out).count(path) == 2


@pytest.mark.parametrize("width", [100], indirect=True)
@pytest.mark.usefixtures("width")
def test_a_report_is_drawn_with_its_texts_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a|b *c* <script> [x](y) \\ `d`"
    table = Table(["Label", "Share"], [[hostile, "5 %"], ["b", "12.5 %"]], left=[0])
    terminal.print_blocks([Section("A heading", [table, make_bullets([f"as it is: {hostile}"])])])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "A heading"
    first, second = (line.rstrip() for line in lines if line.rstrip().endswith(" %"))
    assert first.strip().startswith(hostile)
    assert second.strip().startswith("b ")
    assert len(first) == len(second)  # numbers end in one column
    assert lines[-1] == f"- as it is: {hostile}"


def test_nothing_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_table(["A"], [["\x1b[31mred\x1b[0m [bold]not markup[/bold]"]])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "[bold]not" in out
