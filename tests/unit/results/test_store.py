"""results/ is the truth: a record is whole or not there, and what is not to be trusted is named."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from math import inf, nan
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.config.identity import hash_canonical
from bench.config.pack import describe_pack
from bench.errors import StoreError
from bench.results.store import RECORD, STARTED, STATUSES, BadRecord, Result, Store, read_record

HOLD = """
import sys, time
from pathlib import Path
from bench.results.store import Store
with Store(Path(sys.argv[1])).claim(sys.argv[2]):
    print("held", flush=True)
    time.sleep(60)
"""


def make_result(status: str = "success", *, seed: int = 0, **changed: Any) -> Result:
    canonical = {"method": {"trainable": "adapter"}, "seed": seed}
    values: dict[str, Any] = {
        "run_id": hash_canonical(canonical),
        "status": status,
        "attempt": 1,
        "phase": "save",
        "started_at": "2026-01-01T00:00:00.000+00:00",
        "ended_at": None,
        "config": {
            "method": {"name": "lora", "title": "LoRA"},
            "seed": seed,
            "data": {"labels": ["股票", "債券"]},
        },
        "canonical_config": canonical,
        "labels": ["股票", "債券"],
        "metrics": {"test": {"accuracy": 0.875, "f1_macro": 1.0, "loss": 0.1}},
    }
    return Result(**(values | changed))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def reason_of(path: Path) -> str:
    found = read_record(path)
    assert isinstance(found, BadRecord)
    assert found.path == path
    return found.reason


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


@pytest.mark.parametrize("status", [*STATUSES, STARTED])
def test_a_record_reads_as_it_was_written(store: Store, status: str) -> None:
    result = make_result(status, error={"message": "“quoted”\nlines"}, reasons={"energy": "no meter"})
    store.write(result)
    assert store.read(result.run_id) == result
    assert store.read_all() == ([result], [])


def test_a_record_is_json_with_every_field_and_its_configuration_beside_it(store: Store) -> None:
    result = make_result()
    store.write(result)
    folder = store.folder / "runs" / result.run_id
    values = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    assert values["metrics"] == result.metrics
    assert values["schema_version"] == 1
    assert set(values) == {*vars(result), "checksum"}
    assert "股票" in (folder / "config.yaml").read_text(encoding="utf-8")
    assert sorted(files_of(folder)) == ["config.yaml", RECORD]


def test_the_same_record_is_the_same_bytes(store: Store) -> None:
    result = make_result()
    store.write(result)
    before = files_of(store.run_folder(result.run_id))
    store.write(make_result())
    assert files_of(store.run_folder(result.run_id)) == before


def test_a_run_without_a_record_is_none(store: Store) -> None:
    assert store.read(make_result().run_id) is None
    assert store.read_all() == ([], [])


def test_records_come_in_order_of_run_id(store: Store) -> None:
    for seed in range(6):
        store.write(make_result(seed=seed))
    ids = [result.run_id for result in store.read_all()[0]]
    assert len(ids) == 6
    assert ids == sorted(ids)


@pytest.mark.parametrize("status", [*STATUSES[1:], STARTED])
def test_a_success_is_never_replaced_by_less(store: Store, status: str) -> None:
    success = make_result()
    store.write(success)
    store.write(make_result(status, attempt=2))
    assert store.read(success.run_id) == success


def test_anything_else_is_replaced(store: Store) -> None:
    for attempt, status in enumerate([STARTED, "failed", STARTED, "oom", "crashed", "success", "success"], 1):
        store.write(make_result(status, attempt=attempt))
        found = store.read(make_result().run_id)
        assert found is not None
        assert (found.status, found.attempt) == (status, attempt)


def test_a_damaged_success_does_not_stand_in_the_way(store: Store) -> None:
    result = make_result()
    store.write(result)
    (store.run_folder(result.run_id) / RECORD).write_text('{"status": "success"', encoding="utf-8")
    store.write(make_result("failed"))
    assert store.read(result.run_id) == make_result("failed")


def full_disk(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


WRITES: dict[str, Callable[[Store, str], object]] = {
    "record": lambda store, _: store.write(make_result()),
    "history": lambda store, run_id: store.write_history(run_id, []),
    "predictions": lambda store, run_id: store.write_predictions(run_id, pd.DataFrame()),
    "report": lambda store, _: store.write_report("table.md", "new"),
}


@pytest.mark.parametrize("broken", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.chmod"])
@pytest.mark.parametrize("write", WRITES)
def test_a_full_disk_leaves_the_old_files_and_nothing_else(
    store: Store, monkeypatch: pytest.MonkeyPatch, broken: str, write: str
) -> None:
    result = make_result("failed")
    store.write(result)
    store.write_history(result.run_id, [{"step": 1}])
    store.write_predictions(result.run_id, pd.DataFrame({"label": ["a"], "prediction": ["a"]}))
    store.write_report("table.md", "old")
    folder = store.run_folder(result.run_id)
    before = [files_of(folder), sorted(store.folder.iterdir())]
    monkeypatch.setattr(broken, full_disk)
    with pytest.raises(StoreError, match=r"No space left on device; results_dir must be a folder") as caught:
        WRITES[write](store, result.run_id)
    assert caught.value.exit_code == 3
    assert [files_of(folder), sorted(store.folder.iterdir())] == before
    assert (store.folder / "table.md").read_text(encoding="utf-8") == "old"


def test_an_interrupt_while_writing_leaves_the_old_record(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.replace

    def interrupted(path: Path, target: Path) -> Path:
        if target.name == RECORD:
            raise KeyboardInterrupt
        return rename(path, target)

    store.write(make_result("failed"))
    folder = store.run_folder(make_result().run_id)
    before = files_of(folder)
    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.write(make_result("success"))
    assert files_of(folder) == before


def test_file_and_folder_are_flushed_before_a_record_counts(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    flush, rename = os.fsync, Path.replace

    def flushed(handle: int) -> None:
        events.append("folder" if Path(f"/proc/self/fd/{handle}").is_dir() else "file")
        flush(handle)

    def renamed(path: Path, target: Path) -> Path:
        events.append("rename")
        return rename(path, target)

    store.write(make_result("failed"))
    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", renamed)
    store.write(make_result())
    assert events[-3:] == ["file", "rename", "folder"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"status": "failed"}, "its checksum does not match; it was changed or is damaged"),
        ({"metrics": {"test": {"accuracy": 1.0}}}, "its checksum does not match"),
        ({"checksum": "0" * 64}, "its checksum does not match"),
        ({"metrics": {"test": {"loss": nan}}}, "cannot be read (Out of range float values"),
        ({"extra": 1}, "has other fields: extra"),
        ({"memory": ..., "mem": {}}, "has other fields: mem, memory"),
        ({"checksum": ...}, "has other fields: checksum"),
    ],
)
def test_a_changed_record_is_not_trusted(store: Store, change: dict[str, Any], reason: str) -> None:
    result = make_result()
    store.write(result)
    path = store.run_folder(result.run_id) / RECORD
    values = json.loads(path.read_text(encoding="utf-8")) | change
    kept = {name: value for name, value in values.items() if value is not ...}
    path.write_text(json.dumps(kept), encoding="utf-8")
    assert reason_of(path).startswith(reason)
    assert store.read(result.run_id) is None


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"status": "done"}, "has the unknown status 'done'"),
        ({"status": None}, "has the unknown status None"),
        ({"schema_version": 99}, "has schema_version 99, expected 1"),
        ({"run_id": "0123456789ab"}, "its run_id is not the hash of its configuration and the folder's name"),
        ({"canonical_config": {"seed": 1}}, "its run_id is not the hash of its configuration"),
        ({"packed": {"size": 4}}, "its packed has other fields: size"),
        ({"packed": describe_pack(1)}, "was packed with a size of 1, and a pack has at least 2 runs"),
        ({"packed": describe_pack(4, seconds=-1.0)}, "its packed holds something that is not a number"),
        ({"packed": {**describe_pack(4), "pack_seconds": True}}, "its packed holds something that is not"),
        ({"packed": {**describe_pack(4), "size": None}}, "was packed with a size of None"),
        (
            {"packed": describe_pack(4), "time": {"train_seconds": 1.0}},
            "was packed and claims memory or time",
        ),
        ({"packed": describe_pack(4), "memory": {"train": {}}}, "was packed and claims memory or time"),
    ],
)
def test_a_record_that_is_whole_but_wrong_is_not_trusted(
    store: Store, changed: dict[str, Any], reason: str
) -> None:
    result = make_result(**changed)
    store.write(result)
    good, (bad,) = store.read_all()
    assert good == []
    assert bad.path == store.run_folder(result.run_id) / RECORD
    assert bad.reason.startswith(reason)


def test_a_packed_record_is_trusted_and_an_old_one_was_not_packed(store: Store) -> None:
    none = {"kind": "cuda", "baseline_bytes": None, "load": None, "train": None, "eval": None}
    packed = make_result(
        packed=describe_pack(4, peak_bytes=10, seconds=1.5), memory=none, time={"train_seconds": None}
    )
    store.write(packed)
    assert store.read(packed.run_id) == packed
    earlier = make_result(
        seed=2, packed={"size": 4, "pack_peak_bytes": 10, "pack_seconds": 1.5}, memory=none, time={}
    )
    store.write(earlier)
    assert store.read(earlier.run_id) == earlier
    old = make_result(seed=1)
    store.write(old)
    path = store.run_folder(old.run_id) / RECORD
    values = json.loads(path.read_text(encoding="utf-8"))
    del values["packed"], values["checksum"]
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    values["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(values), encoding="utf-8")
    assert store.read(old.run_id) == old


def test_a_record_in_another_runs_folder_is_not_trusted(store: Store) -> None:
    result = make_result()
    store.write(result)
    store.run_folder(result.run_id).rename(store.folder / "runs" / "0123456789ab")
    assert store.read("0123456789ab") is None
    assert "folder's name" in reason_of(store.run_folder("0123456789ab") / RECORD)


def test_foreign_and_broken_files_hide_no_record(store: Store) -> None:
    result = make_result()
    store.write(result)
    runs = store.folder / "runs"
    (runs / "notes.txt").write_text("mine", encoding="utf-8")
    (runs / "empty").mkdir()
    (runs / "folder" / RECORD).mkdir(parents=True)
    whole = (runs / result.run_id / RECORD).read_bytes()
    for name, content in {
        "truncated": whole[: len(whole) // 2],
        "nothing": b"",
        "binary": b"\xff\xfe\x00",
        "list": b"[]",
        "number": b"NaN",
    }.items():
        (runs / name).mkdir()
        (runs / name / RECORD).write_bytes(content)
    good, bad = store.read_all()
    assert good == [result]
    reasons = {one.path.parent.name: one.reason for one in bad}
    assert sorted(reasons) == ["binary", "folder", "list", "nothing", "number", "truncated"]
    assert {reasons[name] for name in ("list", "number")} == {"is not an object"}
    assert all(
        reasons[name].startswith("cannot be read (") for name in ("binary", "folder", "nothing", "truncated")
    )


def test_what_is_not_a_finite_number_is_null_in_json(store: Store) -> None:
    result = make_result(
        "diverged",
        metrics={"test": {"loss": nan}},
        model={"best": [inf, (1.0, -inf)]},
        time={"train_seconds": inf},
    )
    store.write(result)
    store.write_history(result.run_id, [{"step": 1, "loss": nan}, {"step": 2, "loss": 0.5, "标签": "股票"}])
    found = store.read(result.run_id)
    assert found is not None
    assert found.metrics == {"test": {"loss": None}}
    assert found.model == {"best": [None, [1.0, None]]}
    assert found.time == {"train_seconds": None}
    lines = (store.run_folder(result.run_id) / "history.jsonl").read_text(encoding="utf-8").splitlines()
    assert lines == ['{"step": 1, "loss": null}', '{"step": 2, "loss": 0.5, "标签": "股票"}']
    assert "NaN" not in (store.run_folder(result.run_id) / RECORD).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "run_id", ["../x", "..", "", "/etc/passwd", "0123456789AB", "0123456789ab\n", "0" * 13]
)
def test_a_run_id_cannot_lead_out_of_the_folder(store: Store, run_id: str) -> None:
    for use in (store.run_folder, store.read, store.read_predictions):
        with pytest.raises(
            StoreError, match=r"^run_id=.*: must be 12 hexadecimal digits; `bench status` lists"
        ):
            use(run_id)
    with pytest.raises(StoreError), store.claim(run_id):
        pass
    with pytest.raises(StoreError):
        store.write(make_result(run_id=run_id))
    assert not store.folder.exists()


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    result = make_result()
    for folder in (tmp_path / "file", tmp_path / "file" / "results"):
        store = Store(folder)
        with pytest.raises(StoreError, match=rf"^{folder}: .*; results_dir must be a folder that can be"):
            store.prepare()
        with pytest.raises(StoreError, match="results_dir must be a folder") as caught:
            store.write(result)
        with pytest.raises(StoreError, match="results_dir must be a folder"), store.claim(result.run_id):
            pass
        assert caught.value.exit_code == 3


def test_a_run_is_held_by_one_process_and_freed_when_it_is_killed(store: Store) -> None:
    run_id, other = make_result().run_id, make_result(seed=1).run_id
    command = [sys.executable, "-c", HOLD, str(store.folder), run_id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == "held\n"
            busy = f"^run {run_id}: another process is training it; wait for it to end$"
            with pytest.raises(StoreError, match=busy), store.claim(run_id):
                pytest.fail("two processes hold one run")
            with store.claim(other) as folder:
                assert folder == store.run_folder(other)
        finally:
            holder.send_signal(signal.SIGKILL)
    assert holder.returncode == -signal.SIGKILL
    with store.claim(run_id) as folder:
        assert folder.is_dir()


def test_a_claim_ends_with_its_block_also_on_an_error(store: Store) -> None:
    run_id = make_result().run_id
    with pytest.raises(ZeroDivisionError), store.claim(run_id):
        raise ZeroDivisionError
    with store.claim(run_id), pytest.raises(StoreError), store.claim(run_id):
        pass


HOSTILE = (
    "NA",
    "null",
    "1",
    "1.0",
    "=x",
    "-",
    "",
    " a ",
    "a,b",
    '"',
    "'",
    "a\nb",
    "a\r\nb",
    "\r",
    "股票",
    "\x00",
)
LABELS = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=5), min_size=2, max_size=5, unique=True)


@settings(max_examples=20)
@given(LABELS)
@example(list(HOSTILE))
@example(["1", "2"])
def test_predictions_keep_every_label_as_it_is(labels: list[str]) -> None:
    share = 1 / len(labels)
    frame = pd.DataFrame({"split": "test", "id": range(len(labels))})
    frame["label"] = labels
    frame["prediction"] = labels[::-1]
    frame = frame.join(pd.DataFrame({f"probability_{label}": [share] * len(labels) for label in labels}))
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        store.write(make_result())
        store.write_predictions(make_result().run_id, frame)
        found = store.read_predictions(make_result().run_id)
    assert list(found.columns) == list(frame.columns)
    assert list(found["label"]) == labels
    assert list(found["prediction"]) == labels[::-1]
    assert list(found["id"]) == list(range(len(labels)))
    assert found.iloc[:, 4:].to_numpy() == pytest.approx(share, rel=1e-5)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory; without it the run cannot be compared"),
        (b"", "No columns to parse from file"),
        (b"\xff\xfe", "'utf-8' codec can't decode"),
        (b'split,id,label,prediction\n"test', "Error tokenizing data"),
        (b"split,id,label\ntest,0,a\n", "has no column prediction; it was changed"),
    ],
)
def test_predictions_that_cannot_be_read_are_one_message(
    store: Store, content: bytes | None, reason: str
) -> None:
    run_id = make_result().run_id
    store.write(make_result())
    if content is not None:
        (store.run_folder(run_id) / "predictions.csv").write_bytes(content)
    with pytest.raises(StoreError) as caught:
        store.read_predictions(run_id)
    assert str(caught.value).startswith(f"runs/{run_id}/predictions.csv: {reason}")
