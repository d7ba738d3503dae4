"""Traces: one from who asks to who answers, none where nobody wants any, and none that somebody else can break."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from redis import Redis

from db.session import Database
from migrations import upgrade
from producer import tracing
from producer.broker import arguments, celery_app
from producer.gateway.spans import Traced
from producer.ids import new_id
from producer.ledger import Ledger
from producer.messages import Queue, Removal, RemoveChunk
from producer.settings import ProducerSettings
from tests.integration.test_ingest import Bench, chunk, item
from tests.services import free_port
from worker.carrying import CarryingExecutor
from worker.heartbeat import beating

WAIT = 60.0
OUTSIDE = "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbb-01"
HOSTILE: tuple[object, ...] = (
    "00-" + "0" * 32 + "-" + "0" * 16 + "-01",
    "ff-zz",
    "00-" + "a" * 32 + "-" + "b" * 16 + "-01" + "x" * 100_000,
    "\u2028\x00",
    7,
    ["00-" + "a" * 32 + "-" + "b" * 16 + "-01"],
    {"x": []},
    None,
)


class Collector(ThreadingHTTPServer):
    """Takes in spans as OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        collected = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    import gzip

                    body = gzip.decompress(body)
                for part in ExportTraceServiceRequest.FromString(body).resource_spans:
                    names = {a.key: a.value.string_value for a in part.resource.attributes}
                    for scope in part.scope_spans:
                        collected.extend((names["service.name"], span) for span in scope.spans)
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.end_headers()
                self.wfile.write(ExportTraceServiceResponse().SerializeToString())

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        super().__init__(("127.0.0.1", 0), Handler)

    def named(self, name: str) -> list[tuple[str, Span]]:
        return [(service, span) for service, span in list(self.spans) if span.name == name]

    def one(self, name: str, trace: bytes) -> tuple[str, Span]:
        until(lambda: any(span.trace_id == trace for _, span in self.named(name)))
        (found,) = (each for each in self.named(name) if each[1].trace_id == trace)
        return found


def until(done: Callable[[], bool]) -> None:
    ends = time.monotonic() + WAIT
    while not done():
        assert time.monotonic() < ends
        time.sleep(0.05)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@contextmanager
