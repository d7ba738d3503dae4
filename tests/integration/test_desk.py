"""Whatever happens while a question is answered, its asker learns it."""

from __future__ import annotations

import time

import pytest
from redis import Redis

from db.errors import DatabaseUnavailable
from producer.ids import new_id
from producer.mailbox import LookupState, Mailbox
from producer.messages import Outcome, ProductLookup
from producer.reasons import Reason
from worker.desk import SLACK, Desk, Unanswerable
from worker.images.errors import ImageError


def question(seconds: float = 60.0) -> ProductLookup:
    """A question that somebody waits for."""
    return ProductLookup(id=new_id(), expires_at=time.time() + seconds, product_ids=("a",))


@pytest.fixture
def mailbox(redis_url: str) -> Mailbox:
    """Mailboxes on Valkey, and on Redis where it is installed."""
    return Mailbox(Redis.from_url(redis_url), 60.0)


def test_a_reply_is_posted(mailbox: Mailbox) -> None:
    asked = question()
    mailbox.open(asked.id)
    Desk(mailbox).answer(asked, lambda: Outcome(applied=3))
    answer = mailbox.read(asked.id)
    assert answer is not None
    assert mailbox.state(asked.id) is LookupState.DONE
    assert answer.reply == '{"applied":3,"failures":[]}'


def test_nobody_answers_what_nobody_waits_for(mailbox: Mailbox) -> None:
    asked = question(seconds=-SLACK - 1)
    mailbox.open(asked.id)
    Desk(mailbox).answer(asked, lambda: pytest.fail("asked for nothing"))
    assert mailbox.state(asked.id) is LookupState.EXPIRED


def test_a_question_delivered_twice_is_answered_once(mailbox: Mailbox) -> None:
    asked = question()
    mailbox.open(asked.id)
    Desk(mailbox).answer(asked, lambda: Outcome(applied=1))
    Desk(mailbox).answer(asked, lambda: pytest.fail("answered again"))
    answer = mailbox.read(asked.id)
    assert answer is not None
    assert answer.reply == '{"applied":1,"failures":[]}'


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Unanswerable(Reason.UNAVAILABLE, "no network"), Reason.UNAVAILABLE),
        (ImageError(Reason.CORRUPT_IMAGE, "cut off"), Reason.CORRUPT_IMAGE),
        (DatabaseUnavailable("postgresql://db is down"), Reason.UNAVAILABLE),
        (ZeroDivisionError("a bug"), Reason.INTERNAL),
    ],
)
def test_an_error_becomes_a_reason(mailbox: Mailbox, error: Exception, reason: Reason) -> None:
    asked = question()
    mailbox.open(asked.id)

    def fail() -> Outcome:
        raise error

    Desk(mailbox).answer(asked, fail)
    answer = mailbox.read(asked.id)
    assert answer is not None
    assert answer.failure is not None
    assert answer.failure.reason is reason
    assert "a bug" not in answer.failure.detail


def test_a_question_of_another_version_is_refused(mailbox: Mailbox) -> None:
    asked = question()
    mailbox.open(asked.id)
    Desk(mailbox).refuse({**asked.model_dump(mode="json"), "v": 2})
    Desk(mailbox).refuse("no question at all")
    answer = mailbox.read(asked.id)
    assert answer is not None
    assert answer.failure is not None
    assert answer.failure.reason is Reason.INVALID_MESSAGE
