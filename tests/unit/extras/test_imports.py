"""Other people's results: which become records, which are refused, and that nothing counts them."""

import json
from pathlib import Path
from typing import Any

import pytest
from records import NO_PRICES, make_peft, make_run

from bench.errors import DataError, MissingError
from bench.extras.imports import read_csv, read_peft, save
from bench.report.numbers.rows import build_rows
from bench.report.table import write_tables
from bench.results.store import Store, find_imported

TABLE = """\
Method,Peak memory (GB),Train hours,Accuracy,F1 (macro),Trainable parameters,Card
Full,22.8,4.2,89.3%,0.887,6.2e9,RTX 4090
QLoRA,8.7,2.6,88.6 %,,4200000,RTX 4090
"""


def write_peft(folder: Path, **files: Any) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return folder


def write_csv(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_result_of_peft_becomes_a_record(tmp_path: Path) -> None:
    (record,) = read_peft(write_peft(tmp_path / "peft", lora=make_peft()))
    assert record.status == "success"
    assert record.config["method"] == {"name": "LORA", "title": "lora/tiny-rank8"}
    assert record.config["model"] == {"name": "example/Tiny-1B"}
    assert record.config["data"] == {"name": "sums / words"}
    assert record.config["lora"] == {"r": 8, "alpha": 16, "dropout": 0.05}
    assert record.config["train"] == {"lr": 0.0001}
    assert record.memory == {"kind": "cuda", "train": {"peak_reserved_bytes": 12 * 2**30}}
    assert record.time == {"train_seconds": 1800.5}
    assert record.metrics["test"]["accuracy"] == 0.48
    assert record.metrics["validation"]["accuracy"] == 0.5  # of the last step, not the best
    assert record.parameters == {"trainable": 1000, "total": 1_000_000}
    assert record.provenance["source"] == "peft"
    assert record.provenance["file"] == "lora.json"
    assert record.provenance["hardware"] == {"gpu": "NVIDIA L40S"}


def test_older_files_of_peft_say_cuda_where_newer_ones_say_accelerator(tmp_path: Path) -> None:
    old = make_peft()
    old["train_info"]["cuda_memory_max"] = old["train_info"].pop("accelerator_memory_max")
    old["meta_info"]["system_info"] = {"gpu": "NVIDIA L40S"}
    (first,), (second,) = (
        read_peft(write_peft(tmp_path / name, lora=one)) for name, one in (("old", old), ("new", make_peft()))
    )
    assert first == second


def test_full_fine_tuning_has_no_adapter_and_a_failed_result_no_accuracy(tmp_path: Path) -> None:
    full, failed = make_peft(), make_peft()
    full["run_info"]["peft_config"] = None
    failed["run_info"]["error_msg"] = "CUDA out of memory at https://me:secret@host/"
    failed["train_info"] |= {"status": "canceled", "metrics": []}
    first, second = read_peft(write_peft(tmp_path / "peft", a=full, b=failed))
    assert first.config["method"]["name"] == "full fine-tuning"
    assert first.config["lora"]["r"] is None
    assert (second.status, second.metrics["test"]["accuracy"]) == ("failed", None)
    assert second.error is not None
    assert second.error["message"] == "CUDA out of memory at https://***@host/"


def break_peft(path: str, value: Any) -> dict[str, Any]:
    """A result of PEFT's with another value at the dotted path; ... removes it."""
    content = make_peft()
    *blocks, name = path.split(".")
    block = content
    for one in blocks:
        block = block[one]
    if value is ...:
        del block[name]
    else:
        block[name] = value
    return content


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("[]", "has no run_info"),
        ('{"train_info": {"num_trainable_params": ' + "9" * 5000 + "}}", "cannot be read"),
        (break_peft("train_info", ...), "has no train_info"),
        (break_peft("run_info.experiment_name", ...), "has no method"),
        (break_peft("run_info.experiment_name", ["a"]), r"title=\['a'\]: must be text"),
        (break_peft("train_info.train_time", float("nan")), "train_seconds=nan: must be a number from 0 to"),
        (break_peft("train_info.train_time", float("inf")), "train_seconds=inf: must be a number"),
        (break_peft("train_info.train_time", -1), "train_seconds=-1: must be a number"),
        (break_peft("train_info.train_time", "12"), "train_seconds=12: must be a number"),
        (break_peft("train_info.accelerator_memory_max", 10**30), "peak_memory_bytes=1000.*: must be"),
        (break_peft("train_info.num_trainable_params", True), "trainable=True: must be a number"),
        (break_peft("train_info.status", "done"), "status=done: must be one of success, failed, canceled"),
        (break_peft("train_info.metrics", [{"test accuracy": 48.2}]), "accuracy=48.2: must be .* 0 to 1"),
    ],
)
def test_a_file_that_is_wrong_is_named_and_nothing_imported(tmp_path: Path, content: Any, fault: str) -> None:
    folder = write_peft(tmp_path / "peft", good=make_peft(), wrong=content, wrong_too="no JSON")
    with pytest.raises(
        DataError, match=rf"^{folder}/wrong.json: {fault}(?s:.*)wrong_too.json: cannot be read"
    ) as found:
        read_peft(folder)
    assert "good.json" not in str(found.value)
    assert found.value.exit_code == 2


