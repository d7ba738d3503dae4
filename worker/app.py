"""The Celery application of the workers: the producer's broker settings, and how a worker consumes."""

from __future__ import annotations

from celery import Celery
from celery.apps import worker as celery_worker
from celery.signals import setup_logging

from producer import logs
from producer.broker import arguments, celery_app
from producer.messages import Message, SweepLedger, WatchIndex
from worker import broker
from worker.intake import Refuse
from worker.settings import WorkerSettings

WATCH_EVERY = 5.0
SWEEP_EVERY = 10.0
TICK_LIFE = 60.0
"""Seconds after which a tick is dropped: some must be left to clocks that differ, but few may pile up."""


def worker_app(settings: WorkerSettings) -> Celery:
    """Make the application that `run` consumes with and beat sends from.

    Messages are acknowledged after the work is done (a rebuild excepted), and one is fetched at a time.
    """
    app = celery_app(settings)
    setup_logging.connect(_leave_logging_alone, weak=False)
    celery_worker.safe_say = logs.say  # it would write past the log when a signal comes
    app.conf.update(
        include=["worker.tasks"],
        worker_consumer="worker.consumer:GuardedConsumer",
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=settings.task_events,
        worker_enable_remote_control=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_max_retries=None,
        beat_scheduler="celery.beat:Scheduler",
        beat_schedule={
            "watch the index": _tick(app, WatchIndex(), WATCH_EVERY),
            "sweep the ledger": _tick(app, SweepLedger(), SWEEP_EVERY),
        },
    )
    return app


def _leave_logging_alone(**_: object) -> None:
    """Celery would add handlers of its own."""


def _tick(app: Celery, message: Message, every: float) -> dict[str, object]:
    return {
        "task": message.task,
        "schedule": every,
        "args": arguments(app, message),
        "options": {"queue": message.queue.value, "expires": TICK_LIFE},
    }


def take_in(app: Celery, refuse: Refuse) -> None:
    """Have what is no message at all given to `refuse` instead of ending the worker."""
    broker.register()
    options = app.conf.broker_transport_options | {broker.REFUSE: refuse}
    # A Unix socket is named by the scheme alone, a server also beside its address.
    url = app.conf.broker_url.replace("redis+socket://", f"{broker.ALIAS}+socket://")
    app.conf.update(
        broker_transport=broker.ALIAS,
        broker_transport_options=options,
        broker_url=url,
        broker_read_url=url,
        broker_write_url=url,
    )
