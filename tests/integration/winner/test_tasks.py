"""Several tasks in use: adapters on one base in one batch, and one model with a head for each."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest

import bench
from bench.errors import ConfigError
from bench.results.store import Result, Store
from bench.winner import export

Train = Callable[..., tuple[Store, Result]]
Bench = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def files(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two tasks: the topics of the tiny texts, and whether a text is of shares."""
    folder, frame = tmp_path_factory.mktemp("tasks"), pd.read_csv(texts)
    labels = frame["label"].where(frame["label"] == "股市", "其他")
    frame.to_csv(folder / "topics.csv", index=False)
    frame.assign(text=frame["text"] + " 期", label=labels).to_csv(folder / "shares.csv", index=False)
    return [folder / "topics.csv", folder / "shares.csv"]


@pytest.fixture(scope="session")
def exported(train: Train, files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """An adapter of each task, in a folder of the task's name."""
    folders, folder = [], tmp_path_factory.mktemp("exported")
    for path in files:
        store, result = train("method=lora", f"data.train={path}")
        export.export(store, result, folder / path.stem)
        folders.append(folder / path.stem)
    return folders


def test_a_batch_of_several_adapters_answers_each_text_as_its_own_alone(
    exported: list[Path], files: list[Path], command: Bench, train: Train
) -> None:
    both = bench.load(*exported)
    texts = pd.read_csv(files[0])["text"].tolist()[:20]
    tasks = ["topics", "shares"] * 10
    found = both.predict(texts, tasks=tasks)
    for task, folder in zip(("topics", "shares"), exported, strict=True):
        alone = bench.load(folder).predict(texts)
        mixed = [one for one, own in zip(found, tasks, strict=True) if own == task]
        expected = [one for one, own in zip(alone, tasks, strict=True) if own == task]
        assert [one.label for one in mixed] == [one.label for one in expected]
        for one, other in zip(mixed, expected, strict=True):
            assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
    assert len({len(one.probabilities) for one in found}) == 2  # heads of two sizes
    with pytest.raises(ConfigError, match=r"task topic: .* has no such task; did you mean topics"):
        both.predict(texts[:1], tasks=["topic"])
    with pytest.raises(ConfigError, match="has several tasks: say which each text is of"):
        both.predict(texts)
    store, _ = train("method=lora", f"data.train={files[0]}")
    code, out, _ = command("latency", *exported, "--results", store.folder)
    assert (code, "base + all adapters" in out) == (0, True)
    kept = json.loads(Path(out.splitlines()[-1]).read_text())
    assert list(kept["tasks"]) == ["topics", "shares"]
    assert kept["memory"]["peak_bytes"] > 0


@pytest.mark.parametrize(
    ("file", "changed", "message"),
    [
        ("bench.json", {"kind": "full"}, r"other: holds no single adapter without gates; serve it alone"),
        ("bench.json", {"max_length": 16}, r"other: has max_length=16, and .* has 64; train both alike"),
        ("bench.json", {"thresholds": [0.5] * 3}, r"other: only heads with one label a text share a batch"),
        ("bench.json", {"base": {"content": "x"}}, r"other: its base is local, another than that of "),
        ("adapter_config.json", {"use_dora": True}, r"other: PEFT gives each text .* plain LoRA alone"),
    ],
)
def test_what_no_batch_can_have_is_refused(
    exported: list[Path], tmp_path: Path, file: str, changed: dict[str, object], message: str
) -> None:
    path = shutil.copytree(exported[0], tmp_path / "other") / file
    values = json.loads(path.read_text(encoding="utf-8"))
    for name, value in changed.items():
        values[name] = values[name] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        bench.load(exported[0], tmp_path / "other")


def test_two_folders_of_one_name_are_refused(exported: list[Path]) -> None:
    with pytest.raises(ConfigError, match="a folder's name is its task, and two have one name; rename one"):
        bench.load(exported[0], exported[1].parent / "other" / exported[0].name)


def test_one_model_of_several_tasks_is_exported_and_asked_task_by_task(
    train: Train, files: list[Path], command: Bench, tmp_path: Path
) -> None:
    named = f"data.tasks=[{files[0]},{files[1]}]"
    store, result = train("method=lora", "data=tasks", "data.train=null", named)
    made = export.export(store, result, tmp_path / "joined")
    predictions = store.read_predictions(result.run_id).query("split == 'test'")
    test = pd.read_csv(files[1])["text"].tolist()
    again = bench.load(tmp_path / "joined")
    for one in again.predict(test[:5], tasks=["shares"] * 5):
        assert set(one.probabilities) == {"股市", "其他"}
        assert sum(one.probabilities.values()) == pytest.approx(1)
    assert made.manifest.tasks is not None
    assert sorted(map(len, made.manifest.tasks.values())) == [2, 3]
    assert set(predictions["label"]) == set(result.labels)
    code, out, _ = command("classify", tmp_path / "joined", "--task", "topics", test[0], "--json")
    assert code == 0
    assert set(json.loads(out)) == {
        "text",
        "prediction",
        "probability_股市",
        "probability_债券",
        "probability_外汇",
    }
    for more, message in (([], "several tasks"), (["--task", "topic"], "did you mean topics?")):
        code, _, err = command("classify", tmp_path / "joined", *more, test[0])
        assert (code, message in err) == (2, True)
    card = (tmp_path / "joined" / "README.md").read_text(encoding="utf-8")
    code_of_card = (
        card.split("```python\n")[1].split("```")[0].replace('folder = "."', f'folder = "{tmp_path}/joined"')
    )
    said: dict[str, Any] = {}
    exec(code_of_card.replace("put your texts here", test[0]), said)
    own = again.predict(test[:1], tasks=["topics"])[0]
    assert said["probabilities"][0].tolist() == pytest.approx([*own.probabilities.values()], abs=1e-4)
    code, out, _ = command("merge", result.run_id, tmp_path / "merged", "--results", store.folder)
    assert (code, "as trained" in out) == (0, True)


def test_a_request_names_its_task(exported: list[Path]) -> None:
    import asyncio

    from bench.extras.serve import RequestLimits, make_app

    both = bench.load(*exported)
    app = make_app(both, RequestLimits(texts=4, characters=50, waiting=16, batch=8))

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            bodies = [
                {"texts": ["股票上涨"], **more}
                for more in ({"task": "topics"}, {"task": "shares"}, {}, {"task": "x"})
            ]
            answers = await asyncio.gather(*(client.post("/classify", json=body) for body in bodies))
            return [*answers, await client.get("/healthz")]

    topics, shares, missing, unknown, health = asyncio.run(ask())
    assert set(topics.json()["predictions"][0]["probabilities"]) == {"股市", "债券", "外汇"}
    assert set(shares.json()["predictions"][0]["probabilities"]) == {"股市", "其他"}
    assert (missing.status_code, missing.json()) == (422, {"detail": "task: Field required"})
    assert unknown.json() == {"detail": "task: Input should be 'topics' or 'shares'"}
    assert list(health.json()["tasks"]) == ["topics", "shares"]
