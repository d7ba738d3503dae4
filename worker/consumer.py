"""Celery's consumer, made to outlive what it does not expect: odd messages, and acknowledgements that failed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from celery.worker import state
from celery.worker.consumer import Consumer
from redis import Redis
from redis.exceptions import RedisError

from producer import keys
from producer.messages import Queue
from worker.intake import Intake, Refused

log = logging.getLogger(__name__)


class GuardedConsumer(Consumer):  # type: ignore[misc]
    """Refuses what the intake does, and what Celery fails on, where Celery would end the worker."""

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """Celery's handler of a message, guarded."""
        handler = super().create_task_handler(*args, **kwargs)
        intake: Intake = self.app.intake

        def guarded(message: Any) -> None:
            refused = intake.look(message)
            if refused is None:
                try:
                    handler(message)
                except (*self.connection_errors, *self.channel_errors):
                    raise
                except Exception as error:
                    detail = f"Celery cannot read it: {type(error).__name__}"
                    refused = Refused(detail, body=message.body)
            if refused is not None:
                intake.refuse(refused)
                message.reject_log_error(log, self.connection_errors)

        return guarded

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Leave it to the guard; Celery would write all of it into the log."""
        raise exc

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """As `on_invalid_task`."""
        raise exc


class Consumption:
    """Whether the worker still takes messages off its queues."""

    def __init__(self, worker: Any, redis: Redis, queues: Sequence[Queue]) -> None:
        self._worker = worker
        self._redis = redis
        self._queues = queues
        self._received = 0

    def is_full_of_nothing(self) -> bool:
        """Whether it takes no more, although it has nothing to do.

        When Redis goes away under running tasks, their acknowledgements fail, and kombu goes on counting them as
        prefetched: the worker is full for ever, and does not even read the connection that would tell it.
        """
        qos = getattr(getattr(self._consumer, "channel", None), "qos", None)
        return qos is not None and self._is_idle() and not qos.can_consume()

    def ignores_its_queue(self) -> bool:
        """Whether messages wait, and it took none since this was asked before, although it has nothing to do."""
        before, self._received = self._received, sum(state.total_count.values())
        if self._consumer is None or not self._is_idle() or self._received != before:
            return False
        try:
            return any(self._redis.llen(keys.queue(queue.value)) for queue in self._queues)
        except RedisError:  # nobody could take any
            return False

    @property
    def _consumer(self) -> Any:
        return getattr(self._worker.consumer, "task_consumer", None)

    def _is_idle(self) -> bool:
        return not (state.reserved_requests or state.active_requests)
