"""The gateway's log of requests: a line for each that changes or asks something, or fails."""

from __future__ import annotations

import logging
import re
import time
from typing import TYPE_CHECKING

from producer import logs

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

_NAMED = re.compile(r"/(?:lookups|jobs)/([0-9a-f-]{36})(?:/|$)")
_LONGEST, _LONGEST_METHOD = 200, 20


class Logged:
    """An ASGI application that logs what another one does; with `debug` also what is read without trouble."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the application does."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, id_ = 0, _id(str(scope["path"]))

        async def noting(message: Message) -> None:
            nonlocal status, id_
            if message["type"] == "http.response.start":
                status, id_ = message["status"], id_ or _id(_location(message))
            await send(message)

        began = time.perf_counter()
        with logs.about(id_):
            try:
                await self._app(scope, receive, noting)
            finally:
                with logs.about(id_):
                    _write(scope, status, time.perf_counter() - began)


def _write(scope: Scope, status: int, seconds: float) -> None:
    level = _level(str(scope["method"]), status)
    if log.isEnabledFor(level):
        # Without the query, and without what a terminal would act on.
        path = str(scope["path"])[:_LONGEST].encode("unicode_escape").decode()
        method = str(scope["method"])[:_LONGEST_METHOD]  # any word may stand there
        log.log(level, "%s %s %s %.1f ms", method, path, status or "-", 1000 * seconds)


def _level(method: str, status: int) -> int:
    if status >= 500 or not status:
        return logging.WARNING
    if status < 400 and method in {"GET", "HEAD", "OPTIONS"}:
        return logging.DEBUG
    return logging.INFO


def _location(message: Message) -> str:
    found = (value for name, value in message["headers"] if name.lower() == b"location")
    return bytes(next(found, b"")).decode("latin-1")


def _id(path: str) -> str | None:
    """The lookup or the job that an address names."""
    found = _NAMED.search(path)
    return found[1] if found else None
