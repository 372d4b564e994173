"""Names, texts and records of other people are data: they reach no file and steer no terminal that they
should not, and a secret of this machine reaches none at all."""

import csv
import dataclasses
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml
from markdown_it import MarkdownIt

from bench.config.identity import identify
from bench.config.schema import Config, replace_values, to_dict
from bench.errors import BenchError
from bench.report.table import write_tables
from bench.results.store import RECORD, Result, Store
from bench.run import app, fitting, record
from bench.run.run import run

Compose = Callable[..., Config]
Command = Callable[..., tuple[int, str, str]]

ESCAPE = "\x1b[31mred\x1b]0;title\x07"
# What no name may be: it would turn a terminal's or a reader's head, or a folder's place.
UNPRINTABLE = (
    ESCAPE,
    "a\nb",
    "a\rb",
    "a\x00b",
    "\u202egnp.exe",
    "\u200fa",
    "a\x9bb",
    " ",
    "n" * 5000,
    "\udcff",
)
LEADING_OUT = ("../../out", "/tmp/out", "..", ".", ".hidden", "a/b", "x" * 300)
# What a name or a label may be, and what would do harm in Markdown, a spreadsheet, YAML or Python.
HARMFUL = (
    "a|b", "`code`", "<script>alert(1)</script>", '=HYPERLINK("http://x","y")', "+1+1", "@SUM(A1)", "-2",
    "[link](javascript:alert(1))", "![i](http://x)", "# head", "| - |", "{0}", "%s", "[bold red]x[/]", "a\\b",
    "_target_: os.system", "!!python/object/apply:os.system ['touch x']", "$(touch x)", "'; touch x; '",
    "&lt;b&gt;", "../../out", "/etc/passwd", "null", "~", "1e3", "true", "标题",
)  # fmt: skip
SECRETS = {
    "WANDB_API_KEY": "5ec2e7ab" * 5,
    "HF_TOKEN": "hf_HostileTestTokenThatNobodyMaySee12",
    "HTTPS_PROXY": "http://proxyuser:pr0xy-passw0rd@127.0.0.1:9",
}
PARTS = [*list(SECRETS.values())[:2], "pr0xy-passw0rd"]  # what must be found nowhere
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def is_clean(text: str) -> bool:
    """Whether the text holds nothing that moves a cursor, colours, or turns the direction of reading."""
    turning = set("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    return not any(
        (unicodedata.category(one) in ("Cc", "Cs") and one not in "\n\t") or one in turning for one in text
    )


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def find_secrets(folder: Path) -> list[str]:
    """The files under the folder with a secret in their content or their name."""
    found = snapshot(folder)
    return [
        name
        for name, content in found.items()
        for part in PARTS
        if part in name or part.encode() in content or part.encode("utf-16-le") in content
    ]


