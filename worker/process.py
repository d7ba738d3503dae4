"""One worker process: opens what its role needs, consumes until told to stop, and closes it again."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from celery import Celery
from celery.signals import worker_ready, worker_shutting_down
from pydantic import ValidationError
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from db.session import Database
from migrations import check_schema
from producer.messages import Message, Question
from producer.transport import connect, unavailable
from worker.app import worker_app
from worker.consumer import Watchdog
from worker.desk import Desk
from worker.heartbeat import Heartbeat
from worker.roles import DUTIES, Handlers, Process, Role
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)

OUT_OF_TIME, DEAF = 3, 4
"""Exit codes of a process whose grace period ended first, and of one that took no more messages."""


@dataclass(frozen=True)
class Running:
    """What the Celery tasks of this process work with."""

    handlers: Handlers
    desk: Desk


_running: Running | None = None


def handle(message: type[Message], body: object) -> None:
    """Parse a message off the queue and give it to its handler.

    What cannot be parsed is refused with a line in the log: a question is answered so, and a job stays in
    the ledger, for a worker that understands it.
    """
    assert _running is not None
    try:
        parsed = message.parse(body)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False, include_context=False)
        log.error("%s refused: %s", message.task, problems)  # noqa: TRY400 - a trace says no more
        if issubclass(message, Question):
            _running.desk.refuse(body)
        return
    _running.handlers[message](parsed)


def run(role: Role, settings: WorkerSettings, include: Sequence[str] = ()) -> int:
    """Consume the role's queues until SIGTERM or SIGINT; returns the exit code.

    What runs then may take LOOKALIKE_GRACE seconds to end; what does not is in the ledger. Raises StartError
    and the errors of the parts when the process cannot start. `include` names further task modules.
    """
    global _running  # noqa: PLW0603 - the one per-process context
    app = worker_app(settings)
    app.conf.include = [*app.conf.include, *include]
    app.set_current()
    duty = DUTIES[role]
    name = f"{role}.{os.getpid()}@{socket.gethostname()}"
    with _open(settings, app) as process:
        worker_shutting_down.connect(_leave_in_time(process), weak=False)
        _running = Running(duty.start(process), process.desk)
        gc.collect()
        gc.freeze()  # what is loaded now stays: a full collection must not walk through it again and again
        heartbeat = process.closing.enter_context(Heartbeat(process.redis, role))
        worker_ready.connect(heartbeat.start, weak=False)
        worker = app.Worker(
            hostname=name,
            pool="threads",
            concurrency=duty.threads,
            queues=[queue.value for queue in duty.queues],
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            loglevel="INFO",
            quiet=True,
        )
        with Watchdog(worker, lambda: os.kill(os.getpid(), signal.SIGTERM)) as watchdog:
            worker.start()
        return DEAF if watchdog.barked else int(worker.exitcode or 0)


@contextmanager
def _open(settings: WorkerSettings, app: Celery) -> Iterator[Process]:
    with ExitStack() as closing:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        database = Database(settings.database)
        closing.callback(database.close)
        check_schema(database)
        redis = connect(settings)
        closing.callback(redis.close)
        _check_login(redis, settings)
        yield Process(settings, app, redis, database, threading.Event(), closing)


def _check_login(redis: Redis, settings: WorkerSettings) -> None:
    """A server that is away is waited for; one that refuses us will not change its mind."""
    try:
        redis.ping()
    except (AuthenticationError, NoPermissionError) as error:
        raise unavailable(error, settings.redis_url.get_secret_value()) from error
    except RedisError as error:
        log.warning("%s", unavailable(error, settings.redis_url.get_secret_value()))


def _leave_in_time(process: Process) -> Callable[..., None]:
    """Ends the process when the grace period does; what it had not finished is in the ledger."""

    def leave() -> None:
        log.error("not finished in %.0f s (LOOKALIKE_GRACE): the rest is given back", grace)
        logging.shutdown()
        os._exit(OUT_OF_TIME)

    def asked(**_: object) -> None:
        process.stopping.set()
        timer = threading.Timer(grace, leave)
        timer.daemon = True
        timer.start()

    grace = process.settings.grace
    return asked
