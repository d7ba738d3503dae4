"""Lookups: a question that was asked, to be polled for here or in another process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Generic, TypeVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from producer.errors import (
    InvalidRequest,
    LookupError_,
    LookupExpired,
    LookupFailed,
    LookupTimeout,
    PictureRejected,
    ProductNotFound,
    UnknownLookup,
)
from producer.ids import issued_at
from producer.mailbox import LookupState
from producer.messages import Answer, BatchReply, Failure, Reply
from producer.reasons import Reason

if TYPE_CHECKING:
    from producer.transport import Transport

R = TypeVar("R", bound=BaseModel)
DEFAULT_TIMEOUT = 10.0
_FRESH = 5.0
"""Seconds for which an id is too young for its reply to have expired."""
_ONE_OR_MANY: TypeAdapter[BatchReply | Reply] = TypeAdapter(
    Annotated[BatchReply | Reply, Field(union_mode="left_to_right")]
)
_PICTURE_REASONS = frozenset(
    {
        Reason.UNSUPPORTED_FORMAT,
        Reason.CORRUPT_IMAGE,
        Reason.TOO_LARGE,
        Reason.DECODE_TIMEOUT,
        Reason.DECODER_DIED,
        Reason.NOT_FOUND,
        Reason.FETCH_TIMEOUT,
        Reason.FETCH_FAILED,
        Reason.BLOCKED_ADDRESS,
        Reason.PATH_DENIED,
        Reason.BUCKET_DENIED,
        Reason.BYTES_EXPIRED,
        Reason.BAD_VECTOR,
    }
)


class _Asked(Generic[R]):
    """A question with an id, a state, and, once answered, a reply of type R."""

    def __init__(self, id_: str, transport: Transport) -> None:
        self._id = id_
        self._transport = transport

    @property
    def id(self) -> str:
        """What another process asks for the same reply by."""
        return self._id

    @property
    def state(self) -> LookupState:
        """Queued, running, done, failed, expired or unknown, at this moment."""
        return self._transport.state_of(self._id)

    def result(self, timeout: float | None = DEFAULT_TIMEOUT) -> R:
        """The reply, waiting for it at most `timeout` seconds (0: look once; None: until it expires).

        Raises LookupTimeout, LookupExpired, UnknownLookup, ProductNotFound, PictureRejected, LookupFailed
        or QueueUnavailable. After LookupTimeout it may be asked for again.
        """
        state, answer = self._transport.wait(self._id, timeout)
        return self.reply_in(answer, state, timeout)

    def reply_in(self, answer: Answer | None, state: LookupState, timeout: float | None = 0.0) -> R:
        """The reply in what was found in its mailbox after `timeout` seconds; raises as `result` does."""
        if answer is None or answer.reply is None or state is not LookupState.DONE:
            raise self._error(state, answer, timeout)
        try:
            return self._read(answer.reply)
        except ValidationError:
            raise LookupFailed(
                Reason.INTERNAL,
                f"the reply to {self._id} is not one this version reads: upgrade the shop or the service",
            ) from None

    def _read(self, reply: str) -> R:
        raise NotImplementedError

    def _error(
        self, state: LookupState, answer: Answer | None, timeout: float | None
    ) -> LookupError_:
        if answer is not None and answer.failure is not None:
            return _failure(answer.failure)
        if state is LookupState.UNKNOWN:
            issued = issued_at(self._id)
            expired = (
                ", or it has expired (a reply is kept for the LOOKALIKE_LOOKUP_TTL of the side that asked)"
                if issued is not None and issued + _FRESH <= time.time()
                else ""
            )
            return UnknownLookup(
                f"no lookup {self._id!r} was asked here{expired}: check the id, and that "
                "LOOKALIKE_REDIS_URL is the same on both sides"
            )
        if state is LookupState.EXPIRED:
            return LookupExpired(f"lookup {self._id} has expired: ask the question again")
        return LookupTimeout(
            f"lookup {self._id} is still {state.value} after {timeout or 0:g} s: ask again by its id, or "
            "check `lookalike status`"
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._id!r})"


class Lookup(_Asked[Reply]):
    """One question, about a product, a picture, or several together."""

    def _read(self, reply: str) -> Reply:
        batch = _ONE_OR_MANY.validate_json(reply)
        if isinstance(batch, Reply):
            return batch
        if batch.not_found and not batch.replies:
            raise ProductNotFound(batch.not_found[0])
        if len(batch.replies) != 1 or batch.not_found:
            raise InvalidRequest(f"lookup {self._id} is a batch: read it with batch({self._id!r})")
        return batch.replies[0]


class BatchLookup(_Asked[BatchReply]):
    """Several questions in one message, answered from one view of the index."""

    def _read(self, reply: str) -> BatchReply:
        batch = _ONE_OR_MANY.validate_json(reply)
        return BatchReply(replies=(batch,)) if isinstance(batch, Reply) else batch


class Asked(_Asked[R]):
    """Any other question, whose reply is of the type given."""

    def __init__(self, id_: str, transport: Transport, reply: type[R]) -> None:
        super().__init__(id_, transport)
        self._reply = reply

    def _read(self, reply: str) -> R:
        return self._reply.model_validate_json(reply)


def _failure(failure: Failure) -> LookupError_:
    if failure.reason in _PICTURE_REASONS:
        return PictureRejected(failure.reason, failure.detail)
    return LookupFailed(failure.reason, failure.detail)
