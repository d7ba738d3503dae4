"""The gateway's part of a trace: a span around each request, below that of whoever sent it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from producer import tracing

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "_OTHER"
"""What the semantic conventions call a method that is none of these: a client must not name as many spans as it
likes (https://opentelemetry.io/docs/specs/semconv/http/http-spans/)."""


class Traced:
    """An ASGI application whose requests are spans."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the application does."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        method = scope["method"] if scope["method"] in METHODS else OTHER
        with tracing.span(method, "server", _context(scope), http__request__method=method) as span:
            await self._app(scope, receive, noting if span is not None else send)
            if span is not None:
                route = str(getattr(scope.get("route"), "path", ""))
                span.update_name(f"{method} {route}".strip())
                span.set_attributes({"http.route": route, "http.response.status_code": status})
                if status >= 500:
                    tracing.fail(str(status))


def _context(scope: Scope) -> dict[str, object]:
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in scope["headers"]
        if name in {b"traceparent", b"tracestate"}
    }
