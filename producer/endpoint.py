"""The small HTTP endpoint by which a process is watched: /metrics, /live and /ready.

It has one thread and an event loop of its own, and asks nothing of the process but to answer: whoever is slow,
sends rubbish, or opens many connections costs himself only. It knows nothing of what it serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

log = logging.getLogger(__name__)

MOST_CONNECTIONS = 64
MOST_HEAD = 8192
"""Bytes of a request's headers; there is no request with a body."""
TALK_WITHIN = 5.0
"""Seconds in which a client must have sent its headers, and again in which it must have taken the answer."""
ANSWER_WITHIN = 5.0
"""Seconds after which it is said that there is no answer; less than Prometheus waits by default."""
METRICS, LIVE, READY = "/metrics", "/live", "/ready"
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
_JSON, _TEXT = "application/json", "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Verdict:
    """Whether all is well, and why, or why not."""

    well: bool
    document: Mapping[str, object]


@dataclass(frozen=True)
class _Answer:
    status: int
    kind: str
    body: bytes


class Endpoint:
    """Serves while a `with` block runs; raises OSError at its beginning if it cannot listen."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        metrics: Callable[[str], tuple[str, bytes]],
        live: Callable[[], Verdict],
        ready: Callable[[], Verdict],
    ) -> None:
        """`metrics` is given the header Accept, and gives content type and text. All are called in threads."""
        self._address = (host.strip("[]"), port)
        self._metrics, self._live, self._ready = metrics, live, ready
        self._thread = threading.Thread(target=self._run, name="endpoint", daemon=True)
        self._stop = asyncio.Event()
        self._running: dict[str, asyncio.Future[_Answer]] = {}
        self._open = 0
        self._silent: dict[asyncio.StreamWriter, None] = {}
        """Who has not asked for anything yet, the oldest first."""

    @property
    def port(self) -> int:
        """Where it listens: the port that was found, where 0 was asked for."""
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        host = self._address[0]
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server(self._address, family=family)
        self._loop = asyncio.new_event_loop()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(TALK_WITHIN)

    # -- connections ------------------------------------------------------------------------------

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._serve())
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._cancel_all())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._talk, sock=self._listener, limit=MOST_HEAD)
        await self._stop.wait()
        server.close()

    async def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, one answer; then the connection is closed."""
        self._open += 1
        try:
            if self._open <= MOST_CONNECTIONS or self._let_one_go():
                await self._exchange(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            """Whoever does not talk, or not like this, is let go."""
        except Exception:
            log.exception("a request for figures failed")
        finally:
            self._open -= 1
            writer.transport.abort()

    def _let_one_go(self) -> bool:
        """Let whoever has been silent for longest make room: many who say nothing must not keep others out."""
        for writer in self._silent:
            del self._silent[writer]
            writer.transport.abort()
            return True
        return False

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._silent[writer] = None
        try:
            async with asyncio.timeout(TALK_WITHIN):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            head = b""
        finally:
            self._silent.pop(writer, None)
        method, answer = await self._answer(head)
        async with asyncio.timeout(TALK_WITHIN):
            writer.write(_head(answer) + (b"" if method == "HEAD" else answer.body))
            writer.write_eof()
            await writer.drain()
            await reader.read(
                1
            )  # until it has all: a connection that is cut off takes the rest with it

    # -- answers ----------------------------------------------------------------------------------

    async def _answer(self, head: bytes) -> tuple[str, _Answer]:
        line, *headers = head.decode("latin-1").split("\r\n")
        words = line.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/"):
            return "", _Answer(400, _TEXT, b"This is not a request that is understood here.\n")
        method, path = words[0], words[1].partition("?")[0]
        work = self._works(path, _accept(headers))
        if work is None:
            listed = "\n".join((METRICS, LIVE, READY)).encode()
            return method, _Answer(404, _TEXT, b"There is:\n" + listed + b"\n")
        if method not in ("GET", "HEAD"):
            return method, _Answer(405, _TEXT, b"Only GET and HEAD are understood here.\n")
        return method, await self._once(*work)

    def _works(self, path: str, accept: str) -> tuple[str, Callable[[], _Answer]] | None:
        """What is to be done, under a name: those who ask for the same at the same time share one answer."""
        if path == METRICS:
            return f"{METRICS} {accept}", lambda: _Answer(200, *self._metrics(accept))
        if path == LIVE:
            return LIVE, lambda: _judged(self._live())
        if path == READY:
            return READY, lambda: _judged(self._ready())
        return None

    async def _once(self, name: str, work: Callable[[], _Answer]) -> _Answer:
        if name not in self._running:
            if len(self._running) >= MOST_CONNECTIONS:
                return _problem("too much is asked for at once")
            future = self._running[name] = self._loop.create_future()
            future.add_done_callback(lambda _: self._running.pop(name, None))
            threading.Thread(
                target=self._work, args=(work, future), name="endpoint-answer", daemon=True
            ).start()
        done, _ = await asyncio.wait([self._running[name]], timeout=ANSWER_WITHIN)
        if not done:
            return _problem(f"there is no answer within {ANSWER_WITHIN:.0f} s")
        return done.pop().result()

    def _work(self, work: Callable[[], _Answer], future: asyncio.Future[_Answer]) -> None:
        try:
            answer = work()
        except Exception:
            log.exception("figures could not be collected")
            answer = _Answer(500, _TEXT, b"This failed; the log says why.\n")
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(_settle, future, answer)


@contextmanager
def offered(
    host: str,
    port: int | None,
    *,
    metrics: Callable[[str], tuple[str, bytes]],
    live: Callable[[], Verdict],
    ready: Callable[[], Verdict],
) -> Iterator[Endpoint | None]:
    """An endpoint while the block runs, if there is a port for it; one that is taken keeps nobody from working."""
    with ExitStack() as stack:
        endpoint = None
        if port:
            try:
                endpoint = stack.enter_context(
                    Endpoint(host, port, metrics=metrics, live=live, ready=ready)
                )
            except OSError as error:
                log.error(  # noqa: TRY400 - a trace says no more
                    "no figures: cannot listen on port %d of %s (%s): set LOOKALIKE_METRICS_PORT",
                    port,
                    host,
                    error.strerror or error,
                )
        yield endpoint


def _settle(future: asyncio.Future[_Answer], answer: _Answer) -> None:
    if not future.done():
        future.set_result(answer)


def _judged(verdict: Verdict) -> _Answer:
    body = json.dumps(verdict.document, ensure_ascii=False, indent=1).encode() + b"\n"
    return _Answer(200 if verdict.well else 503, _JSON, body)


def _problem(text: str) -> _Answer:
    return _Answer(503, _JSON, json.dumps({"problem": text}).encode() + b"\n")


def _head(answer: _Answer) -> bytes:
    allow = "Allow: GET, HEAD\r\n" if answer.status == 405 else ""
    return (
        f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}\r\n"
        f"Content-Type: {answer.kind}\r\n"
        f"Content-Length: {len(answer.body)}\r\n"
        "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
        f"{allow}Connection: close\r\n\r\n"
    ).encode()


def _accept(headers: list[str]) -> str:
    """Which of two texts is wanted: what a client writes beside that must not make work."""
    for each in headers:
        name, _, value = each.partition(":")
        if name.strip().lower() == "accept" and "application/openmetrics-text" in value:
            return "application/openmetrics-text; version=1.0.0"
    return "text/plain"
