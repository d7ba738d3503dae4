"""The clock of the service: sends the periodic messages. Run exactly one."""

from __future__ import annotations

import signal
import time
from typing import Any

from celery.beat import Scheduler
from redis import Redis
from redis.exceptions import RedisError

from producer.transport import connect
from worker.app import worker_app
from worker.heartbeat import Heartbeat
from worker.settings import WorkerSettings
from worker.vitals import Vitals, watched

STANDS_STILL_AFTER = 60.0
"""Seconds without a tick, though Redis answers."""


class Clock(Scheduler):  # type: ignore[misc]
    """Celery's scheduler, which says when it ticked last."""

    ticked: float | None = None
    """On the monotonic clock; of the class, since Celery makes the only one."""

    def tick(self, *args: Any, **kwargs: Any) -> Any:
        """Send what is due; the seconds to the next time."""
        pause = super().tick(*args, **kwargs)
        Clock.ticked = time.monotonic()
        return pause


def beat(settings: WorkerSettings) -> None:
    """Send each tick when it is due, until SIGTERM or SIGINT."""
    app = worker_app(settings)
    signal.signal(signal.SIGTERM, _leave)
    with (
        connect(settings) as redis,
        watched("beat", settings) as vitals,
        Heartbeat(redis, "beat", vitals.is_well) as heartbeat,
    ):
        _look_after(vitals, redis)
        heartbeat.start()
        app.Beat(quiet=True, loglevel="INFO", scheduler_cls=Clock).run()


def _look_after(vitals: Vitals, redis: Redis) -> None:
    Clock.ticked = time.monotonic()
    vitals.complaints = lambda: _complaints(redis)
    vitals.consumes()


def _complaints(redis: Redis) -> list[str]:
    """While Redis is away it waits for it, which no restart would mend."""
    still = time.monotonic() - (Clock.ticked or 0.0)
    if still < STANDS_STILL_AFTER:
        return []
    try:
        redis.ping()
    except (RedisError, OSError):
        return []
    return [f"nothing was sent for {still:.0f} s"]


def _leave(*_: object) -> None:
    raise SystemExit(0)
