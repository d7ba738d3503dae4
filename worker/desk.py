"""Answer questions in their mailboxes, whatever happens while answering (invariant 4)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel, TypeAdapter, ValidationError

from db.errors import DatabaseUnavailable
from producer import tracing
from producer.mailbox import Mailbox
from producer.messages import Answer, AnswerState, Failure, Identifier, Question
from producer.reasons import Reason
from worker import measures
from worker.images.errors import ImageError

log = logging.getLogger(__name__)


SLACK = 30.0
"""Seconds by which the clock of whoever asks may be behind."""
_ID: TypeAdapter[str] = TypeAdapter(Identifier)


class Unanswerable(Exception):
    """A question that has no reply, for a reason that its asker should read."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Desk:
    """Where questions are answered: never twice, never late, and never with an exception on the wire."""

    mailbox: Mailbox
    clock: Callable[[], float] = time.time

    def answer(self, question: Question, work: Callable[[], BaseModel]) -> None:
        """Run `work` and post its reply, or why there is none."""
        if self.clock() > question.expires_at + SLACK:
            late = Answer(state=AnswerState.EXPIRED)
            self.mailbox.post(question.id, late)
            measures.answered(question, time.perf_counter(), None, late)
        elif self.mailbox.running(question.id):
            began = measures.begun(question)
            reply, answer = _answer(question, work)
            self.mailbox.post(question.id, answer)
            measures.answered(question, began, reply, answer)  # nobody waits for it any more

    def refuse(self, body: object) -> None:
        """Answer a question that cannot be read, if it says at least which one it is."""
        try:
            question_id = _ID.validate_python(body.get("id") if isinstance(body, dict) else None)
        except ValidationError:
            return
        if self.mailbox.running(question_id):
            detail = (
                "the workers do not understand this question: is one of the two an older version?"
            )
            self.mailbox.post(question_id, _failed(Reason.INVALID_MESSAGE, detail))


def _answer(question: Question, work: Callable[[], BaseModel]) -> tuple[BaseModel | None, Answer]:
    """The reply, and what goes into the mailbox."""
    try:
        reply = work()
        return reply, Answer(state=AnswerState.DONE, reply=reply.model_dump_json())
    except (Unanswerable, ImageError) as error:
        return None, _failed(error.reason, error.detail)
    except DatabaseUnavailable as error:
        log.warning("question %s: %s", question.id, error)
        return None, _failed(
            Reason.UNAVAILABLE, "the catalogue cannot be reached at the moment; ask again"
        )
    except Exception:
        log.exception("question %s failed", question.id)
        return None, _failed(
            Reason.INTERNAL, f"the worker failed; its log names the question {question.id}"
        )


def _failed(reason: Reason, detail: str) -> Answer:
    tracing.fail(str(reason))
    return Answer(state=AnswerState.FAILED, failure=Failure(reason=reason, detail=detail))
