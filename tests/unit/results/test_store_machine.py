"""Whatever happens to a results folder, in any order: a success stays one, and what is bad is named."""

import dataclasses
import json
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bench.config.identity import hash_canonical
from bench.errors import StoreError
from bench.results.store import RECORD, STARTED, STATUSES, BadRecord, Result, Store, read_record

SEEDS = st.integers(0, 3)
ENDS = st.sampled_from(STATUSES)
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "half of it": lambda whole: whole[: len(whole) // 2],
    "nothing": lambda _: b"",
    "zeros": lambda whole: bytes(len(whole)),  # what some file systems leave after a power cut
    "another number": lambda whole: whole.replace(b"0.875", b"0.876"),
    "another status": lambda whole: whole.replace(b'"failed"', b'"success"').replace(b'"oom"', b'"success"'),
    "no JSON": lambda _: b"{'status': 'success'}",
    "a list": lambda _: b"[]",
    "nested without end": lambda _: b"[" * 100_000,
    "nested objects": lambda _: b'{"a":' * 100_000,
    "half a surrogate": lambda whole: whole.replace(b'"lora"', b'"\\ud800"'),
    "no UTF-8": lambda whole: whole.replace(b"lora", b"\xff\xfe"),
    "twice": lambda whole: whole + whole,
}


class Killed(BaseException):
    """The process is gone: nothing is cleaned up."""


def make_result(seed: int, status: str, *, attempt: int = 1) -> Result:
    canonical = {"seed": seed}
    return Result(
        run_id=hash_canonical(canonical),
        status=status,
        attempt=attempt,
        phase="train",
        started_at="2026-01-01T00:00:00.000+00:00",
        ended_at=None,
        config={"method": {"name": "lora", "title": "LoRA"}, "seed": seed},
        canonical_config=canonical,
        metrics={"test": {"accuracy": 0.875}},
    )


