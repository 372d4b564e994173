"""The HTTP endpoint: right answers, clear refusals, requests at once in a batch, and nothing breaks it."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings

import bench
from bench.errors import DataError
from bench.extras.serve import RequestLimits, make_app
from bench.results.store import Result, Store
from bench.winner import export
from bench.winner.classifier import LabelPrediction

LIMITS = RequestLimits(texts=4, characters=50, waiting=16, batch=8)
LABELS = ["good", "bad"]


class Fake:
    """A classifier by the first letter, which notes its batches and can be held up."""

    def __init__(self) -> None:
        self.manifest = SimpleNamespace(
            run_id="0123456789ab", method="lora", labels=LABELS, pairs=False, tasks=None
        )
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()

    def predict(self, texts: Sequence[str], *, batch_size: int) -> list[LabelPrediction]:
        assert batch_size == LIMITS.batch
        self.batches.append(list(texts))
        self.gate.wait(10)
        if "broken" in texts:
            raise DataError("the tokenizer finds no token")
        if texts == ["?"]:
            reason = "the highest probability, 0.5000, is below 0.8"
            return [LabelPrediction(None, {"good": 0.5, "bad": 0.5}, reason)]
        return [
            LabelPrediction(LABELS[one[0] != "g"], {"good": 0.9 if one[0] == "g" else 0.1, "bad": 0.5})
            for one in texts
        ]


SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", make_app(Fake(), LIMITS))  # type: ignore[arg-type]


def ask(fake: Any, *bodies: Any, **options: Any) -> list[httpx.Response]:
    """The answers to requests that come at the same time."""

    async def send() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=make_app(fake, LIMITS))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            asked = [client.post("/classify", **(options or {"json": one})) for one in bodies]
            if not fake.gate.is_set():
                asyncio.get_running_loop().call_later(0.2, fake.gate.set)
            answers = await asyncio.gather(*asked)
            return [*answers, await client.get("/metrics"), await client.get("/healthz")]

    return asyncio.run(send())


def test_texts_come_back_in_order_with_their_probabilities() -> None:
    answer, metrics, health = ask(Fake(), {"texts": ["great", "awful", "good"]})
    assert answer.status_code == 200
    found = answer.json()["predictions"]
    assert [one["label"] for one in found] == ["good", "bad", "good"]
    assert found[0]["probabilities"] == {"good": 0.9, "bad": 0.5}
    assert health.json() == {"status": "ok", "run_id": "0123456789ab", "method": "lora", "labels": LABELS}
    assert metrics.headers["content-type"].startswith("text/plain")
    lines = metrics.text.splitlines()
    assert 'bench_requests_total{status="200"} 1' in lines
    assert {"bench_texts_total 3", "bench_batches_total 1", "bench_texts_waiting 0"} <= set(lines)


def test_a_text_without_a_label_says_why() -> None:
    answer, *_ = ask(Fake(), {"texts": ["?"]})
    assert answer.json()["predictions"] == [
        {
            "label": None,
            "probabilities": {"good": 0.5, "bad": 0.5},
            "reason": "the highest probability, 0.5000, is below 0.8",
        }
    ]


def test_requests_at_once_share_batches_and_get_their_own_answers() -> None:
    fake = Fake()
    fake.gate.clear()  # so that all but the first wait together
    bodies = [{"texts": [f"{'gb'[number % 2]}{number}a", f"b{number}"]} for number in range(6)]
    *answers, _, _ = ask(fake, *bodies)
    assert [one.json()["predictions"][0]["label"] for one in answers] == ["good", "bad"] * 3
    assert max(map(len, fake.batches)) == 8
    assert len(fake.batches) <= 3
    assert sorted(text for some in fake.batches for text in some) == sorted(
        text for body in bodies for text in body["texts"]
    )


def test_a_request_that_fails_does_not_fail_those_beside_it() -> None:
    fake = Fake()
    fake.gate.clear()
    *answers, _, _ = ask(fake, {"texts": ["go"]}, {"texts": ["broken"]}, {"texts": ["bad"]})
    assert [one.status_code for one in answers] == [200, 422, 200]
    assert answers[1].json() == {"detail": "the tokenizer finds no token"}


def test_more_texts_than_may_wait_are_refused() -> None:
    fake = Fake()
    fake.gate.clear()
    *answers, _, _ = ask(fake, *[{"texts": ["go"] * 4}] * 6)
    assert [one.status_code for one in answers] == [200] * 4 + [503] * 2
    assert answers[-1].json() == {"detail": "too many texts wait; try again"}


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ({"texts": []}, 422, "texts: List should have at least 1 item"),
        ({"texts": ["a"] * 5}, 422, "texts: List should have at most 4 items"),
        ({"texts": ["a" * 51]}, 422, "texts.0: String should have at most 50 characters"),
        ({"texts": ["good", " \n"]}, 422, "texts.1: is empty"),
        ({"texts": "good"}, 422, "texts: Input should be a valid list"),
        ({"texts": ["good"], "more": 1}, 422, "more: Extra inputs are not permitted"),
        ({}, 422, "texts: Field required"),
        ({"texts": ["a" * 5000]}, 413, "a body has at most 3456 bytes"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(body: Any, status: int, detail: str) -> None:
    answer, *_ = ask(Fake(), body)
    assert answer.status_code == status
    assert answer.json()["detail"].startswith(detail)


def test_a_body_that_is_no_json_or_of_no_known_length_is_refused() -> None:
    answer, *_ = ask(Fake(), None, content=b'{"texts": ["go', headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["detail"]) == (422, "body: is not JSON")

    async def stream() -> Any:
        yield b'{"texts": ["good"]}'

    answer, *_ = ask(Fake(), None, content=stream(), headers={"content-type": "application/json"})
    assert answer.status_code == 411


@SCHEMA.parametrize()
@settings(
    max_examples=20, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
def test_no_request_of_its_own_description_breaks_it(case: Any) -> None:
    case.call_and_validate()


def test_a_folder_is_served(train: Callable[..., tuple[Store, Result]], tmp_path: Path) -> None:
    store, result = train("method=lora")
    export.export(store, result, tmp_path / "model")
    found = bench.load(tmp_path / "model")
    expected = found.predict(["股票上涨", "美元汇率"])

    async def send() -> httpx.Response:
        app = make_app(found, RequestLimits(texts=4, characters=50, waiting=16, batch=8))
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://test"
        ) as client:
            return await client.post("/classify", json={"texts": ["股票上涨", "美元汇率"]})

    answer = asyncio.run(send()).json()["predictions"]
    assert [one["label"] for one in answer] == [one.label for one in expected]
    assert answer[0]["probabilities"] == pytest.approx(expected[0].probabilities)