def test_what_peft_does_not_say_or_need_may_be_anything(tmp_path: Path) -> None:
    content = make_peft()
    content["train_info"]["metrics"][-1] |= {"drift": float("nan")}
    del (
        content["train_info"]["num_trainable_params"],
        content["meta_info"],
        content["run_info"]["train_config"],
    )
    (record,) = read_peft(write_peft(tmp_path / "peft", one=content))
    assert record.parameters["trainable"] is None
    assert record.reasons == {"*": "the imported file does not say"}
    assert record.memory == {"kind": None, "train": {"peak_unspecified_bytes": 12 * 2**30}}


def test_a_folder_without_results_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="there is no such folder"):
        read_peft(tmp_path / "missing")
    with pytest.raises(DataError, match="has 0 JSON files"):
        read_peft(tmp_path)
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(DataError, match=r"folder.json: is not a file"):
        read_peft(tmp_path)


def test_a_plain_table_becomes_a_record_for_each_row(tmp_path: Path) -> None:
    (full, qlora), ignored = read_csv(write_csv(tmp_path / "article.csv", TABLE))
    assert ignored == ["Card"]
    assert full.config["method"]["title"] == "Full"
    assert full.memory == {"kind": None, "train": {"peak_unspecified_bytes": 22_800_000_000}}
    assert full.time == {"train_seconds": pytest.approx(4.2 * 3600)}
    assert full.metrics["test"] == {"accuracy": pytest.approx(0.893), "f1_macro": 0.887}
    assert qlora.metrics["test"] == {"accuracy": pytest.approx(0.886), "f1_macro": None}
    assert qlora.parameters == {"trainable": 4_200_000, "total": None}
    assert qlora.provenance == {"source": "csv", "file": "article.csv", "row": 2, "hardware": {"gpu": None}}


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_table_that_bench_writes_can_be_imported(tmp_path: Path, lang: str) -> None:
    store = Store(tmp_path / "results")
    store.prepare()
    store.write(make_run("qlora", kind="cuda", peak=3 * 2**30, test=0.9))
    table, _, _, *_ = write_tables(store, lang=lang, report=NO_PRICES)
    (record,), _ = read_csv(table)
    assert record.memory == {"kind": "cuda", "train": {"peak_reserved_bytes": 3 * 2**30}}
    assert record.time == {"train_seconds": 12.34}
    assert record.metrics["test"] == {"accuracy": 0.9, "f1_macro": 0.9}
    assert (record.config["model"], record.config["data"]) == ({"name": "minilm"}, {"name": "headlines"})


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is not a CSV file"),
        ("method,accuracy\nlora,0.9\n", "has no column for peak_memory_bytes; name it peak_memory_bytes or"),
        ("Accuracy,accuracy,method\n1,1,a\n", "has the column 'accuracy' more than once"),
        (TABLE.splitlines()[0], "has 0 rows"),
        (TABLE + "LoRA,1\n", "row 3: has 2 cells, the header has 7"),
        (TABLE + ",1,1,0.5,,,\n", "row 3: has no method"),
        (TABLE + "LoRA,many,1,0.5,,,\n", "row 3: peak_memory_bytes='many': is not a number"),
        (TABLE + "LoRA,1,1,88.9,,,\n", "row 3: accuracy=88.9: must be a share from 0 to 1, or end in %"),
        (TABLE + "LoRA,1,nan,0.5,,,\n", "row 3: train_seconds=nan: must be a number"),
        (TABLE + "LoRA,1e400,1,0.5,,,\n", "row 3: peak_memory_bytes=inf: must be a number"),
        (TABLE + 'LoRA,"1\n', "is not a CSV file"),
        (TABLE + "x" * 200_000 + ",1,1,0.5,,,\n", "is not a CSV file"),
        (
            "method,peak_memory_gib,train_seconds,accuracy,memory kind\na,1,1,1,gpu\n",
            "row 1: memory_kind=gpu",
        ),
    ],
)
def test_a_table_that_is_wrong_is_one_message(tmp_path: Path, text: str, fault: str) -> None:
    path = write_csv(tmp_path / "wrong.csv", text)
    with pytest.raises(DataError, match=rf"^{path}(: |, ){fault}"):
        read_csv(path)


