"""Questions that a request waits for: asked by the queue, answered in a mailbox, in the time that a page has."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from producer import checks
from producer.gateway.mailboxes import Mailboxes
from producer.gateway.problems import Problem, Refusal, Refused, refuse
from producer.gateway.threads import Threads
from producer.gateway.turns import Turns
from producer.ids import new_id
from producer.mailbox import is_open, parse
from producer.messages import Question, StatusRequest
from producer.reasons import Reason
from producer.transport import Transport

Q = TypeVar("Q", bound=Question)
R = TypeVar("R", bound=BaseModel)
LARGE = 32 << 10
"""Bytes of an answer that are too many to be read between two others."""
ANSWERED_IN = 15.0
"""Seconds that the service may take: longer than it takes to requeue what it requeues at once."""


class Questions:
    """Asks the service, and waits without holding a thread."""

    def __init__(
        self, transport: Transport, mailboxes: Mailboxes, threads: Threads, turns: Turns
    ) -> None:
        self._transport = transport
        self._mailboxes = mailboxes
        self._threads = threads
        self._turns = turns

    async def reply(
        self, kind: type[Question], reply: type[R], timeout: float = ANSWERED_IN, **fields: Any
    ) -> R:
        """What the service replies. Raises Refused, InvalidRequest and QueueUnavailable."""
        # How the service is gets looked at once for all who ask, and is asked most where nothing else is answered.
        turn = nullcontext() if kind is StatusRequest else self._turns.one(timeout)
        async with turn:
            question = new(kind, timeout, **fields)
            await self._threads.run(partial(self._transport.ask, question))
            raw = await self._mailboxes.wait(question.id, timeout)
        if raw is None or is_open(raw):
            raise refuse(
                Refusal.NO_WORKER,
                "The question waits for a worker: the operator sees by `lookalike status` whether one runs.",
            )
        await self._mailboxes.clear(question.id)
        read: Callable[[], R] = partial(_read, raw, reply)
        return await self._threads.run(read) if len(raw) > LARGE else read()


def new(kind: type[Q], lifetime: float, **fields: Any) -> Q:
    """A question that somebody waits for so many seconds. Raises InvalidRequest."""
    return checks.build(kind, id=new_id(), expires_at=time.time() + lifetime, **fields)


def _read(raw: bytes, reply: type[R]) -> R:
    try:
        answer = parse(raw)
        if answer.failure is not None:
            raise Refused(Problem.of_lookup(answer.failure.reason, answer.failure.detail))
        return reply.model_validate_json(answer.reply or "")
    except ValidationError:
        detail = "the answer is not one this version reads: upgrade the gateway or the service"
        raise Refused(Problem.of_lookup(Reason.INTERNAL, detail)) from None
