"""The server: listens, serves the gateway, and stops when it is told to."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from producer.errors import SettingsError
from producer.gateway.app import application
from producer.gateway.gateway import Gateway
from producer.gateway.journal import Logged
from producer.gateway.measures import Measured
from producer.gateway.protocol import protocol
from producer.gateway.settings import GatewaySettings
from producer.gateway.spans import Traced
from producer.gateway.watching import watched

GRACE = 10.0
"""Seconds that running requests have when the server stops."""
IDLE = 30
"""Seconds that a connection is kept for the next request."""
CONNECTIONS = 1000
MAX_HEADERS = 32 << 10
BACKLOG = 2048


def serve(settings: GatewaySettings, on_ready: Callable[[str], object]) -> None:
    """Serve until SIGINT or SIGTERM; `on_ready` is told the address. Raises SettingsError if it cannot listen."""
    listener = listen(settings)
    gateway = Gateway(settings)
    config = uvicorn.Config(
        Measured(Logged(Traced(application(gateway)))),
        http=protocol(settings.http_timeout),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=IDLE,
        timeout_graceful_shutdown=int(GRACE),
        h11_max_incomplete_event_size=MAX_HEADERS,
    )
    with listener, watched(settings, gateway):
        on_ready(address(listener))
        asyncio.run(_Server(config, gateway.stop_soon).serve(sockets=[listener]))


def listen(settings: GatewaySettings) -> socket.socket:
    """A socket on the settings' host and port. Raises SettingsError that says what to do."""
    host, port = settings.http_host.strip("[]"), settings.http_port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SettingsError(
                f"port {port} of {host} is taken: stop what listens there, or set LOOKALIKE_HTTP_PORT"
            ) from None
        reason = error.strerror or error
        raise SettingsError(
            f"cannot listen on port {port} of {host} ({reason}): set LOOKALIKE_HTTP_HOST or "
            "LOOKALIKE_HTTP_PORT"
        ) from None
    # Connections inherit it. asyncio does it only for those whose protocol is named, which this one's are not; an
    # answer's body would wait 40 ms for the acknowledgement of its headers.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def address(listener: socket.socket) -> str:
    """Where a socket listens, for people."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn's, which lets go those who wait as soon as it is told to stop, and ends without a signal."""

    def __init__(self, config: uvicorn.Config, stopping: Callable[[], None]) -> None:
        super().__init__(config)
        self._stopping = stopping

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at a SIGINT or SIGTERM, at once at the second."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        for each in signals:
            loop.add_signal_handler(each, self._stop)
        try:
            yield
        finally:
            for each in signals:
                loop.remove_signal_handler(each)

    def _stop(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
        self._stopping()
