"""One worker process: opens what its role needs, consumes until told to stop, and closes it again."""

from __future__ import annotations

import gc
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

from celery import Celery, current_task
from celery.signals import worker_ready, worker_shutting_down
from pydantic import ValidationError

from db.session import Database
from producer import logs, tracing
from producer.ids import issued_at
from producer.messages import MAX_DETAIL, Job, Message, Question, Reindex, SweepLedger, WatchIndex
from producer.transport import connect
from worker import startup
from worker.app import take_in, worker_app
from worker.consumer import Consumption
from worker.courtesy import step_back
from worker.departure import DEAF, STUCK
from worker.heartbeat import Heartbeat, Pulse
from worker.intake import Intake, Refused
from worker.roles import DUTIES, Handlers, Process, Role
from worker.settings import WorkerSettings
from worker.vitals import watched
from worker.watchdog import Sign, Watchdog

log = logging.getLogger(__name__)

DEAF_AFTER, IGNORING_AFTER = 10.0, 30.0
"""Seconds without work or appetite, and beside messages that wait, after which a worker counts as deaf."""


SUSPICIOUS_AFTER = 0.5
"""Part of LOOKALIKE_STUCK_AFTER after which a process says of itself that it may be stuck."""


@dataclass(frozen=True)
class Running:
    """What the Celery tasks of this process work with."""

    handlers: Handlers
    process: Process


_running: Running | None = None


def handle(message: type[Message], body: object) -> None:
    """Parse a message off the queue and give it to its handler.

    What cannot be parsed is refused and kept as a dead letter: a question is answered so, and a job stays in
    the ledger, for a worker that understands it.
    """
    assert _running is not None
    try:
        parsed = message.parse(body)
    except ValidationError as error:
        _running.process.app.intake.refuse(_unreadable(message, body, error))
        if issubclass(message, Question):
            _running.process.desk.refuse(body)
        return
    with logs.about(_id(parsed)), _running.process.busy.working(parsed), _traced(parsed):
        _running.handlers[message](parsed)


def _traced(message: Message) -> AbstractContextManager[object]:
    """The worker's part of the trace that the message came with, or a trace of its own; ticks are in none."""
    if isinstance(message, WatchIndex | SweepLedger):
        return nullcontext()
    id_ = _id(message) or ""
    sent = issued_at(id_)
    return tracing.span(
        f"process {message.queue.value}",
        "consumer",
        _headers(),
        messaging__system="celery",
        messaging__operation__type="process",
        messaging__destination__name=message.queue.value,
        messaging__message__id=id_,
        lookalike__task=message.task,
        lookalike__waited=0.0 if sent is None else max(0.0, time.time() - sent),
    )


def _headers() -> dict[str, object]:
    """The trace context that the message came with; anybody may have written it."""
    if not current_task:
        return {}
    return {name: current_task.request.get(name) for name in tracing.LENGTHS}


def _id(message: Message) -> str | None:
    """The id of a job or a lookup; of all other messages that which they were sent with."""
    if isinstance(message, Job | Question):
        return message.id
    id_ = str(current_task.request.id) if current_task else ""
    return id_ if issued_at(id_) is not None else None  # anybody may have written it


def _unreadable(message: type[Message], body: object, error: ValidationError) -> Refused:
    problems = error.errors(include_input=False, include_url=False, include_context=False)
    said = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in problems[:5])
    id_ = body.get("id") if isinstance(body, dict) else None
    return Refused(
        f"it is not what {message.task} is given: {said}"[:MAX_DETAIL],
        message.queue,
        message.task,
        id_ if isinstance(id_, str) else None,
        json.dumps(body),
    )