class StoreMachine(RuleBasedStateMachine):
    """A results folder and what should be in it: by seed its record, or None where one cannot be trusted."""

    def __init__(self) -> None:
        super().__init__()
        self.scratch = tempfile.TemporaryDirectory()
        self.store = Store(Path(self.scratch.name) / "results")
        self.expected: dict[int, Result | None] = {}
        self.attempts = 0
        self.foreign = 0

    def teardown(self) -> None:
        self.scratch.cleanup()

    def path_of(self, seed: int) -> Path:
        return self.store.run_folder(make_result(seed, STARTED).run_id) / RECORD

    def note(self, result: Result) -> None:
        """What a write should have come to: a readable success is sticky."""
        seed = result.canonical_config["seed"]
        before = self.expected.get(seed)
        if result.status == "success" or before is None or before.status != "success":
            self.expected[seed] = result

    def next_result(self, seed: int, status: str) -> Result:
        self.attempts += 1
        return make_result(seed, status, attempt=self.attempts)

    @rule(seed=SEEDS, end=st.none() | ENDS)
    def run(self, seed: int, end: str | None) -> None:
        """An attempt as a process makes it; with no end, the process vanished."""
        with self.store.claim(make_result(seed, STARTED).run_id):
            for status in [STARTED] if end is None else [STARTED, end]:
                result = self.next_result(seed, status)
                self.store.write(result)
                self.note(result)

    @rule(seed=SEEDS, status=ENDS)
    def write_without_claim(self, seed: int, status: str) -> None:
        result = self.next_result(seed, status)
        Store(self.store.folder).write(result)
        self.note(result)

    @rule(seed=SEEDS, status=ENDS, call=st.sampled_from(["os.fsync", "pathlib.Path.replace"]))
    def die_while_writing(self, seed: int, status: str, call: str) -> None:
        def die(*_: object, **__: object) -> None:
            raise Killed

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(call, die)
            patch.setattr(Path, "unlink", lambda *_, **__: None)  # a killed process removes nothing
            if self.is_success(seed) and status != "success":
                self.store.write(self.next_result(seed, status))
            else:
                with pytest.raises(Killed):
                    self.store.write(self.next_result(seed, status))

    @rule(seed=SEEDS, status=ENDS)
    def meet_another_owner(self, seed: int, status: str) -> None:
        """While one holds the run, no other can take it; what the owner writes counts."""
        result, held, asked = self.next_result(seed, status), threading.Event(), threading.Event()

        def own() -> None:
            with Store(self.store.folder).claim(result.run_id):
                held.set()
                asked.wait(10)
                Store(self.store.folder).write(result)

        owner = threading.Thread(target=own)
        owner.start()
        assert held.wait(10)
        try:
            with pytest.raises(StoreError), self.store.claim(result.run_id):
                pytest.fail("two owners of one run")
        finally:
            asked.set()
            owner.join()
        self.note(result)

    @rule(seed=SEEDS, statuses=st.lists(ENDS, min_size=2, max_size=4))
    def race(self, seed: int, statuses: list[str]) -> None:
        """Several want the run at once: those that get it write in some order, each alone."""
        written: list[Result] = []
        wanted = [self.next_result(seed, status) for status in statuses]
        start = threading.Barrier(len(wanted))

        def want(result: Result) -> None:
            start.wait(10)
            try:
                with Store(self.store.folder).claim(result.run_id):
                    Store(self.store.folder).write(result)
                    written.append(result)
            except StoreError:
                pass

        threads = [threading.Thread(target=want, args=(result,)) for result in wanted]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert written
        for result in written:
            self.note(result)

    @precondition(lambda self: any(self.expected.values()))
    @rule(data=st.data(), damage=st.sampled_from(sorted(DAMAGES)))
    def damage(self, data: st.DataObject, damage: str) -> None:
        seed = data.draw(st.sampled_from([one for one, record in self.expected.items() if record]))
        whole = self.path_of(seed).read_bytes()
        damaged = DAMAGES[damage](whole)
        if damaged != whole:
            self.path_of(seed).write_bytes(damaged)
            self.expected[seed] = None

    @precondition(lambda self: any(self.expected.values()))
    @rule(data=st.data(), share=st.floats(0, 1), bit=st.integers(0, 7))
    def flip_a_bit(self, data: st.DataObject, share: float, bit: int) -> None:
        """One that changes no value, in the space between two of them, may go unseen."""
        seed = data.draw(st.sampled_from([one for one, record in self.expected.items() if record]))
        path = self.path_of(seed)
        content = bytearray(path.read_bytes())
        content[int(share * (len(content) - 1))] ^= 1 << bit
        path.write_bytes(content)
        if read_record(path) != self.expected[seed]:
            self.expected[seed] = None

    @rule(seed=SEEDS)
    def lose_the_record(self, seed: int) -> None:
        self.path_of(seed).unlink(missing_ok=True)
        self.expected.pop(seed, None)

    @rule(
        name=st.sampled_from(["notes", "0123456789AB", "..x", "a\nb", "\x1b[31m", "\udcff"]),
        kind=st.sampled_from(["file", "folder", "record", "folder as record", "lost link", "loop"]),
    )
    def leave_something_foreign(self, name: str, kind: str) -> None:
        self.foreign += 1
        path = self.store.folder / "runs" / f"{name}{self.foreign}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "file":
            path.write_text("mine", encoding="utf-8")
        elif kind == "loop":
            path.symlink_to(path)
        else:
            path.mkdir()
        if kind == "record":
            (path / RECORD).write_text('{"mine": 1}', encoding="utf-8")
        elif kind == "folder as record":
            (path / RECORD).mkdir()
        elif kind == "lost link":
            (path / RECORD).symlink_to("nowhere")

    @rule()
    def reopen(self) -> None:
        """Another process finds the same, whatever the one before had in mind."""
        before = self.store.read_all()
        self.store = Store(self.store.folder)
        assert self.store.read_all() == before

    @rule()
    def recover(self) -> None:
        """What dead owners left: their runs have crashed, what is bad is out of the way, and all is said."""
        said = "\n".join(self.store.recover())
        for seed, record in list(self.expected.items()):
            run_id = make_result(seed, STARTED).run_id
            if record is None:
                assert run_id in said
                del self.expected[seed]
            elif record.status == STARTED:
                assert run_id in said
                found = self.store.read(run_id)
                assert found is not None
                assert (found.status, found.attempt) == ("crashed", record.attempt)
                self.expected[seed] = found

    def is_success(self, seed: int) -> bool:
        record = self.expected.get(seed)
        return record is not None and record.status == "success"

    @invariant()
    def nothing_is_lost_and_what_is_bad_is_named(self) -> None:
        good, bad = self.store.read_all()
        trusted = [record for record in self.expected.values() if record is not None]
        assert good == sorted(trusted, key=lambda one: one.run_id)
        named = {record.path for record in bad}
        assert all(record.reason for record in bad)
        assert {self.path_of(seed) for seed, record in self.expected.items() if record is None} <= named
        assert {path.name for path in named} <= {RECORD}  # nothing unfinished passes for a record

    @invariant()
    def a_run_is_done_if_and_only_if_its_success_can_be_read(self) -> None:
        for seed in range(4):
            found = self.store.read(make_result(seed, STARTED).run_id)
            assert (found is not None and found.status == "success") == self.is_success(seed)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(
    max_examples=15,
    stateful_step_count=20,
    suppress_health_check=[HealthCheck.too_slow],
)


