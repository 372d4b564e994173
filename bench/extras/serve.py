"""A classifier behind HTTP: POST /classify, GET /healthz, GET /metrics; requests at once share a batch."""

import asyncio
import dataclasses
import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, create_model

from bench import __version__
from bench.data.sources import Text
from bench.data.tasks import strip_task
from bench.errors import DataError, MissingError
from bench.run.manifest import Manifest
from bench.winner.classifier import Classifier, LabelPrediction


class Asked(NamedTuple):
    """A text, and its task where there are several."""

    text: Text
    task: str | None


Predict = Callable[[Sequence[Asked]], list[LabelPrediction]]
Job = tuple[list[Asked], Future[list[LabelPrediction]]]


@dataclass(frozen=True)
class RequestLimits:
    """What one request and all of them together may ask for."""

    texts: int  # in a request
    characters: int  # in a text
    waiting: int  # texts of requests that wait; beyond them the answer is 503
    batch: int  # texts that are classified at once


@dataclass
class Counts:
    """What /metrics says, since the start."""

    requests: dict[int, int] = field(default_factory=dict)  # by status
    texts: int = 0
    batches: int = 0
    seconds: float = 0.0  # of classifying

    def lines(self, waiting: int) -> str:
        """Write the counts as Prometheus reads them (text format 0.0.4)."""
        metrics = [
            "# TYPE bench_requests_total counter",
            *(f'bench_requests_total{{status="{key}"}} {n}' for key, n in sorted(self.requests.items())),
            "# TYPE bench_texts_total counter",
            f"bench_texts_total {self.texts}",
            "# TYPE bench_batches_total counter",
            f"bench_batches_total {self.batches}",
            "# TYPE bench_classify_seconds_total counter",
            f"bench_classify_seconds_total {self.seconds:.6f}",
            "# TYPE bench_texts_waiting gauge",
            f"bench_texts_waiting {waiting}",
        ]
        return "\n".join(metrics) + "\n"


class Batcher:
    """Gathers the texts of requests that come while a batch is classified, and classifies them together.

    One thread classifies, so that requests still come in meanwhile and no two batches compete; it ends with
    the process.
    """

    def __init__(self, predict: Predict, limits: RequestLimits, counts: Counts) -> None:
        self.waiting = 0
        self._predict, self._limits, self._counts = predict, limits, counts
        self._queue: queue.SimpleQueue[Job] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="classify", daemon=True).start()

    async def classify(self, texts: list[Asked]) -> list[LabelPrediction] | None:
        """Return the texts' predictions, or None if too many wait already."""
        if self.waiting + len(texts) > self._limits.waiting:
            return None
        future: Future[list[LabelPrediction]] = Future()
        self.waiting += len(texts)
        try:
            self._queue.put((texts, future))
            return await asyncio.wrap_future(future)
        finally:
            self.waiting -= len(texts)

    def _work(self) -> None:
        held: Job | None = None  # what was one too many for the batch before
        while True:
            taken, held = [held or self._queue.get()], None
            while not self._queue.empty() and held is None:
                following = self._queue.get()
                if sum(len(texts) for texts, _ in taken) + len(following[0]) > self._limits.batch:
                    held = following
                else:
                    taken.append(following)
            if jobs := [
                job for job in taken if job[1].set_running_or_notify_cancel()
            ]:  # whose clients are there
                self._answer(jobs)

    def _answer(self, jobs: list[Job]) -> None:
        """Classify the jobs' texts together; if that fails each job's alone, to know whose fault it is."""
        texts = [text for some, _ in jobs for text in some]
        began = time.perf_counter()
        try:
            answers = self._predict(texts)
        except Exception as error:
            if len(jobs) == 1:
                jobs[0][1].set_exception(error)
            else:
                for job in jobs:
                    self._answer([job])
            return
        self._counts.seconds += time.perf_counter() - began
        self._counts.texts += len(texts)
        self._counts.batches += 1
        for some, future in jobs:
            future.set_result(answers[: len(some)])
            answers = answers[len(some) :]


class Answer(BaseModel):
    """What one text is taken for."""

    label: str | list[str] | None  # a list where texts may have several
    probabilities: dict[str, float]
    reason: str | None  # why there is no label


class Classified(BaseModel):
    """In the order of the texts."""

    predictions: list[Answer]


class Fault(BaseModel):
    """What is wrong with a request."""

    detail: str


class Liveness(BaseModel):
    """What is served."""

    status: str
    run_id: str
    method: str
    labels: list[str]
    tasks: dict[str, list[str]] | None = None  # the labels of each, where there are several


