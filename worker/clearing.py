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
_ONE = threading.Lock()
"""Whoever clicks twice sends nothing twice. Between processes it may be sent twice, which is harmless."""


def requeue(database: Database, settings: WorkerSettings, question: Requeue) -> Requeued:
    """Send what was chosen once more. Raises DatabaseUnavailable and QueueUnavailable."""
    with _ONE, Resender(settings, BUDGET) as resender:
        which, _ = as_of_now(database, _which(question))
        with suppress(QueueFull):  # what was sent is sent; the rest is still kept
            letters.requeue(database, which, resender, settings.chunk_size, enough=_after(BUDGET))
        _, left = as_of_now(database, which)
        return Requeued(requeued=resender.sent, left=left)


def discard(database: Database, question: Discard) -> Discarded:
    """Forget what was chosen. Raises DatabaseUnavailable."""
    which, _ = as_of_now(database, _which(question))
    done = letters.discard(database, which, enough=_after(BUDGET))
    _, left = as_of_now(database, which)
    return Discarded(discarded=done, left=left)


def _which(question: Requeue | Discard) -> Which:
    return Which(question.ids, question.reason)


def _after(seconds: float) -> Callable[[], bool]:
    until = time.monotonic() + seconds
    return lambda: time.monotonic() > until
