"""The Celery application of the workers: the producer's broker settings, and how a worker consumes."""

from __future__ import annotations

from celery import Celery

from producer.broker import celery_app
from producer.messages import Message, SweepLedger, WatchIndex
from worker.settings import WorkerSettings

WATCH_EVERY = 5.0
SWEEP_EVERY = 10.0


def worker_app(settings: WorkerSettings) -> Celery:
    """Make the application that `run` consumes with and beat sends from.

    Messages are acknowledged after the work is done (a rebuild excepted), one is fetched at a time, and
    beat's own ticks expire before the next one so that they never pile up behind a stopped worker.
    """
    app = celery_app(settings)
    app.conf.update(
        include=["worker.tasks"],
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        beat_scheduler="celery.beat:Scheduler",
        beat_schedule={
            "watch the index": _tick(WatchIndex(), WATCH_EVERY),
            "sweep the ledger": _tick(SweepLedger(), SWEEP_EVERY),
        },
    )
    return app


def _tick(message: Message, every: float) -> dict[str, object]:
    return {
        "task": message.task,
        "schedule": every,
        "args": [message.model_dump(mode="json")],
        "options": {"queue": message.queue.value, "expires": every},
    }