@pytest.fixture
def here(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """The command in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return command


# Names


@pytest.mark.parametrize("name", UNPRINTABLE, ids=ascii)
@pytest.mark.parametrize("field", ["data.name", "method.title", "track.project"])
def test_a_name_that_is_no_name_is_refused_before_anything_is_written(
    compose_tiny: Compose, tmp_path: Path, field: str, name: str
) -> None:
    before = snapshot(tmp_path)
    with pytest.raises(BenchError, match=f"^{field}=") as caught:
        run(replace_values(compose_tiny("method=majority"), {field: name}))
    assert caught.value.exit_code == 2
    assert is_clean(str(caught.value))
    assert len(str(caught.value)) < 1000
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", LEADING_OUT, ids=lambda name: name[:20])
def test_no_name_of_data_leads_out_of_results(here: Command, tmp_path: Path, name: str) -> None:
    """results_dir is results/${data.name}."""
    before = snapshot(tmp_path)
    code, out, err = here("run", "method=majority", "track.mode=disabled", f"data.name={name}")
    assert (code, out) == (2, "")
    assert err.startswith("data.name=")
    assert snapshot(tmp_path) == before


def test_harmful_names_are_only_names(compose_tiny: Compose, tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    for seed, name in enumerate(HARMFUL):
        named = {"method.name": name, "method.title": name, "model.name": name, "track.entity": name}
        values = named | ({} if "/" in name else {"data.name": name})
        one = replace_values(compose_tiny("method=majority"), values | {"data.split_seed": seed})
        result = run(one)
        assert result.status == "success"
        folder = store.run_folder(result.run_id)
        assert yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")) == result.config
        assert result.config["method"]["name"] == name
        assert is_clean(app.summarise(one, result))
    write_tables(store, lang="en", report=compose_tiny().report)
    assert names_in(tmp_path) == {"results"}
    require_harmless_tables(store.folder, methods=len(HARMFUL), runs=len(HARMFUL))


def require_harmless_tables(folder: Path, *, methods: int, runs: int) -> None:
    """Each row is one row with as many cells as the header, and no cell is a formula, a link or HTML."""
    markdown = (folder / "table.md").read_text(encoding="utf-8")
    render_tags(markdown)
    tags = render_tags(
        re.split(r"^## (?:Key findings|Budget|主要发现|搜索预算)$", markdown, flags=re.MULTILINE)[0]
    )
    assert tags.count("td") == tags.count("th") / tags.count("thead") * methods
    for name, count in {"table.csv": methods, "runs.csv": runs, "comparisons.csv": None}.items():
        text = (folder / name).read_text(encoding="utf-8")
        assert is_clean(text)
        table = list(csv.reader(io.StringIO(text)))
        assert count is None or len(table) == count + 1
        assert {len(row) for row in table} == {len(table[0])}
        assert not [cell for row in table for cell in row if cell.startswith(("=", "+", "@", "-2"))]


def render_tags(markdown: str) -> list[str]:
    """The tags of the Markdown, none but of headings, tables, lists, commands and the answer."""
    assert is_clean(markdown)
    tags = re.findall(r"<(\w+)", MarkdownIt("commonmark").enable("table").render(markdown))
    assert set(tags) <= {
        "h2",
        "h3",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "p",
        "ul",
        "li",
        "strong",
        "code",
    }
    return tags


# Texts and labels


def test_harmful_texts_and_labels_are_only_texts(
    compose_tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTILE_SECRET", "resolved-secret")
    labels = sorted(
        {*HARMFUL, "${oc.env:HOSTILE_SECRET}", ESCAPE, "a\nb", "a\x00b", "\u202egnp.exe", "l" * 5000}
    )
    rows = [
        {"text": f"{text} {number}", "label": label}
        for number in range(3)
        for label, text in zip(labels, reversed([*labels[1:], "t" * 100_000]), strict=True)
    ]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sizes = [f"data.{split}_size={len(labels)}" for split in ("validation", "test")]
    before = names_in(tmp_path)
    result = run(compose_tiny(f"data.train={path}", "train.max_steps=3", "train.warmup_steps=0", *sizes))
    assert result.status == "success", result.error
    assert result.labels == labels
    store = Store(tmp_path / "results")
    assert set(store.read_predictions(result.run_id)["label"]) == set(labels)
    assert store.read(result.run_id) == result
    write_tables(store, lang="zh", report=compose_tiny().report)
    assert names_in(tmp_path) - before == {"results", "cache"}
    assert b"resolved-secret" not in b"".join(snapshot(tmp_path).values())
    assert is_clean((store.folder / "runs.csv").read_text(encoding="utf-8"))


# Records of other people, and the terminal


def write_hostile_record(store: Store, *, text: str, status: str, seed: int, config: Config) -> None:
    """A record whose every text is hostile, as one that was written elsewhere and copied here may be."""
    identity = identify(
        replace_values(config, {"seed": seed, "lora.target_modules": [text]}),
        data_fingerprint=text,
        model_revision=text,
    )
    scores = {"accuracy": 0.5, "f1_macro": 0.5, "loss": 1.0}
    named = {"method.name": text, "method.title": text, "data.name": text, "model.name": text}
    result = Result(
        run_id=identity.run_id,
        status=status,
        attempt=1,
        phase=text,
        started_at=text,
        ended_at=text,
        config=to_dict(replace_values(config, named)),
        canonical_config=dict(identity.canonical),
        labels=[text, "b"],
        metrics={"validation": scores, "test": scores},
        memory={"kind": text},
        model={"target_modules": [text], "precision": text},
        provenance={"git_commit": text},
        tracking={"mode": text, "wandb_run_id": text, "reason": text},
        error={"type": text, "message": text},
        reasons={"memory.kind": text, "*": text},
    )
    store.write(result)
    assert is_clean(app.summarise(config, dataclasses.replace(result, status="failed")))


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_other_peoples_records_are_shown_and_do_nothing(
    here: Command, compose: Compose, tmp_path: Path, lang: str
) -> None:
    texts = [ESCAPE, "a\nb|c", "\u202egnp.exe", "x" * 200, *HARMFUL[:4]]
    store = Store(tmp_path / "here" / "results" / "mine")
    for seed, text in enumerate(texts):
        write_hostile_record(store, text=text, status="failed", seed=2 * seed, config=compose())
        write_hostile_record(store, text=text, status="success", seed=2 * seed + 1, config=compose())
    for name in ("\x1b[31mred", "a\nb", "=x", os.fsdecode(b"\xff"), "<script>"):
        (store.folder / "runs" / name).mkdir()
        (store.folder / "runs" / name / RECORD).write_text('{"\x1b[31m": "\\ud800"}', encoding="utf-8")
    before = snapshot(tmp_path)
    for arguments in (["table", "--lang", lang], ["status"], ["verify"]):
        code, out, err = here(*arguments)
        assert (code, err) == (int(arguments[0] == "verify"), "")
        assert is_clean(out)
        out.encode()
    added = {name for name, _ in snapshot(tmp_path).items() if name not in before}
    assert {Path(name).name for name in added} == {"table.md", "table.csv", "runs.csv", "comparisons.csv"}
    require_harmless_tables(store.folder, methods=len(texts), runs=2 * len(texts))


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", f"lora.r={ESCAPE}"],
        ["run", f"method={ESCAPE}"],
        ["run", f"{ESCAPE}=1"],
        ["run", f"train.optimizer={ESCAPE}"],
        ["run", "data=files", f"data.train={ESCAPE}"],
        ["run", "data=files", "data.train=hostile.csv"],
        ["run", "data=files", f"data.train={ESCAPE}.csv", f"data.text_column={ESCAPE}"],
        ["run", "data=files", "data.train=a\x00b.csv"],
        ["run", "data=files", os.fsdecode(b"data.train=\xff.csv")],
        ["run", os.fsdecode(b"lora.target_modules=[\xff]"), "data=bbc_headlines"],
        ["run", "model=local", f"model.path={ESCAPE}"],
        ["run", "model=local", "model.path=a\x00b"],
        ["run", f"model.path={ESCAPE}/x"],
        ["sweep", f"method={ESCAPE},lora"],
        ["table", "--results", ESCAPE],
    ],
    ids=ascii,
)
def test_a_message_about_hostile_input_is_harmless_itself(
    here: Command, tmp_path: Path, arguments: list[str]
) -> None:
    pd.DataFrame({ESCAPE: ["a"], "label": ["b"]}).to_csv(tmp_path / "here" / "hostile.csv", index=False)
    before = snapshot(tmp_path)
    code, out, err = here(*arguments)
    assert code in (2, 3)
    assert out == ""
    assert err.strip()
    assert is_clean(err)
    assert "Traceback" not in err
    assert snapshot(tmp_path) == before


# Secrets


@pytest.mark.parametrize(
    "settings",
    [
        ["model=hub", "model.hub_id=https://{}@host/owner/name", f"model.revision={COMMIT}"],
        ["model=local", "model.path=https://{}@host/model"],
        ["data=files", "data.train=https://{}@host/texts.csv"],
        ["data=hub", "data.hub_id=https://{}@host/d", f"data.revision={COMMIT}", "data.train=train"],
        ["data.name=git+https://{}@host"],
        ["track.project=https://{}@host"],
        ["results_dir=results/https://{}@host"],
        ["lora.target_modules=[https://{}@host]"],
        ["lora.r=https://{}@host"],
        ["train.optimizer=https://{}@host"],
        ["model=https://{}@host"],
        ["nothing=https://{}@host"],
        ["lora.r=https://{}@host/("],
    ],
)
@pytest.mark.parametrize("verb", ["run", "sweep"])
def test_a_password_in_a_setting_is_refused_and_not_repeated(
    here: Command, tmp_path: Path, settings: list[str], verb: str
) -> None:
    code, out, err = here(verb, *(one.format("user:pr0xy-passw0rd") for one in settings))
    assert code == 2
    assert err.strip()
    assert "pr0xy-passw0rd" not in out + err
    assert "Traceback" not in err
    assert not list((tmp_path / "here").iterdir())


def test_an_error_that_quotes_a_secret_is_recorded_without_it(
    compose_tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the errors of an HTTP library quote the proxy, and those of a subprocess its environment."""

    def fail(*_: object, **__: object) -> None:
        record._log.warning("about to use %s", SECRETS["HTTPS_PROXY"])
        os.write(2, f"C code says {SECRETS['HF_TOKEN']}\n".encode())
        raise RuntimeError(f"cannot reach {SECRETS['HTTPS_PROXY']} with {SECRETS['WANDB_API_KEY']}")

    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(fitting, "fit", fail)
    config = compose_tiny()
    result = run(config)
    assert result.status == "failed"
    assert find_secrets(tmp_path) == []
    assert not [part for part in PARTS if part in app.summarise(config, result)]


@pytest.mark.slow
def test_a_sweep_keeps_the_environments_secrets(tiny_bert: Path, texts: Path, tmp_path: Path) -> None:
    """With a W&B key and a server that nobody answers for, as behind a proxy that is down."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "HF_"))}
    environment = kept | SECRETS | {
        "HOME": str(tmp_path / "home"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "WANDB_BASE_URL": "http://user:pr0xy-passw0rd@127.0.0.1:9",
    }  # fmt: skip
    overrides = [
        "model=local", f"model.path={tiny_bert}", "data=files", f"data.train={texts}", "method=lora,full",
        "train.max_steps=4", "train.warmup_steps=0", "train.eval_steps=2", "train.checkpoint_steps=2",
    ]  # fmt: skip
    lines: set[str] = set()
    with subprocess.Popen(
        [sys.executable, "-m", "bench", "sweep", *overrides],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        watcher = threading.Thread(target=watch_arguments, args=(process, lines))
        watcher.start()
        out, err = process.communicate(timeout=120)
        watcher.join()
    assert process.returncode == 0, err
    assert "W&B: " in out
    assert list((tmp_path / "results").glob("*/wandb/offline-run-*")), "W&B wrote nothing to look at"
    assert any("bench" in line for line in lines)
    assert not [part for part in PARTS if part in out + err + "\n".join(lines)]
    assert find_secrets(tmp_path) == []


def watch_arguments(process: "subprocess.Popen[str]", lines: set[str]) -> None:
    """Collects the command lines of the process and all that it starts, until it ends."""
    root = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            for one in [root, *root.children(recursive=True)]:
                lines.add(" ".join(one.cmdline()))
        except psutil.Error:
            pass
        time.sleep(0.05)