def test_a_table_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="there is no such file"):
        read_csv(tmp_path / "missing.csv")
    (tmp_path / "latin.csv").write_bytes("method,é".encode("latin-1"))
    with pytest.raises(DataError, match="is not a CSV file in UTF-8"):
        read_csv(tmp_path / "latin.csv")


def read_folder(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.json")}


def test_importing_again_changes_nothing_and_a_changed_file_replaces_what_it_brought(tmp_path: Path) -> None:
    store, path = Store(tmp_path / "results"), tmp_path / "article.csv"
    store.prepare()
    foreign = read_peft(write_peft(tmp_path / "peft", lora=make_peft()))
    assert save(store, foreign) == 0
    assert save(store, read_csv(write_csv(path, TABLE))[0]) == 0
    first = read_folder(store.folder)
    assert save(store, read_csv(path)[0]) == 2
    assert save(store, foreign) == 1
    assert read_folder(store.folder) == first
    shorter = TABLE.replace("8.7", "9.9").replace("Full,22.8,4.2,89.3%,0.887,6.2e9,RTX 4090\n", "")
    save(store, read_csv(write_csv(path, shorter))[0])
    kept, bad = find_imported(store).read_all()
    assert bad == []
    assert sorted(one.config["method"]["title"] for one in kept) == ["QLoRA", "lora/tiny-rank8"]
    assert {"peak_unspecified_bytes": 9_900_000_000} in [one.memory["train"] for one in kept]


def test_what_is_imported_counts_nowhere(tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    store.prepare()
    store.write(make_run("lora"))
    tables = [path.read_text(encoding="utf-8") for path in write_tables(store, lang="en", report=NO_PRICES)]
    rows = build_rows(store.read_all()[0])
    save(store, read_peft(write_peft(tmp_path / "peft", lora=make_peft())))
    again = [path.read_text(encoding="utf-8") for path in write_tables(store, lang="en", report=NO_PRICES)]
    assert build_rows(store.read_all()[0]) == rows
    assert [one for one in again if one not in tables] == [again[1]]  # table.md alone
    assert again[1].startswith(tables[1])
    assert "## Imported, not measured by bench" in again[1].removeprefix(tables[1])
