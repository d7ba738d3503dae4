"""One worker process: opens what its role needs, consumes until told to stop, and closes it again."""

from __future__ import annotations

import gc
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from celery import Celery
from celery.signals import worker_ready
from pydantic import ValidationError
from redis import Redis

from db.session import Database
from migrations import check_schema
from producer.messages import Message
from worker.app import worker_app
from worker.heartbeat import Heartbeat
from worker.roles import DUTIES, Handlers, Process, Role
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)

_handlers: Handlers = {}
"""What this process does with each message; the one thing that its Celery tasks find here."""


def handle(message: type[Message], body: object) -> None:
    """Parse a message off the queue and give it to its handler.

    What cannot be parsed is refused with a line in the log; a job of that kind stays in the ledger, for a
    worker that understands it.
    """
    try:
        parsed = message.parse(body)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False, include_context=False)
        log.error("%s refused: %s", message.task, problems)  # noqa: TRY400 - a trace says no more
        return
    _handlers[message](parsed)


def run(role: Role, settings: WorkerSettings, include: Sequence[str] = ()) -> int:
    """Consume the role's queues until SIGTERM or SIGINT; returns the exit code.

    The first signal lets running work finish, a second one gives it back at once. Raises StartError and
    the errors of the parts when the process cannot start. `include` names further task modules.
    """
    global _handlers  # noqa: PLW0603 - the one per-process context
    app = worker_app(settings)
    app.conf.include = [*app.conf.include, *include]
    app.set_current()
    duty = DUTIES[role]
    name = f"{role}.{os.getpid()}@{socket.gethostname()}"
    with _open(settings, app) as process:
        _handlers = duty.start(process)
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
        worker.start()
        return int(worker.exitcode or 0)


@contextmanager
def _open(settings: WorkerSettings, app: Celery) -> Iterator[Process]:
    with ExitStack() as closing:
        database = Database(settings.database)
        closing.callback(database.close)
        check_schema(database)
        redis = Redis.from_url(settings.redis_url.get_secret_value())
        closing.callback(redis.close)
        yield Process(settings, app, redis, database, closing)
