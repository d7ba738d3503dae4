"""What a request is refused with: problem documents (RFC 9457) with reason codes that never change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from producer.errors import (
    InvalidRequest,
    LookalikeError,
    LookupExpired,
    QueueFull,
    QueueUnavailable,
    UnknownJob,
    UnknownLookup,
)
from producer.reasons import Reason

MEDIA_TYPE = "application/problem+json"
SOON, LATER = 1, 5
"""Seconds after which to ask again: for what is being worked at, and for what is full or away."""


class Refusal(StrEnum):
    """Why a request was refused. What became of a lookup or a picture is a `Reason`."""

    MALFORMED = "malformed"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NO_SUCH_ADDRESS = "no_such_address"
    UNKNOWN_LOOKUP = "unknown_lookup"
    UNKNOWN_JOB = "unknown_job"
    NO_PICTURE = "no_such_picture"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    TOO_SLOW = "too_slow"
    KEY_IN_USE = "idempotency_key_in_use"
    KEY_REUSED = "idempotency_key_reused"
    EXPIRED = "expired"
    BODY_TOO_LARGE = "body_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    INVALID_REQUEST = "invalid_request"
    FAILURE = "gateway_failed"
    QUEUE_FULL = "queue_full"
    UNAVAILABLE = "queue_unavailable"
    NO_WORKER = "no_worker"
    BUSY = "busy"

    @property
    def status(self) -> int:
        """The HTTP status that goes with it."""
        return _MEANINGS[self][0]

    @property
    def meaning(self) -> str:
        """What it says to people; may be worded anew."""
        return _MEANINGS[self][1]


_MEANINGS: Mapping[Refusal, tuple[int, str]] = {
    Refusal.MALFORMED: (400, "The request is not of the form that is described here"),
    Refusal.UNAUTHENTICATED: (401, "An API key is needed"),
    Refusal.FORBIDDEN: (403, "This is not allowed"),
    Refusal.NO_SUCH_ADDRESS: (404, "There is nothing at this address"),
    Refusal.UNKNOWN_LOOKUP: (404, "No lookup of this id was asked here"),
    Refusal.UNKNOWN_JOB: (404, "The job is neither waiting nor remembered"),
    Refusal.NO_PICTURE: (404, "The product has no picture of this name"),
    Refusal.METHOD_NOT_ALLOWED: (405, "This cannot be done at this address"),
    Refusal.TOO_SLOW: (408, "The request came too slowly"),
    Refusal.KEY_IN_USE: (409, "The request with this Idempotency-Key is still being worked at"),
    Refusal.KEY_REUSED: (409, "This Idempotency-Key came with another request before"),
    Refusal.EXPIRED: (410, "The lookup has expired"),
    Refusal.BODY_TOO_LARGE: (413, "The request is too large"),
    Refusal.UNSUPPORTED_MEDIA_TYPE: (415, "The request is neither JSON nor multipart"),
    Refusal.INVALID_REQUEST: (422, "The request cannot be served"),
    Refusal.FAILURE: (500, "The gateway failed unexpectedly"),
    Refusal.QUEUE_FULL: (503, "The service is behind with its work"),
    Refusal.UNAVAILABLE: (503, "The queue cannot be reached"),
    Refusal.NO_WORKER: (503, "No worker has answered in time"),
    Refusal.BUSY: (503, "The gateway has too much to do"),
}
_PASSING = {Refusal.KEY_IN_USE: SOON, Refusal.BUSY: SOON}
_PASSING |= {Refusal.QUEUE_FULL: LATER, Refusal.UNAVAILABLE: LATER}
_PASSING |= {Refusal.NO_WORKER: LATER}


@dataclass(frozen=True)
class Problem:
    """A problem as a document says it."""

    reason: Refusal | Reason
    status: int
    title: str
    detail: str
    more: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, reason: Refusal, detail: str, **more: Any) -> Problem:
        """A refusal, and what to do about it."""
        return cls(reason, reason.status, reason.meaning, detail, more)

    @classmethod
    def of_lookup(cls, reason: Reason, detail: str) -> Problem:
        """Why a lookup has failed. Its status is what it would be if the lookup were the request."""
        statuses = {Reason.UNAVAILABLE: 503, Reason.INTERNAL: 500, Reason.WORKER_FAILED: 500}
        meaning = reason.meaning.replace("`", "")
        return cls(reason, statuses.get(reason, 422), meaning[0].upper() + meaning[1:], detail)

    @property
    def document(self) -> dict[str, Any]:
        """The document. `type` is a place on the gateway's page that explains the reason."""
        return {
            "type": f"/docs#{self.reason.value}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "reason": self.reason.value,
            **self.more,
        }


class Refused(Exception):
    """A request that is answered with a problem."""

    def __init__(self, problem: Problem, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        passing = _PASSING.get(problem.reason) if isinstance(problem.reason, Refusal) else None
        retry = {} if passing is None else {"Retry-After": str(passing)}
        self.headers = retry | dict(headers or {})


def refuse(reason: Refusal, detail: str, **more: Any) -> Refused:
    """What to raise for a request that is refused."""
    return Refused(Problem.of(reason, detail, **more))


_OF_ERRORS: tuple[tuple[type[LookalikeError], Refusal, str], ...] = (
    (QueueUnavailable, Refusal.UNAVAILABLE, "Send the request again in a moment."),
    (
        UnknownJob,
        Refusal.UNKNOWN_JOB,
        "Check the job's id; what became of one is remembered for a day.",
    ),
    (
        UnknownLookup,
        Refusal.UNKNOWN_LOOKUP,
        "Check the lookup's id; an answer is kept for a while, then ask the question again.",
    ),
    (LookupExpired, Refusal.EXPIRED, "Its answer is kept no longer: ask the question again."),
)


def refused(error: LookalikeError) -> Refused:
    """What an error of the producer is to a client, who is told nothing of this machine or the queue's."""
    if isinstance(error, InvalidRequest):
        return refuse(Refusal.INVALID_REQUEST, str(error))
    if isinstance(error, QueueFull):
        detail = "Too many jobs wait to be applied: send the request again later."
        return refuse(Refusal.QUEUE_FULL, detail, accepted=error.accepted)
    for kind, refusal, detail in _OF_ERRORS:
        if isinstance(error, kind):
            return refuse(refusal, detail)
    return refuse(Refusal.FAILURE, "Send the request again; if it fails again, tell the operator.")
