"""What the gateway counts: requests by address and status, who waits, and how many threads are taken."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from producer.metering import QUICK, new_registry, say_what_runs

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from producer.gateway.gateway import Gateway

REGISTRY = new_registry()
"""Of this process."""
OTHER = "other"
"""The address and the method of what is none of ours: a client must not make as many figures as it likes."""
ABORTED = "aborted"
"""The status of a request that ended before there was one."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

REQUESTS = Counter(
    "lookalike_http_requests",
    "Requests answered, by method, address and status.",
    ("method", "route", "status"),
    registry=REGISTRY,
)
SECONDS = Histogram(
    "lookalike_http_request_seconds",
    "From a request's headers to the end of its answer: of events, for as long as somebody listens.",
    ("method", "route"),
    buckets=QUICK,
    registry=REGISTRY,
)
IN_PROGRESS = Gauge(
    "lookalike_http_requests_in_progress", "Requests that are being answered.", registry=REGISTRY
)


class Measured:
    """An ASGI application that counts what another one does."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the application does."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = ABORTED

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        began = time.perf_counter()
        IN_PROGRESS.inc()
        try:
            await self._app(scope, receive, noting)
        finally:
            IN_PROGRESS.dec()
            method, route = _method(scope), _route(scope)
            REQUESTS.labels(method, route, status).inc()
            SECONDS.labels(method, route).observe(time.perf_counter() - began)


class _Waiting(Collector):
    """Who waits in a gateway, looked at when it is asked for."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def collect(self) -> Iterator[Metric]:
        """The figures of now."""
        watchers = GaugeMetricFamily(
            "lookalike_http_mailbox_watchers", "Requests that wait for an answer to a lookup."
        )
        watchers.add_metric((), self._gateway.mailboxes.watchers)
        taken = GaugeMetricFamily(
            "lookalike_http_pool_requests",
            "Requests that have, or wait for, a thread of a pool.",
            labels=("pool",),
        )
        threads = GaugeMetricFamily(
            "lookalike_http_pool_threads", "Threads of a pool.", labels=("pool",)
        )
        limit = GaugeMetricFamily(
            "lookalike_http_pool_limit",
            "Requests that may have, or wait for, a thread of a pool: more are refused as busy.",
            labels=("pool",),
        )
        for pool in self._gateway.pools:
            taken.add_metric((pool.name,), pool.taken)
            threads.add_metric((pool.name,), pool.count)
            limit.add_metric((pool.name,), pool.most)
        return iter((watchers, taken, threads, limit))


def watch(gateway: Gateway) -> None:
    """Add who waits in this process's gateway, and what runs."""
    REGISTRY.register(_Waiting(gateway))
    packages = ("celery", "kombu", "redis", "fastapi", "uvicorn")
    say_what_runs(REGISTRY, "gateway", packages)


def _method(scope: Scope) -> str:
    method = str(scope["method"])
    return method if method in METHODS else OTHER


def _route(scope: Scope) -> str:
    """The address as it is described, without what stands for its parameters."""
    return str(getattr(scope.get("route"), "path", OTHER))