def write_raw(store: Store, **changed: Any) -> Path:
    """A record with a right checksum, which says whatever it wants."""
    result = dataclasses.replace(make_result(0, "success"), **changed)
    store.write(result)
    return store.run_folder(make_result(0, "success").run_id) / RECORD


def test_half_a_character_cannot_stop_the_reading(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = write_raw(store)
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(values | {"phase": "\ud800"}), encoding="utf-8")
    found = read_record(path)
    assert isinstance(found, BadRecord)
    assert store.read_all() == ([], [found])
    store.write(make_result(0, "failed"))  # and it does not stand in the way
    assert [one.status for one in store.read_all()[0]] == ["failed"]


def test_an_error_with_half_a_character_can_be_recorded(tmp_path: Path) -> None:
    """A file name that is not UTF-8 is such a text, and stands in the error about the file."""
    text = os.fsdecode(b"\xff")
    store = Store(tmp_path)
    store.write(dataclasses.replace(make_result(0, "failed"), error={"message": f"file {text}.csv"}))
    (found,), bad = store.read_all()
    assert bad == []
    assert found.error is not None
    assert found.error["message"].startswith("file ")
    store.write_history(found.run_id, [{"step": 1, "note": text}])


@pytest.mark.parametrize(
    "changed",
    [
        {"config": []},
        {"metrics": 5},
        {"metrics": None},
        {"reasons": None},
        {"reasons": {"energy": 1}},
        {"labels": "abc"},
        {"attempt": "first"},
        {"attempt": True},
        {"started_at": None},
        {"phase": []},
        {"error": "no object"},
        {"time": [1]},
        {"data": ""},
    ],
)
def test_a_record_of_other_types_is_not_trusted(tmp_path: Path, changed: dict[str, Any]) -> None:
    store = Store(tmp_path)
    path = write_raw(store, **changed)
    good, (bad,) = store.read_all()
    assert good == []
    assert bad.path == path
    assert next(iter(changed)) in bad.reason


def test_asking_who_holds_a_run_takes_it_from_nobody(tmp_path: Path) -> None:
    store, run_id = Store(tmp_path), make_result(0, STARTED).run_id
    with store.claim(run_id):
        assert store.is_held(run_id)
    enough = threading.Event()

    def ask() -> None:
        while not enough.is_set():
            store.is_held(run_id)

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        for _ in range(1000):
            with store.claim(run_id):
                pass
    finally:
        enough.set()
        asker.join()


def test_a_record_that_is_no_file_cannot_hold_up_the_reading(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = write_raw(store)
    path.unlink()
    os.mkfifo(path)
    found: list[object] = []
    reader = threading.Thread(target=lambda: found.append(store.read_all()), daemon=True)
    reader.start()
    reader.join(5)
    waits = reader.is_alive()
    if waits:  # let it go on
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    assert not waits
