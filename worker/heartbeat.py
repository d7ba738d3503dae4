"""Says that a process of the service is there, to whoever starts it, watches it or shows it."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Self

from redis import Redis
from redis.exceptions import RedisError

from producer import keys

EVERY, TTL = 3.0, 12
"""Seconds between two beats, and after which a process that sent none counts as gone."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Beating:
    """A process of the service that is alive."""

    role: str
    host: str
    pid: int
    started_at: float
    """Seconds since the epoch."""


class Heartbeat:
    """Writes the key of this process from `start` until it is closed."""

    def __init__(self, redis: Redis, role: str) -> None:
        self._redis = redis
        self._beating = Beating(role, socket.gethostname(), os.getpid(), time.time())
        self._key = keys.worker(f"{role}:{self._beating.host}:{self._beating.pid}")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self, **_: object) -> None:
        """Begin: the process does its work now."""
        self._thread.start()

    def _beat(self) -> None:
        value = json.dumps(asdict(self._beating))
        while not self._stop.is_set():
            try:
                self._redis.set(self._key, value, ex=TTL)
            except RedisError as error:
                log.warning("no heartbeat: %s", error)
            self._stop.wait(EVERY)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
            try:
                self._redis.delete(self._key)
            except RedisError as problem:
                log.warning("heartbeat not withdrawn: %s", problem)


def beating(redis: Redis, role: str = "*") -> list[Beating]:
    """The processes of a role that are alive on this Redis; raises RedisError."""
    names = list(redis.scan_iter(match=keys.worker(f"{role}:*"), count=1000))
    values = [redis.get(name) for name in names]
    return [Beating(**json.loads(value)) for value in values if isinstance(value, bytes)]
