"""The commands that README, docs/ and --help show, run as they stand, but for short trainings."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from decoders import save_decoder
from records import make_peft
from shown import EXAMPLES, SHOWN

Bench = Any  # tests/e2e/conftest.py

pytestmark = pytest.mark.slow

# What this machine cannot run, and why.
ELSEWHERE = {
    "^make ": "installs into .venv, which the tests have",
    "qwen3-0.6b$|model=hub|experiment=(rtx4090|article)(?!.*weights=random)|data.train=FILE": "needs the hub",
    "qwen3-8b|run model=chatglm-6b": "billions of weights, in minutes",
    "hydra/launcher": "needs SLURM or Ray; tests/cluster has them",
    "--offline": "draws in a terminal",
    "track.mode=online": "needs W&B",
    "sync": "needs W&B",
    "--format|winner-onnx": "after six steps many are near a tie; tests/integration/winner/test_onnx.py",
    "generate": "needs a run with task=label_likelihood; tests/integration/winner/test_classify.py",
    "e35d791c503e": "a run of ours",
    "experiment=curve(?! method=tfidf,head)": "more than a hundred runs; its baselines run",
    "distilled": "needs a teacher that has trained; tests/integration/run/test_distillation.py",
    "experiment=updates$": "21 trainings of streams; those of two files run",
    "experiment=llm (sweep.curve|method=lora)": "trains a language model for many minutes",
    "^bench audit": "needs a cross-validation; tests/integration/extras/test_audit.py",
    "--seeds|classify all ": "needs several seeds; tests/integration/winner/test_together.py",
    "--min-accuracy": "needs a run that has learnt; tests/integration/winner/test_classify.py",
    "experiment=tasks": "15 runs; tests/integration/train/test_tasks.py",
    "RUN_ID_OF|headlines news|joined": "needs its runs; tests/integration/winner/test_tasks.py",
    "serve": "never ends; tests/integration/extras/test_serve.py",
    "--cfg job|--help|COMMAND": "trains nothing; tests/e2e/test_commands.py",
}
SHORT = ["train.max_steps=6", "train.warmup_steps=0", "train.eval_steps=6", "track.mode=disabled"]
MORE = {
    "run": [*SHORT, "results_dir=results/tried"],
    "sweep": [*SHORT, "results_dir=results/tried"],
    "merge": ["--tolerance", "0.1"],  # after six steps many texts are near a tie
}
_TWO = (("pos",), ("neg",), ("pos", "new"))  # the labels of texts that have several
ALSO = {"experiment=updates": ["train.epochs=null", "method=tfidf,lora_merged", "sweep.final_seeds=[0]"]}
MAY_END_WITH = {"recommend": (0, 1), "doctor": (0, 1)}
COMMANDS = [
    command
    for command in sorted({*SHOWN, *EXAMPLES})
    if not any(re.search(one, command) for one in ELSEWHERE)
]


@pytest.fixture(scope="module")
def place(tiny_bert: Path, shared_bench: Bench) -> Bench:
    """A folder with all that the commands name, and the results of a first sweep."""
    bench, folder = shared_bench, shared_bench.folder
    rows = [(f"{word} {number} of the day", word) for number in range(40) for word in ("pos", "neg")]
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(folder / "my.csv", index=False)
    for name in ("a.csv", "b.csv"):
        renamed = [(f"{name} {text}", label) for text, label in rows]
        pd.DataFrame(renamed, columns=["title", "topic"]).to_csv(folder / name, index=False)
    dated = [(*row, f"2024-{1 + number % 9:02}-01") for number, row in enumerate(rows)]
    pd.DataFrame(dated, columns=["text", "label", "date"]).to_csv(folder / "dated.csv", index=False)
    for split in ("train", "validation", "test"):
        shutil.copy(folder / "my.csv", folder / f"rare-{split}.csv")
    of_two = pd.DataFrame(
        [(f"title {one}", *row) for one, row in enumerate(rows)], columns=["a", "b", "label"]
    )
    of_two.rename(columns={"a": "premise", "b": "hypothesis"}).to_csv(folder / "pairs.csv", index=False)
    of_two.rename(columns={"a": "title", "b": "body"}).to_csv(folder / "articles.csv", index=False)
    raw = [(f"{word} {number}", word) for number in range(40) for word in ("tennis", "golf", "tax")]
    pd.DataFrame(raw, columns=["text", "label"]).to_csv(folder / "raw.csv", index=False)
    two = [{"text": f"{one} {number}", "label": [one, *more]} for number in range(40) for one, *more in _TWO]
    (folder / "two.jsonl").write_text("".join(json.dumps(row) + "\n" for row in two))
    shutil.copytree(tiny_bert, folder / "my-model")
    save_decoder("qwen3", folder / "my-decoder", [text for text, _ in rows])
    for name in ("others.csv", "FILE"):
        (folder / name).write_text("method,peak_memory_gib,train_seconds,accuracy\nlora,1.5,60,0.9\n")
    for name in ("DIR", "method_comparison/results"):
        (folder / name).mkdir(parents=True)
        (folder / name / "lora.json").write_text(json.dumps(make_peft()))
    tiny = ["model=local", "model.path=my-model", "method=majority,lora,qlora", *SHORT]
    assert bench("sweep", *tiny, "results_dir=results/quickstart").returncode == 0
    shutil.copytree(folder / "results" / "quickstart", folder / "results" / "mine")
    curve = ["experiment=curve", "method=majority,tfidf", "sweep.curve=4", "track.mode=disabled"]
    assert bench("sweep", *curve, *tiny[:2]).returncode == 0
    return bench


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_is_shown_runs(place: Bench, command: str) -> None:
    _, name, *words = shlex.split(command)
    more = [*MORE.get(name, []), *(one for part, some in ALSO.items() if part in command for one in some)]
    done = place(name, *words, *more)
    assert done.returncode in MAY_END_WITH.get(name, (0,)), done.stderr[-2000:]
    assert done.stdout
    assert "Traceback" not in done.stderr