def make_app(classifier: Classifier, limits: RequestLimits) -> FastAPI:
    """Make the HTTP application around the classifier."""
    counts, manifest = Counts(), classifier.manifest
    batcher = Batcher(_predict_with(classifier, limits), limits, counts)
    text = Annotated[str, StringConstraints(min_length=1, max_length=limits.characters)]
    second_texts: Any = list[text] | None if manifest.pairs else None  # so that the description is true

    class Question(BaseModel):
        """Texts to classify."""

        model_config = ConfigDict(extra="forbid")
        texts: Annotated[list[text], Field(min_length=1, max_length=limits.texts)]
        pairs: second_texts = None  # the second text of each, for a run that reads pairs

    question: Any = Question
    if manifest.tasks is not None:  # one of which is that of all texts
        names: Any = Literal[tuple(manifest.tasks)]
        question = create_model("Question", __base__=Question, __doc__=Question.__doc__, task=(names, ...))
    app = FastAPI(title="bench", version=__version__, docs_url=None, redoc_url=None)
    app.middleware("http")(_count(counts, limits, sides=1 + manifest.pairs))
    app.exception_handler(RequestValidationError)(_explain)
    faults: dict[int | str, dict[str, Any]] = {code: {"model": Fault} for code in (400, 411, 413, 422, 503)}

    @app.post("/classify", responses=faults)
    async def classify(request: question) -> Classified:
        """Return each text's label and probabilities; no label where its probability is too low."""
        second, task = request.pairs, getattr(request, "task", None)
        for name, given in (("texts", request.texts), ("pairs", second or [])):
            if empty := [number for number, text in enumerate(given) if not text.strip()]:
                return _refuse(422, f"{name}.{empty[0]}: is empty")  # type: ignore[return-value]
        if fault := _find_unpaired(request.texts, second, manifest):
            return _refuse(422, fault)  # type: ignore[return-value]
        texts: list[Text] = (
            [*request.texts] if second is None else list(zip(request.texts, second, strict=True))
        )
        try:
            answers = await batcher.classify([Asked(text, task) for text in texts])
        except DataError as error:
            return _refuse(422, str(error))  # type: ignore[return-value]
        if answers is None:
            return _refuse(503, "too many texts wait; try again")  # type: ignore[return-value]
        return Classified(predictions=[Answer(**dataclasses.asdict(answer)) for answer in answers])

    @app.get("/healthz", response_model_exclude_none=True)
    async def healthz() -> Liveness:
        """Tell that the server lives, and what it serves."""
        return Liveness(
            status="ok",
            run_id=manifest.run_id,
            method=manifest.method,
            labels=list(manifest.labels),
            tasks=_list_tasks(manifest),
        )

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> str:
        """Return counts for Prometheus."""
        return counts.lines(batcher.waiting)

    return app


def _predict_with(classifier: Classifier, limits: RequestLimits) -> Predict:
    """Return what classifies texts of any tasks together."""

    def predict(asked: Sequence[Asked]) -> list[LabelPrediction]:
        texts = [one.text for one in asked]
        if classifier.manifest.tasks is None:
            return classifier.predict(texts, batch_size=limits.batch)
        return classifier.predict(texts, tasks=[str(one.task) for one in asked], batch_size=limits.batch)

    return predict


def _list_tasks(manifest: Manifest) -> dict[str, list[str]] | None:
    """List the labels of each task as its answers have them; None where there is one."""
    tasks = manifest.tasks or {}
    return {task: [strip_task(label, task) for label in own] for task, own in tasks.items()} or None


def _find_unpaired(texts: Sequence[str], second: Sequence[str] | None, manifest: Manifest) -> str | None:
    """Say what is wrong with the second texts of a request, or return None."""
    if manifest.pairs and second is None:
        return "pairs: is missing; this classifier reads two texts, so give the second of each there"
    if second is not None and len(second) != len(texts):
        return f"pairs: has {len(second)} texts for the {len(texts)} in texts"
    return None


def run(app: FastAPI, *, host: str, port: int) -> int:
    """Serve until interrupted, and return the exit code. A port of 0 is any that is free.

    Raises:
        MissingError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise MissingError(
            f"--host {host} --port {port}: {error.strerror or error}; choose another"
        ) from None
    name = f"[{host}]" if ":" in host else host
    print(f"serving at http://{name}:{listener.getsockname()[1]}/classify", flush=True)
    settings = uvicorn.Config(app, log_level="warning", access_log=False)
    uvicorn.Server(settings).run(sockets=[listener])
    return 0


def _count(counts: Counts, limits: RequestLimits, *, sides: int) -> Any:
    """Refuse bodies larger than the largest request in order, unread, and count every answer."""
    # A character may be written as \\ud83d\\ude00.
    largest = 1024 + sides * limits.texts * (12 * limits.characters + 8)

    async def handle(request: Request, go_on: Any) -> Response:
        length = request.headers.get("content-length", "")
        if request.method != "POST":
            response = await go_on(request)
        elif not length.isdigit():
            response = _refuse(411, "Content-Length: give the length of the body")
        elif int(length) > largest:
            response = _refuse(413, f"a body has at most {largest} bytes")
        else:
            response = await go_on(request)
        counts.requests[response.status_code] = counts.requests.get(response.status_code, 0) + 1
        return response  # type: ignore[no-any-return]

    return handle


async def _explain(_: Request, error: Exception) -> JSONResponse:
    """Say what is wrong with a body, in one line and without repeating it."""
    first = error.errors()[0] if isinstance(error, RequestValidationError) else {}
    place = ".".join(str(one) for one in first.get("loc", ())[1:]) or "body"
    if first.get("type") == "json_invalid":
        return _refuse(422, "body: is not JSON")
    return _refuse(422, f"{place}: {first.get('msg', 'is not as it must be')}")


def _refuse(status: int, detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, status_code=status)
