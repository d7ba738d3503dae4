"""Requeues and discards what was given up, for somebody who waits for it in front of a page."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from db.queries.dead_letters import Which
from db.session import Database
from producer.browsing import Discard, Discarded, Requeue, Requeued
from producer.errors import QueueFull
from worker import letters
from worker.letters import as_of_now
from worker.resending import Resender
from worker.settings import WorkerSettings

BUDGET = 5.0
"""Seconds after which no more are begun."""


class Clearing:
    """Does so for all threads of a process. Its methods raise DatabaseUnavailable."""

    def __init__(
        self, database: Database, settings: WorkerSettings, budget: float = BUDGET
    ) -> None:
        self._database = database
        self._settings = settings
        self._budget = budget
        # Whoever clicks twice sends nothing twice. Between processes it may be sent twice, which is harmless.
        self._alone = threading.Lock()

    def requeue(self, question: Requeue) -> Requeued:
        """Send what was chosen once more, as far as it fits. Raises QueueUnavailable."""
        with self._alone, Resender(self._settings, self._budget) as resender:
            which, _ = as_of_now(self._database, _which(question))
            with suppress(QueueFull):  # what was sent is sent; the rest is still kept
                letters.requeue(
                    self._database,
                    which,
                    resender,
                    self._settings.chunk_size,
                    enough=self._enough(),
                )
            _, left = as_of_now(self._database, which)
            return Requeued(requeued=resender.sent, left=left)

    def discard(self, question: Discard) -> Discarded:
        """Forget what was chosen."""
        which, _ = as_of_now(self._database, _which(question))
        done = letters.discard(self._database, which, enough=self._enough())
        _, left = as_of_now(self._database, which)
        return Discarded(discarded=done, left=left)

    def _enough(self) -> Callable[[], bool]:
        until = time.monotonic() + self._budget
        return lambda: time.monotonic() > until


def _which(question: Requeue | Discard) -> Which:
    return Which(question.ids, question.reason)
