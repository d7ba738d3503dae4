"""Traces with OpenTelemetry, from who asks to who answers: the extra `tracing`.

Nothing of it is imported unless a trace can go somewhere: the standard variable OTEL_EXPORTER_OTLP_ENDPOINT (or
that for traces alone) says where to, or the process has set up OpenTelemetry itself. A message carries its trace
context in the two headers of the W3C (https://www.w3.org/TR/trace-context/), beside its signed body: whoever
forges them spoils a trace, and nothing else.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from opentelemetry.trace import Span, TracerProvider

log = logging.getLogger(__name__)

Kind = Literal["internal", "server", "producer", "consumer"]
Value = str | int | float | bool

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
LENGTHS = {"traceparent": 128, "tracestate": 512}
"""The headers of a trace context, and how long one may be."""
_SDK = "opentelemetry.sdk.trace"


def configure(role: str) -> None:
    """Have this process send its spans, if the environment says where to."""
    if not _is_wanted():
        return
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.sdk") is None:
        log.warning("no traces are sent: pip install 'lookalike[tracing]'")
        return
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": f"lookalike-{role}"}
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


@contextmanager
def span(
    name: str,
    kind: Kind = "internal",
    context: Mapping[str, object] | None = None,
    **attributes: Value,
) -> Iterator[Span | None]:
    """A span around the block, below the current one, or below that of `context`: the headers of a message.

    An error that ends it is named by its type alone: its text may hold what is nobody's business.
    """
    tracing = _tracing() if _is_on() else None
    if tracing is None:
        yield None
        return
    with tracing.span(name, kind, context, attributes) as begun:
        try:
            yield begun
        except Exception as error:
            tracing.fail(type(error).__name__)
            raise


def fail(reason: str) -> None:
    """The current span has failed, for this reason."""
    tracing = _tracing() if _is_on() else None
    if tracing is not None:
        tracing.fail(reason)


def headers() -> dict[str, str]:
    """The current trace context, for a message to carry; empty where there is none."""
    tracing = _tracing() if _is_on() else None
    return tracing.headers() if tracing is not None else {}


class _Tracing:
    """What is used of OpenTelemetry."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        """Of the process's provider, unless another one is given."""
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._api = trace
        self._tracer = trace.get_tracer("lookalike", tracer_provider=provider)
        self._propagator = TraceContextTextMapPropagator()
        self._kinds = {
            "internal": trace.SpanKind.INTERNAL,
            "server": trace.SpanKind.SERVER,
            "producer": trace.SpanKind.PRODUCER,
            "consumer": trace.SpanKind.CONSUMER,
        }

    @contextmanager
    def span(
        self,
        name: str,
        kind: Kind,
        context: Mapping[str, object] | None,
        attributes: Mapping[str, Value],
    ) -> Iterator[Span]:
        with self._tracer.start_as_current_span(
            name,
            context=None if context is None else self._propagator.extract(_believed(context)),
            kind=self._kinds[kind],
            attributes={key.replace("__", "."): value for key, value in attributes.items()},
            record_exception=False,
            set_status_on_exception=False,
        ) as begun:
            yield begun

    def fail(self, reason: str) -> None:
        self._api.get_current_span().set_status(self._api.StatusCode.ERROR, reason)

    def headers(self) -> dict[str, str]:
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return carrier


def _believed(context: Mapping[str, object]) -> dict[str, str]:
    """What is a header of a trace context at all."""
    found = {name: context.get(name) for name in LENGTHS}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, str) and value.isascii() and len(value) <= LENGTHS[name]
    }


def _is_on() -> bool:
    return _SDK in sys.modules or _is_possible()


@cache
def _is_possible() -> bool:
    return _is_wanted() and find_spec("opentelemetry") is not None


@cache
def _is_wanted() -> bool:
    """Whether the environment says that traces are to be sent, and where to."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if os.environ.get("OTEL_TRACES_EXPORTER", "otlp") == "none":
        return False
    return any(os.environ.get(name) for name in ENDPOINTS)


@cache
def _tracing() -> _Tracing | None:
    try:
        return _Tracing()
    except ImportError:  # half of it is installed
        return None
