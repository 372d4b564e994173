"""What table.md says of the gates of routed LoRA."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from records import make_evidence, make_run, render_markdown
from report_folder import write_results

from bench.report.language.text import LANGUAGES, Text
from bench.report.numbers.evidence import gather
from bench.report.sections.gates import summarise_gates
from bench.results.store import Result, Store

GATES = pd.DataFrame(
    {
        "layer": ["first"] * 3 + ["second"] * 3,
        "label": ["a", "b", "c"] * 2,
        "texts": [300, 100, 0] * 2,
        "largest": [0.6, 0.8, None, 0.9, 0.5, None],
        "expert_1": [0.5, 0.4, None, 0.875, 0.25, None],
        "expert_2": [0.5, 0.6, None, 0.125, 0.75, None],
    }
)


@pytest.fixture
def routed() -> Result:
    run = make_run("lora", seed=1, trainable=92_160)
    run.config["method"] |= {"name": "routed_lora", "title": "Routed LoRA", "experts": 2}
    return replace(run, model={"gate_parameters": 18_432})


def test_the_layer_that_tells_labels_apart_is_found_and_labels_without_texts_do_not_count() -> None:
    found = summarise_gates(GATES)
    assert (found.layers, found.layer) == (2, "second")
    assert found.weights == [("a", 300, [0.875, 0.125]), ("b", 100, [0.25, 0.75])]
    assert found.difference == pytest.approx(0.625)
    assert found.mean_difference == pytest.approx((0.1 + 0.625) / 2)
    assert found.largest == pytest.approx((0.6 * 300 + 0.8 * 100 + 0.9 * 300 + 0.5 * 100) / 800)


@pytest.mark.parametrize(
    ("text", "row"),
    [(LANGUAGES["en"], ["a", "300", "87.5 %", "12.5 %"]), (LANGUAGES["zh"], ["a", "300", "87.5%", "12.5%"])],
)
def test_the_table_shows_what_each_expert_gets_by_label(routed: Result, text: Text, row: list[str]) -> None:
    evidence = make_evidence([make_run("lora"), routed])
    markdown = render_markdown(replace(evidence, gates={routed.run_id: GATES}), text=text)
    section = markdown.partition(f"## {text('gates.title')}\n")[2].partition("\n## ")[0]
    assert row in [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines()]
    assert "62.5" in section
    assert "36.2" in section
    assert "second" in section
    assert text("gates.title") not in render_markdown(evidence, text=text)


def test_the_row_says_how_many_of_its_parameters_are_the_gates(routed: Result) -> None:
    markdown = render_markdown(make_evidence([make_run("lora"), routed]), text=LANGUAGES["en"])
    assert "Routed LoRA: 18.4K of its trainable parameters are the gates'; the other 73.7K are" in markdown


def test_gates_that_were_lost_are_said_to_be_unknown(routed: Result, tmp_path: Path) -> None:
    write_results(tmp_path, [make_run("lora"), routed])
    store, report = Store(tmp_path), make_evidence([]).report
    evidence = gather(store, report)
    assert "Routed LoRA: not known (runs/" in render_markdown(evidence, text=LANGUAGES["en"])
    store.write_gates(routed.run_id, GATES)
    pd.testing.assert_frame_equal(store.read_gates(routed.run_id), GATES)
    assert "Routed LoRA, at second" in render_markdown(gather(store, report), text=LANGUAGES["en"])
    path = tmp_path / "runs" / routed.run_id / "gates.csv"
    path.write_text(path.read_text().replace("0.875", "much"))
    assert "no column expert_1 as it was" in render_markdown(gather(store, report), text=LANGUAGES["en"])
