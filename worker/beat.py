"""The clock of the service: sends the periodic messages. Run exactly one."""

from __future__ import annotations

import signal

from producer.transport import connect
from worker.app import worker_app
from worker.heartbeat import Heartbeat
from worker.settings import WorkerSettings


def beat(settings: WorkerSettings) -> None:
    """Send each tick when it is due, until SIGTERM or SIGINT."""
    app = worker_app(settings)
    signal.signal(signal.SIGTERM, _leave)
    with (
        connect(settings) as redis,
        Heartbeat(redis, "beat") as heartbeat,
    ):
        heartbeat.start()
        app.Beat(quiet=True, loglevel="INFO", scheduler_cls="celery.beat:Scheduler").run()


def _leave(*_: object) -> None:
    raise SystemExit(0)