def process(environment: dict[str, str], folder: Path, *command: str) -> Iterator[None]:
    name = command[-1]
    with (folder / f"{name}.log").open("wb") as out:
        started = subprocess.Popen(
            [sys.executable, "-m", *command], env=environment, stdout=out, stderr=out
        )
    try:
        yield
    finally:
        started.terminate()
        started.wait(WAIT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traced")


@pytest.fixture(scope="module")
def gateway(collector: Collector, valkey_url: str, folder: Path) -> Iterator[httpx.Client]:
    """A gateway and an index worker that send their spans to the collector."""
    port = free_port()
    catalogue = f"sqlite:///{folder / 'catalogue.db'}"
    upgrade(Database(catalogue))
    environment = os.environ | {
        "LOOKALIKE_REDIS_URL": valkey_url,
        "LOOKALIKE_DATABASE_URL": catalogue,
        "LOOKALIKE_DATA_DIR": str(folder),
        "LOOKALIKE_HTTP_PORT": str(port),
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    with (
        Redis.from_url(valkey_url) as redis,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT) as http,
    ):
        redis.flushall()
        with (
            process(environment, folder, "worker", "run", "index"),
            process(environment, folder, "producer.cli", "serve"),
        ):
            until(lambda: bool(beating(redis)) and _answers(http))
            yield http


def _answers(http: httpx.Client) -> bool:
    try:
        return http.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def attributes(span: Span) -> dict[str, Any]:
    return {
        each.key: getattr(each.value, str(each.value.WhichOneof("value")))
        for each in span.attributes
    }


def test_one_trace_goes_from_the_request_to_the_commit(
    gateway: httpx.Client, collector: Collector
) -> None:
    headers = {"traceparent": OUTSIDE, "baggage": "x=" + "y" * 5000}
    said = gateway.delete("/products/sku", headers=headers)
    assert said.status_code == 202
    job = said.headers["location"].rpartition("/")[2]
    trace = bytes.fromhex("a" * 32)
    parent = bytes.fromhex("b" * 16)
    expected = [
        ("lookalike-gateway", "DELETE /products/{product_id:path}", Span.SPAN_KIND_SERVER),
        ("lookalike-gateway", "send control", Span.SPAN_KIND_PRODUCER),
        ("lookalike-index", "process control", Span.SPAN_KIND_CONSUMER),
        ("lookalike-index", "commit", Span.SPAN_KIND_INTERNAL),
    ]
    for service, name, kind in expected:
        from_, span = collector.one(name, trace)
        assert (from_, span.kind, span.parent_span_id) == (service, kind, parent)
        parent = span.span_id
    handled = attributes(collector.one("process control", trace)[1])
    assert handled["messaging.message.id"] == job
    assert handled["lookalike.task"] == "lookalike.remove"
    assert 0 <= handled["lookalike.waited"] < WAIT
    status = attributes(collector.one(expected[0][1], trace)[1])["http.response.status_code"]
    assert status == 202
    assert "y" * 100 not in str(collector.spans)


@pytest.mark.parametrize("position", range(len(HOSTILE)))
def test_a_trace_context_that_is_none_begins_a_new_trace(
    gateway: httpx.Client, collector: Collector, valkey_url: str, position: int
) -> None:
    parent = HOSTILE[position]
    settings = ProducerSettings.model_validate({"redis_url": valkey_url})
    job = RemoveChunk(
        id=new_id(), accepted_at=time.time(), items=(Removal(product_id="x", version=1),)
    )
    with Redis.from_url(valkey_url) as redis, celery_app(settings) as app:
        Ledger(redis).accept([job])
        app.send_task(
            job.task,
            args=arguments(app, job),
            queue=Queue.CONTROL.value,
            task_id=job.id,
            headers={"traceparent": parent, "tracestate": "a=b," * 10_000, "baggage": "x=y"},
        )
        until(lambda: Ledger(redis).outcomes([job.id])[0] is not None)

    def handled() -> list[Span]:
        return [
            span
            for _, span in collector.named("process control")
            if attributes(span)["messaging.message.id"] == job.id
        ]

    until(lambda: bool(handled()))
    assert [span.parent_span_id for span in handled()] == [b""]


def test_a_question_that_fails_is_a_span_that_did_and_holds_no_text_of_the_error(
    gateway: httpx.Client, collector: Collector, folder: Path
) -> None:
    from sqlalchemy import text

    database = Database(f"sqlite:///{folder / 'catalogue.db'}")
    with database.writing() as session:
        session.execute(text("ALTER TABLE dead_letter RENAME TO lost"))
    trace = "c" * 32
    gateway.get("/status", headers={"traceparent": f"00-{trace}-{'d' * 16}-01"})
    _, span = collector.one("process control", bytes.fromhex(trace))
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert span.status.message in {"internal", "unavailable"}
    assert not span.events


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """The spans of this process, while the test runs."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    here = tracing._Tracing(provider)
    monkeypatch.setattr(tracing, "_tracing", lambda: here)
    yield exporter
    provider.shutdown()


def test_the_stages_of_a_chunk_are_below_its_message(
    spans: InMemorySpanExporter, sqlite_database: Database, empty_valkey_url: str
) -> None:
    with Redis.from_url(empty_valkey_url) as redis, tracing.span("process ingest", "consumer"):
        bench = Bench(sqlite_database, redis)
        bench.applied(bench.accept(chunk(item("a"), item("b"))))
    *stages, whole = spans.get_finished_spans()
    assert [each.name for each in stages] == ["fetch", "decode", "model", "commit"]
    assert whole.context is not None
    assert {each.parent and each.parent.span_id for each in stages} == {whole.context.span_id}
    assert stages[0].attributes == {"lookalike.pictures": 2}


def test_an_error_is_named_by_its_type_alone(spans: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="hunter2"), tracing.span("x"):
        int("redis://:hunter2@shop")
    (span,) = spans.get_finished_spans()
    assert (span.status.is_ok, span.status.description) == (False, "ValueError")
    assert "hunter2" not in span.to_json()


def test_a_client_does_not_name_spans(spans: InMemorySpanExporter) -> None:
    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        """Answers nothing."""

    for method in ("GET", "X" * 30_000, "Y"):
        scope: Any = {"type": "http", "method": method, "headers": []}
        asyncio.run(Traced(app)(scope, None, None))  # type: ignore[arg-type]
    assert [each.name for each in spans.get_finished_spans()] == ["GET", "_OTHER", "_OTHER"]
    assert not any("XX" in each.to_json() for each in spans.get_finished_spans())


def test_threads_that_help_are_in_the_same_trace(spans: InMemorySpanExporter) -> None:
    def helped() -> None:
        with tracing.span("inner"):
            assert "traceparent" in tracing.headers()

    with CarryingExecutor(1) as executor, tracing.span("outer"):
        executor.submit(helped).result()
    inner, outer = spans.get_finished_spans()
    assert inner.parent == outer.context
    assert tracing.headers() == {}


OFF = """
import sys
from producer import tracing
from producer.broker import celery_app, send
from producer.settings import ProducerSettings
tracing.configure("embed")
with tracing.span("x") as span:
    assert span is None
    assert tracing.headers() == {}
    tracing.fail("y")
ours = ("opentelemetry.sdk.trace", "opentelemetry.exporter")
print([name for name in sys.modules if name.startswith(ours)])  # redis-py brings in others
"""


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
    ],
    ids=["not set", "disabled", "no exporter"],
)
def test_nothing_is_imported_where_nobody_wants_traces(environment: dict[str, str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", OFF],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.stdout.strip(), ran.stderr) == ("[]", "")


MISSING = """
import importlib.util, logging
logging.basicConfig()
from producer import tracing
tracing.find_spec = lambda name: None
tracing.configure("embed")
with tracing.span("x") as span:
    assert span is None
"""


def test_without_the_package_the_process_says_so_and_works() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", MISSING],
        env=os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "pip install 'lookalike[tracing]'" in ran.stderr


def test_spans_cost_next_to_nothing_when_they_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_is_on", lambda: False)
    began = time.perf_counter()
    for _ in range(1000):
        with tracing.span("x", lookalike__pictures=1):
            tracing.headers()
    assert time.perf_counter() - began < 0.5