def run(role: Role, settings: WorkerSettings, include: Sequence[str] = ()) -> int:
    """Consume the role's queues until SIGTERM or SIGINT; returns the exit code.

    What runs then may take LOOKALIKE_GRACE seconds to end; what does not is given back, as it is at a second
    signal. Raises StartError and the errors of the parts when the process cannot start. `include` names further
    task modules.
    """
    global _running  # noqa: PLW0603 - the one per-process context
    app = worker_app(settings)
    app.conf.include = [*app.conf.include, *include]
    app.set_current()
    duty = DUTIES[role]
    if duty.yields:
        step_back()
    with _open(role, settings, app) as process:
        vitals = process.closing.enter_context(
            watched(role, settings, process.database, process.busy, process.stopping)
        )
        app.intake = Intake(process.database, _tasks(app), app.signer)
        take_in(app, app.intake.refuse)
        worker_shutting_down.connect(process.departure.ask, weak=False)
        _running = Running(duty.start(process), process)
        gc.collect()
        gc.freeze()  # what is loaded now stays: a full collection must not walk through it again and again
        heartbeat = process.closing.enter_context(
            Heartbeat(process.redis, role, vitals.is_well, pulse=lambda: _pulse(process))
        )
        worker_ready.connect(heartbeat.start, weak=False)
        worker_ready.connect(vitals.consumes, weak=False)
        worker = app.Worker(
            hostname=f"{role}.{os.getpid()}@{socket.gethostname()}",
            pool="threads",
            concurrency=duty.threads,
            queues=[queue.value for queue in duty.queues],
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=not settings.task_events,
            loglevel="INFO",
            quiet=True,
        )
        consumption = Consumption(worker, process.redis, duty.queues)
        with Watchdog(_signs(process, consumption), _bite(process)) as watchdog:
            vitals.complaints = lambda: watchdog.complaints
            worker.start()
        return process.departure.code or int(worker.exitcode or 0)


def _tasks(app: Celery) -> frozenset[str]:
    """Those that were included; Celery brings others, of which none is needed here."""
    app.loader.import_default_modules()
    app.finalize()
    return frozenset(name for name in app.tasks if not name.startswith("celery."))


def _signs(process: Process, consumption: Consumption) -> list[Sign]:
    stuck_after = process.settings.stuck_after
    return [
        Sign(
            "nothing to do and yet no more messages are taken",
            consumption.is_full_of_nothing,
            DEAF_AFTER,
            DEAF,
        ),
        Sign(
            "nothing to do, and the messages that wait are not taken",
            consumption.ignores_its_queue,
            IGNORING_AFTER,
            DEAF,
        ),
        Sign(
            f"work does not end in {stuck_after:.0f} s (LOOKALIKE_STUCK_AFTER)",
            lambda: _stuck(process),
            0.0,
            STUCK,
        ),
        *process.signs,
    ]


def _stuck(process: Process, part: float = 1.0) -> list[Message]:
    """What has been worked on for too long, or for this part of it; a rebuild may take its time."""
    old = process.busy.longer_than(part * process.settings.stuck_after)
    return [message for message in old if not isinstance(message, Reindex)]


def _pulse(process: Process) -> Pulse:
    ages = [age for _, age in process.busy.ages]
    return Pulse(len(ages), max(ages, default=None), stuck=bool(_stuck(process, SUSPICIOUS_AFTER)))


def _bite(process: Process) -> Callable[[Sign], None]:
    """A deaf process has nothing to give back; of a stuck one, what it is stuck in is not excused."""

    def bite(sign: Sign) -> None:
        if sign.code == DEAF:
            process.departure.drain(DEAF)
        else:
            process.departure.leave(sign.code, guilty=_stuck(process) or process.busy.messages)

    return bite


@contextmanager
def _open(role: Role, settings: WorkerSettings, app: Celery) -> Iterator[Process]:
    with ExitStack() as closing:
        database = Database(settings.database)
        closing.callback(database.close)
        redis = connect(settings)
        closing.callback(redis.close)
        startup.check(settings, database, redis, [role])
        process = Process(settings, app, redis, database, threading.Event(), closing)
        closing.enter_context(process.claims)
        yield process
