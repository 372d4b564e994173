"""What CONTRIBUTING says of adding things, done once as it stands there, in a copy of the tree."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.config.schema import CONF_DIR

ROOT = CONF_DIR.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = re.findall(r"^```yaml\n# (\S+)\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)
[DIFF] = re.findall(r"^```diff\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)
PROOF = """
import json
import numpy as np
from bench.config import checks
from bench.config.cards import read_cards
from bench.report.language.text import ENGLISH
from bench.report.runs import render_runs
from bench.run import app
from bench.train.metrics import score

names = ["method=rsdora", "model=smollm2-135m", "data=reviews", "plan.card=rtx4070", "sweep.select_by=kappa"]
with app.composing() as compose:
    config = compose(names)
assert checks.check(config) == [], checks.check(config)
labels = np.array([0, 1, 1, 0])
found = {
    "method": config.method.adapter, "model": config.model.hub_id, "data": config.data.text_column,
    "card": read_cards()["rtx4070"].watts, "scores": score(np.eye(2)[[0, 1, 0, 0]], labels),
}
from records import make_evidence, make_run, render_markdown
run_ = make_run()
run_.config["sweep"]["select_by"] = "kappa"
for split in ("validation", "test"):
    run_.metrics[split]["kappa"] = 0.5
found["table"] = render_markdown(make_evidence([run_]), text=ENGLISH)
found["columns"] = render_runs([run_]).splitlines()[0].split(",")
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with every recipe of CONTRIBUTING done."""
    copy = tmp_path_factory.mktemp("tree")
    for name in ("bench", "conf"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, content in FILES:
        with (copy / name).open("a", encoding="utf-8") as file:
            file.write(content)
    for part in re.split(r"^--- .*\n\+\+\+ b/", DIFF, flags=re.MULTILINE)[1:]:
        name, *hunks = re.split(r"^@@\n", part, flags=re.MULTILINE)
        path = copy / name.strip()
        for hunk in hunks:
            old, new = ("".join(re.findall(rf"^\{sign}(.*\n)", hunk, flags=re.MULTILINE)) for sign in "-+")
            text = path.read_text(encoding="utf-8")
            assert text.count(old) == 1, f"{name}: the recipe is out of date: {old}"
            path.write_text(text.replace(old, new), encoding="utf-8")
    return copy


def test_adding_the_metric_kappa_touches_at_most_three_files() -> None:
    assert 1 <= len(re.findall(r"^\+\+\+ b/", DIFF, flags=re.MULTILINE)) <= 3


def test_every_recipe_works_as_it_is_written(tree: Path) -> None:
    paths = os.pathsep.join([str(tree), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", PROOF],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["method"] == {"peft_type": "LORA", "use_dora": True, "use_rslora": True}
    assert (found["model"], found["data"], found["card"]) == ("HuggingFaceTB/SmolLM2-135M", "review", 200)
    assert list(found["scores"]) == ["accuracy", "kappa", "f1_macro", "balanced_accuracy", "mcc", "loss"]
    assert found["scores"]["kappa"] == pytest.approx(0.5)  # three of four agree, and two would by chance
    assert {"validation_kappa", "test_kappa"} <= set(found["columns"])
    assert "the highest validation kappa" in found["table"]
