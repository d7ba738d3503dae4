"""Mailboxes on a real server: six states, told apart."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from redis import Redis

from producer import keys
from producer.ids import new_id
from producer.mailbox import LookupState, Mailbox
from producer.messages import Answer, AnswerState, Failure
from producer.reasons import Reason

DONE = Answer(state=AnswerState.DONE, reply='{"a":1}')


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


def test_a_question_goes_through_its_states(redis: Redis) -> None:
    mailbox, question = Mailbox(redis, 60), new_id()
    assert mailbox.state(question) is LookupState.UNKNOWN
    mailbox.open(question)
    assert mailbox.state(question) is LookupState.QUEUED
    assert mailbox.running(question)
    assert mailbox.state(question) is LookupState.RUNNING
    mailbox.post(question, DONE)
    assert mailbox.state(question) is LookupState.DONE
    assert mailbox.read(question) == DONE


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (Answer(state=AnswerState.EXPIRED), LookupState.EXPIRED),
        (
            Answer(state=AnswerState.FAILED, failure=Failure(reason=Reason.INTERNAL, detail="x")),
            LookupState.FAILED,
        ),
    ],
)
def test_the_other_ends_are_states_too(redis: Redis, answer: Answer, state: LookupState) -> None:
    mailbox, question = Mailbox(redis, 60), new_id()
    mailbox.open(question)
    mailbox.post(question, answer)
    assert (mailbox.state(question), mailbox.state(question).final) == (state, True)


def test_a_question_delivered_twice_keeps_its_answer(redis: Redis) -> None:
    mailbox, question = Mailbox(redis, 60), new_id()
    mailbox.open(question)
    assert mailbox.running(question)
    assert mailbox.running(question)  # the first worker died
    mailbox.post(question, DONE)
    assert not mailbox.running(question)
    assert mailbox.read(question) == DONE


def test_an_answer_is_never_touched_by_a_late_start(redis: Redis) -> None:
    """Not even for a moment, in which somebody may look or the worker may die."""
    mailbox, question = Mailbox(redis, 60), new_id()
    mailbox.open(question)
    mailbox.post(question, DONE)
    with redis.monitor() as monitor:  # type: ignore[no-untyped-call]
        assert not mailbox.running(question)
        redis.ping()
        commands = []
        for command in monitor.listen():
            commands.append(command["command"].split()[0].upper())
            if commands[-1] == "PING":
                break
    assert "SET" not in commands


def test_whoever_asks_decides_how_long_the_mailbox_is_kept(redis: Redis) -> None:
    mailbox, question = Mailbox(redis, 900), new_id()
    mailbox.open(question, 60)
    assert Mailbox(redis, 5000).running(question)
    mailbox.post(question, DONE)
    assert 59_000 < redis.pttl(keys.mailbox(question)) <= 60_000  # type: ignore[operator]
    redis.delete(keys.mailbox(question))
    mailbox.post(question, DONE)
    assert not redis.exists(keys.mailbox(question))


def test_an_expired_question_is_not_worked_on_and_is_no_unknown_one(redis: Redis) -> None:
    mailbox, question = Mailbox(redis, 0.05), new_id()
    mailbox.open(question)
    assert 0 < redis.pttl(keys.mailbox(question)) <= 50  # type: ignore[operator]
    while redis.exists(keys.mailbox(question)):
        pass
    assert mailbox.state(question) is LookupState.EXPIRED
    assert not mailbox.running(question)
    assert not redis.exists(keys.mailbox(question))
    assert Mailbox(redis, 60).state("01890a5d-ac96-774b-bcce-b302099a8057") is LookupState.EXPIRED
    assert Mailbox(redis, 60).state("nonsense") is LookupState.UNKNOWN


def test_waiting_ends_with_the_answer_or_with_the_time(redis: Redis) -> None:
    mailbox, question = Mailbox(redis, 60), new_id()
    assert mailbox.wait(question, 5) is None
    mailbox.open(question)
    before = time.monotonic()
    waiting = mailbox.wait(question, 0.05)
    assert waiting is not None
    assert waiting.state is AnswerState.QUEUED
    assert time.monotonic() - before >= 0.05
    looked = threading.Event()

    def answer() -> None:
        looked.wait()
        mailbox.post(question, DONE)

    timer = threading.Thread(target=answer)
    timer.start()
    looked.set()
    assert mailbox.wait(question, None) == DONE
    timer.join()
