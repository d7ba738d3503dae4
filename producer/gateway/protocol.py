"""The protocol of a connection: uvicorn's, which does not wait for ever for a client."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

READ_WITHIN = 30.0
"""Seconds within which a client must read some of an answer."""


class Impatient(H11Protocol):
    """Cuts off who does not send the headers of a request in time, or reads nothing of an answer."""

    send_within: ClassVar[float]
    """Seconds for the headers, from the connection or from their first byte."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._headers_due: asyncio.TimerHandle | None = None
        self._read_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        """Begin to wait at the first byte of a request, and end at the last of its headers."""
        self._await_headers()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._headers_came()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._headers_came()
        self._reader_came()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Begin to wait for the client to read."""
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        """It has read."""
        self._reader_came()
        super().resume_writing()

    def _await_headers(self) -> None:
        if self._headers_due is None and self.conn.their_state is h11.IDLE:
            self._headers_due = self.loop.call_later(self.send_within, self.transport.close)

    def _headers_came(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _reader_came(self) -> None:
        if self._read_due is not None:
            self._read_due.cancel()
            self._read_due = None

    def _await_reader(self) -> None:
        waiting = self.transport.get_write_buffer_size()
        self._read_due = self.loop.call_later(READ_WITHIN, self._look_at_reader, waiting)

    def _look_at_reader(self, waiting: int) -> None:
        if self.transport.get_write_buffer_size() < waiting:
            self._await_reader()
        else:
            self.transport.abort()


def protocol(send_within: float) -> type[Impatient]:
    """The protocol that gives a client so many seconds for the headers of a request."""
    return type("Protocol", (Impatient,), {"send_within": send_within})
