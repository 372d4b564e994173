import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from records import make_peft

from bench.extras.imports import read_csv, read_peft
from bench.report.blocks import write_markdown
from bench.report.language.text import LANGUAGES
from bench.report.sections import imported
from bench.results.store import Result

HOSTILE = '=HYPERLINK("http://a")|x|<script>\x1b[31m\u202e`[a](b)\ud800\n# heading'


def describe(records: Sequence[Result], *, bad: Sequence[tuple[str, str]] = (), lang: str = "en") -> str:
    return write_markdown([imported.describe_imported(records, bad=bad, text=LANGUAGES[lang])])


def read_one(folder: Path, content: dict[str, Any]) -> Result:
    (folder / "lora.json").write_text(json.dumps(content), encoding="utf-8")
    return read_peft(folder)[0]


def test_the_section_shows_each_record_with_its_source(tmp_path: Path) -> None:
    table = tmp_path / "article.csv"
    table.write_text(
        "method,peak_memory_gib,train_hours,accuracy\nQLoRA,8.7,2.6,88.6%\nLoRA,,,\n", encoding="utf-8"
    )
    records = [*read_csv(table)[0], read_one(tmp_path, make_peft())]
    shown = describe(records[::-1], bad=[("imported/x", "is damaged")])
    assert shown == describe(records, bad=[("imported/x", "is damaged")])
    lines = [re.split(r" *\| *", line)[1:-1] for line in shown.splitlines() if line.startswith("|")][2:]
    assert lines == [
        ["QLoRA", "–", "–", "–", "8.70", "–", "2.6 h", "88.6 %", "–", "–", "csv: article.csv, row 1"],
        ["LoRA", "–", "–", "–", "–", "–", "–", "–", "–", "–", "csv: article.csv, row 2"],
        [
            "lora/tiny-rank8",
            "example/Tiny-1B",
            "sums / words",
            "r=8, alpha=16, dropout=0.05, lr=0.0001, seed=0",
            "12.00",
            "cuda",
            "30 min 00 s",
            "48.0 %",
            "–",
            "1.0K",
            "peft: lora.json",
        ],
    ]
    assert "They play no part in any choice" in shown
    assert "imported/x (is damaged)" in shown


def test_a_failed_result_shows_its_status(tmp_path: Path) -> None:
    content = make_peft()
    content["train_info"]["status"] = "canceled"
    assert "| failed" in " ".join(describe([read_one(tmp_path, content)]).split())


def test_without_imports_there_is_no_section() -> None:
    assert describe([]) == ""


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_hostile_text_stays_text(tmp_path: Path, lang: str) -> None:
    content = make_peft()
    content["run_info"] |= {"experiment_name": HOSTILE, "error_msg": HOSTILE}
    content["run_info"]["train_config"]["model_id"] = HOSTILE
    content["meta_info"] = {"dataset_info": {HOSTILE: {}}, "system_info": {"accelerator": HOSTILE}}
    shown = describe([read_one(tmp_path, content)], bad=[(HOSTILE, HOSTILE)], lang=lang)
    rows = [line for line in shown.splitlines() if line.startswith("|")]
    assert {len(re.split(r"(?<!\\)\|", line)) for line in rows} == {13}
    assert sum(line.startswith("#") for line in shown.splitlines()) == 1
    assert not re.search(r"[<>\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]|(?<!\\)[`\[]", shown)
    shown.encode()
