"""Puts work of the catalogue on the queue once more, in the name of the shop, and waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from producer.errors import JobTimeout, UnknownJob
from producer.ids import new_id
from producer.messages import ImageItem, IngestChunk, ItemFailure, Removal, RemoveChunk
from producer.receipts import Receipt, Tracker
from producer.room import Room
from producer.transport import RedisTransport
from worker.settings import WorkerSettings


class Resender:
    """The queue of the service. Connects when first used.

    What it does may raise QueueUnavailable, or RedisError; `send` also QueueFull, after `timeout` seconds.
    """

    def __init__(self, settings: WorkerSettings, timeout: float) -> None:
        self._most = settings.max_backlog
        self._timeout = timeout
        self._transport = RedisTransport(settings)
        self._tracker = Tracker(self._transport)
        self.sent = 0
        """Items, so far."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._transport.close()

    def send(self, items: Sequence[ImageItem] | Sequence[Removal]) -> None:
        """Write a job with these items, all of one kind, into the ledger, and publish it."""
        kind = IngestChunk if isinstance(items[0], ImageItem) else RemoveChunk
        job = kind.model_validate(
            {"id": new_id(), "accepted_at": time.time(), "items": tuple(items)}
        )
        room = Room(self._transport, self._most, "wait", self._timeout)
        room.wait_for_one()
        self._transport.accept([job])
        self._tracker.watch([Receipt(job.id, len(items), self._transport)])
        self.sent += len(items)

    def wait(self, on_share: Callable[[float], None]) -> int:
        """Wait until everything has ended, `timeout` seconds at most; how many items have not."""
        try:
            self._tracker.wait(self._timeout, lambda done: on_share(done / max(self.sent, 1)))
        except (JobTimeout, UnknownJob):
            return self._tracker.open
        return 0

    @property
    def applied(self) -> int:
        """Items that were applied, as far as is known."""
        return self._tracker.outcome.applied

    @property
    def failures(self) -> tuple[ItemFailure, ...]:
        """Items that were given up, with the reason of each."""
        return self._tracker.outcome.failures
