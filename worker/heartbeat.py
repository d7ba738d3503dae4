"""Says that a process of the service is there, to whoever starts it, watches it or shows it."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from types import TracebackType
from typing import Self, cast

from redis import Redis
from redis.exceptions import RedisError

from producer import keys

EVERY, TTL = 3.0, 12.0
"""Seconds between two beats, and after which a process that sent none counts as gone."""
FORGET = 3600.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Beating:
    """A process of the service, as of its last beat. Times are epoch seconds by the clock of Redis."""

    role: str
    host: str
    pid: int
    started_at: float
    beat_at: float
    busy: int = 0
    """Messages that it is working on."""
    longest: float | None = None
    """Seconds for which it has been working on the oldest of them."""
    stuck: bool = False
    """Whether that takes suspiciously long."""

    @property
    def name(self) -> str:
        """What tells it from all others."""
        return f"{self.role}:{self.host}:{self.pid}"


_FIELDS = frozenset(each.name for each in fields(Beating))


@dataclass(frozen=True)
class Pulse:
    """What a process says of itself with each beat: see `Beating`."""

    busy: int = 0
    longest: float | None = None
    stuck: bool = False


class Heartbeat:
    """Beats from `start` until it is closed, while all is well."""

    def __init__(
        self,
        redis: Redis,
        role: str,
        is_well: Callable[[], bool] = lambda: True,
        pulse: Callable[[], Pulse] = Pulse,
    ) -> None:
        """Without `is_well` there is no beat: what is stuck counts as gone."""
        self._redis = redis
        self._role = role
        self._is_well = is_well
        self._pulse = pulse
        self._started: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self, **_: object) -> None:
        """Begin: the process does its work now."""
        self._thread.start()

    def _run(self) -> None:
        silent = False
        while not self._stop.is_set():
            try:
                if self._is_well():
                    self._beat()
                silent = False
            except RedisError as error:
                if not silent:
                    log.warning("no heartbeat until Redis answers again: %s", error)
                silent = True
            self._stop.wait(EVERY)

    def _beat(self) -> None:
        now = _now(self._redis)
        self._started = self._started or now
        host, pid, pulse = socket.gethostname(), os.getpid(), self._pulse()
        beat = Beating(self._role, host, pid, self._started, now, **asdict(pulse))
        self._redis.hset(keys.WORKERS, beat.name, json.dumps(asdict(beat)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if not self._thread.is_alive():
            return
        self._thread.join()
        try:
            name = f"{self._role}:{socket.gethostname()}:{os.getpid()}"
            self._redis.hdel(keys.WORKERS, name)
        except RedisError as problem:
            log.warning("heartbeat not withdrawn: %s", problem)


def beating(redis: Redis) -> list[Beating]:
    """The processes of the service that are alive, by role; forgets those that are long gone.

    Raises RedisError.
    """
    now = _now(redis)
    values = cast("dict[bytes, bytes]", redis.hgetall(keys.WORKERS))
    beats = [_read(value) for value in values.values()]
    if gone := [beat.name for beat in beats if now - beat.beat_at > FORGET]:
        redis.hdel(keys.WORKERS, *gone)
    alive = [beat for beat in beats if now - beat.beat_at <= TTL]
    return sorted(alive, key=lambda beat: beat.name)


def _read(value: bytes) -> Beating:
    """One of another version may say more."""
    said = json.loads(value)
    return Beating(**{name: said[name] for name in said.keys() & _FIELDS})


def _now(redis: Redis) -> float:
    seconds, microseconds = cast("tuple[int, int]", redis.time())
    return seconds + microseconds / 1e6
