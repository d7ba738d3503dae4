"""Publish again what the ledger holds beyond its time: what the queue lost, and retries that are due."""

from __future__ import annotations

import logging
from collections.abc import Callable

from producer.ledger import Ledger
from producer.messages import Job

log = logging.getLogger(__name__)


def sweep(ledger: Ledger, send: Callable[[Job], None], now: float | None = None) -> int:
    """Send overdue jobs again and return how many; each is due later from then on."""
    jobs = ledger.overdue(now)
    for job in jobs:
        send(job)
    if jobs:
        log.info("sent %d overdue jobs again", len(jobs))
    return len(jobs)
