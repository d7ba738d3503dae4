"""Celery's consumer, made to outlive what it does not expect: odd messages, and acknowledgements that failed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from celery.worker import state
from celery.worker.consumer import Consumer

log = logging.getLogger(__name__)

DEAF_AFTER = 10.0
"""Seconds without work or appetite after which a worker counts as deaf."""


class GuardedConsumer(Consumer):  # type: ignore[misc]
    """Drops a message that Celery fails on, where Celery would end the worker, which would then meet it again."""

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """Celery's handler of a message, guarded."""
        handler = super().create_task_handler(*args, **kwargs)

        def guarded(message: Any) -> None:
            try:
                handler(message)
            except (*self.connection_errors, *self.channel_errors):
                raise
            except Exception as error:
                log.error("a message that cannot be read is dropped: %s", error)  # noqa: TRY400
                message.reject_log_error(log, self.connection_errors)

        return guarded


class Watchdog:
    """Notices that the worker takes no more messages although it has nothing to do.

    When Redis goes away under running tasks, their acknowledgements fail, and kombu goes on counting them as
    prefetched: the worker is full for ever, and does not even read the connection that would tell it.
    """

    def __init__(self, worker: Any, on_deaf: Callable[[], None]) -> None:
        self._worker = worker
        self._on_deaf = on_deaf
        self.barked = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def _watch(self) -> None:
        deaf_for = 0.0
        while not self._stop.wait(1.0):
            deaf_for = deaf_for + 1.0 if self._deaf() else 0.0
            if deaf_for >= DEAF_AFTER:
                log.critical("nothing to do and yet no more messages are taken: this process stops")
                self.barked = True
                self._on_deaf()
                return

    def _deaf(self) -> bool:
        if state.reserved_requests or state.active_requests:
            return False
        consumer = getattr(self._worker.consumer, "task_consumer", None)
        qos = getattr(getattr(consumer, "channel", None), "qos", None)
        return qos is not None and not qos.can_consume()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
