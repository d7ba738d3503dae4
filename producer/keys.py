"""Names of everything that Lookalike keeps in Redis, in one place.

All of it lies under one prefix, the broker's own keys too, so that a shop's other uses of the same Redis
are never touched and an access list can name it.
"""

from __future__ import annotations

PREFIX = "lookalike:"

LEDGER = PREFIX + "ledger"
"""Hash: job id → JSON of the job's message."""
LEDGER_DUE = PREFIX + "ledger:due"
"""Sorted set: job id → the time (epoch seconds) from which the sweeper may publish it again."""
LEDGER_APPLIED = PREFIX + "ledger:applied"
"""Sorted set: queue → when the newest job applied from it was accepted (epoch seconds)."""
LEDGER_LEASES = PREFIX + "ledger:leases"
"""Sorted set: job id → when the claim on it runs out (epoch seconds), while a worker is at it."""
LEDGER_STARTS = PREFIX + "ledger:starts"
"""Hash: job id → how often a worker has begun it, which is the token of the newest claim."""
LEDGER_EXCUSED = PREFIX + "ledger:excused"
"""Hash: job id → how many of those gave it back, for no fault of the job."""

REBUILD_FAILURE = PREFIX + "rebuild:failure"
"""String: JSON of the last rebuild's failure, until one succeeds."""
ASKED = PREFIX + "asked"
"""String: there while lookups are being asked; expires."""
COMMITS = PREFIX + "freshness:commits"
"""Sorted set: revision and acceptance of the newest changes → revision; expires."""
FRESHNESS = PREFIX + "freshness:samples"
"""List: when it was measured and how many seconds a change took to be searchable, the newest first; expires."""
WORKERS = PREFIX + "workers"
"""Hash: process of the service → JSON of its last heartbeat."""


UNACKED = PREFIX + "unacked"
"""Hash of kombu's: delivery tag → JSON of a message that a worker has taken and not acknowledged."""
UNACKED_INDEX = PREFIX + "unacked_index"
"""Sorted set of kombu's: delivery tag → when it was taken (epoch seconds)."""


def queue(name: str, priority: int = 0) -> str:
    """Redis list of a queue; kombu has one for each step of priority."""
    return f"{PREFIX}{name}\x06\x16{priority}" if priority else PREFIX + name


def mailbox(question_id: str) -> str:
    """String: JSON of the `Answer` to a question; expires."""
    return f"{PREFIX}mailbox:{question_id}"


def picture(sha256: str) -> str:
    """String: bytes of a picture that travels beside its message; expires."""
    return f"{PREFIX}picture:{sha256}"


def outcome(job_id: str) -> str:
    """String: JSON of the `Outcome` of a job; expires."""
    return f"{PREFIX}outcome:{job_id}"


def idempotency(digest: str) -> str:
    """String: JSON of what a request over HTTP with an Idempotency-Key has led to; expires."""
    return f"{PREFIX}idempotency:{digest}"
