"""Mailboxes: where the answer to a question is left, and found by whoever knows the question's id."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import TYPE_CHECKING, cast

from producer import keys
from producer.ids import issued_at
from producer.messages import Answer, AnswerState

if TYPE_CHECKING:
    from redis import Redis

FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.05
"""Seconds between two looks into a mailbox; each pause is half as long again as the one before."""
_FINAL = frozenset({AnswerState.DONE, AnswerState.FAILED, AnswerState.EXPIRED})
_QUEUED = Answer(state=AnswerState.QUEUED).model_dump_json().encode()
_RUNNING = Answer(state=AnswerState.RUNNING).model_dump_json().encode()


class LookupState(StrEnum):
    """The state of a lookup: one of six, told apart for ever (invariant 4)."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    EXPIRED = "expired"
    UNKNOWN = "unknown"

    @property
    def final(self) -> bool:
        """Whether waiting longer is of no use."""
        return self not in (LookupState.QUEUED, LookupState.RUNNING)


class Mailbox:
    """The mailboxes on one Redis. `ttl` is how many seconds an answer is kept."""

    def __init__(self, redis: Redis, ttl: float) -> None:
        self._redis = redis
        self._ttl = max(1, round(ttl * 1000))

    def open(self, question_id: str) -> None:
        """Say that the question is queued. Done before it is published, so that no answer is overwritten."""
        self._redis.set(keys.mailbox(question_id), _QUEUED, px=self._ttl)

    def running(self, question_id: str) -> bool:
        """Say that a worker has begun; False if there is nothing to do.

        That is so when the question was answered already (the broker delivered it twice), or when its
        mailbox has expired and nobody could read an answer.
        """
        key = keys.mailbox(question_id)
        before = cast(
            "bytes | None", self._redis.set(key, _RUNNING, px=self._ttl, xx=True, get=True)
        )
        if before is None:
            return False
        if _parse(before).state in _FINAL:
            self._redis.set(key, before, px=self._ttl)
            return False
        return True

    def post(self, question_id: str, answer: Answer) -> None:
        """Leave the answer; it is kept for the mailbox's `ttl` from now."""
        self._redis.set(keys.mailbox(question_id), answer.model_dump_json(), px=self._ttl)

    def read(self, question_id: str) -> Answer | None:
        """What lies in the mailbox; None if it has expired or never was."""
        raw = cast("bytes | None", self._redis.get(keys.mailbox(question_id)))
        return None if raw is None else _parse(raw)

    def state(self, question_id: str) -> LookupState:
        """The state of the question, also long after its mailbox is gone."""
        return self.state_of(question_id, self.read(question_id))

    def state_of(self, question_id: str, answer: Answer | None) -> LookupState:
        """The state that `answer`, just read from this question's mailbox, means."""
        if answer is not None:
            return LookupState(answer.state.value)
        issued = issued_at(question_id)
        old = issued is not None and issued + self._ttl / 1000 <= time.time()
        return LookupState.EXPIRED if old else LookupState.UNKNOWN

    def wait(self, question_id: str, timeout: float | None) -> Answer | None:
        """The answer once it is final, or what lies there after `timeout` seconds; None if nothing does."""
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = FIRST_PAUSE
        while True:
            answer = self.read(question_id)
            left = float("inf") if deadline is None else deadline - time.monotonic()
            if answer is None or answer.state in _FINAL or left <= 0:
                return answer
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, LONGEST_PAUSE)


def _parse(raw: bytes) -> Answer:
    return Answer.model_validate_json(raw)
