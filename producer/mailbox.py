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
"""Seconds between two looks into a mailbox."""
LATENESS = 1 / 6
"""Share of the time that it took by which an answer may be found too late."""
_FINAL = frozenset({AnswerState.DONE, AnswerState.FAILED, AnswerState.EXPIRED})
_QUEUED = Answer(state=AnswerState.QUEUED).model_dump_json().encode()
_RUNNING = Answer(state=AnswerState.RUNNING).model_dump_json().encode()
# In one step: an answer that another worker posts meanwhile must stay.
_BEGIN = """
local found = redis.call('GET', KEYS[1])
if found ~= ARGV[1] and found ~= ARGV[2] then
    return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
return 1
"""


class LookupState(StrEnum):
    """The state of a lookup: one of six, told apart for ever (invariant 4).

    What is gone is told from what never was by the time in its id. So the well-formed id of a question that
    was asked long ago, but somewhere else, reads as expired and not as unknown.
    """

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
    """The mailboxes on one Redis. `ttl` is how many seconds from its opening one is kept, if not told."""

    def __init__(self, redis: Redis, ttl: float) -> None:
        self._redis = redis
        self._ttl = ttl
        self._begin = redis.register_script(_BEGIN)

    def open(self, question_id: str, ttl: float | None = None) -> None:
        """Say that the question is queued. Done before it is published, so that no answer is overwritten.

        The mailbox is kept for `ttl` seconds from now, whatever is put into it: whoever asks decides.
        """
        kept = max(1, round((self._ttl if ttl is None else ttl) * 1000))
        self._redis.set(keys.mailbox(question_id), _QUEUED, px=kept)

    def running(self, question_id: str) -> bool:
        """Say that a worker has begun; False if there is nothing to do.

        That is so when the question was answered already (the broker delivered it twice), or when its
        mailbox has expired and nobody could read an answer.
        """
        return bool(self._begin(keys=[keys.mailbox(question_id)], args=[_QUEUED, _RUNNING]))

    def post(self, question_id: str, answer: Answer) -> None:
        """Leave the answer, for as long as its mailbox is kept; none is left if that is over."""
        self._redis.set(keys.mailbox(question_id), answer.model_dump_json(), xx=True, keepttl=True)

    def read(self, question_id: str) -> Answer | None:
        """What lies in the mailbox; None if it has expired or never was."""
        raw = cast("bytes | None", self._redis.get(keys.mailbox(question_id)))
        return None if raw is None else parse(raw)

    def state(self, question_id: str) -> LookupState:
        """The state of the question, also long after its mailbox is gone; see `LookupState`."""
        return self.state_of(question_id, self.read(question_id))

    def state_of(self, question_id: str, answer: Answer | None) -> LookupState:
        """The state that `answer`, just read from this question's mailbox, means."""
        return state_of(question_id, answer, self._ttl)

    def wait(self, question_id: str, timeout: float | None) -> Answer | None:
        """The answer once it is final, or what lies there after `timeout` seconds; None if nothing does."""
        began = time.monotonic()
        while True:
            answer = self.read(question_id)
            waited = time.monotonic() - began
            left = float("inf") if timeout is None else timeout - waited
            if answer is None or answer.state in _FINAL or left <= 0:
                return answer
            time.sleep(min(pause_after(waited), left))


def pause_after(waited: float) -> float:
    """Seconds to the next look into a mailbox, after so many of waiting."""
    return min(max(FIRST_PAUSE, waited * LATENESS), LONGEST_PAUSE)


def state_of(question_id: str, answer: Answer | None, ttl: float) -> LookupState:
    """The state that `answer` means, just read from a mailbox that is kept for `ttl` seconds."""
    if answer is not None:
        return LookupState(answer.state.value)
    issued = issued_at(question_id)
    old = issued is not None and issued + ttl <= time.time()
    return LookupState.EXPIRED if old else LookupState.UNKNOWN


def is_open(raw: bytes | None) -> bool:
    """Whether bytes from a mailbox say that the answer is still to come; not parsed, for those who look often."""
    return raw in (_QUEUED, _RUNNING)


def parse(raw: bytes) -> Answer:
    """The answer that bytes from a mailbox say; ValidationError if they are of another version."""
    return Answer.model_validate_json(raw)
