"""The ledger on a real server: nothing accepted is forgotten, and no backlog is sent twice."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from redis import Redis

from producer import keys
from producer.ids import new_id
from producer.ledger import CLAIM, GRACE, LONGEST_GRACE, Ledger, follow_up
from producer.messages import (
    ImageItem,
    IngestChunk,
    ItemFailure,
    Outcome,
    PathImage,
    Queue,
    Removal,
    RemoveChunk,
)
from producer.reasons import Reason
from producer.settings import ProducerSettings
from tests.fake_worker import claimed


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def ledger(redis: Redis) -> Ledger:
    return Ledger(redis)


def chunk(*product_ids: str, age: float = 0.0) -> IngestChunk:
    items = tuple(
        ImageItem(product_id=each, image=PathImage(path="/a.jpg"), version=1)
        for each in product_ids or ("a",)
    )
    return IngestChunk(id=new_id(), accepted_at=time.time() - age, items=items)


def later(seconds: float) -> float:
    return time.time() + seconds


def run_out(redis: Redis, job: IngestChunk) -> None:
    """Let the claim on the job run out now."""
    redis.zadd(keys.LEDGER_LEASES, {job.id: 1.0})


def backlog(redis: Redis, queue: Queue) -> None:
    redis.lpush(keys.queue(queue.value), "something")


def test_a_job_stays_until_its_outcome_is_known(ledger: Ledger) -> None:
    job, other = chunk(), chunk()
    assert ledger.accept([job, other]) == ledger.size() == 2
    assert ledger.outcomes([job.id]) == [None]
    assert ledger.missing([job.id, other.id, "nobody"]) == ["nobody"]
    outcome = Outcome(applied=1)
    ledger.clear(claimed(ledger, job), outcome)
    assert ledger.size() == 1
    assert ledger.outcomes([other.id, job.id]) == [None, outcome]
    assert ledger.missing([job.id, other.id]) == []


def test_what_the_queue_lost_is_sent_again_when_its_time_has_passed(ledger: Ledger) -> None:
    job = chunk("a", "b")
    ledger.accept([job])
    assert ledger.overdue() == []
    assert ledger.overdue(later(GRACE + 1)) == [job]
    assert ledger.overdue(later(GRACE + 1)) == []  # sent a moment ago
    assert ledger.overdue(later(3 * GRACE)) == [job]


def test_each_wait_is_as_long_as_all_before_it(ledger: Ledger, redis: Redis) -> None:
    job = chunk()
    ledger.accept([job])
    for age in (100.0, 250.0, 600.0, 5000.0):
        now = job.accepted_at + age
        assert ledger.overdue(now) == [job]
        due = redis.zscore(keys.LEDGER_DUE, job.id)
        assert due == pytest.approx(now + min(age, LONGEST_GRACE))


def test_a_backlog_is_not_sent_twice(ledger: Ledger, redis: Redis) -> None:
    early, applied, late = (chunk() for _ in range(3))
    ledger.accept([early, applied, late])
    backlog(redis, Queue.INGEST)
    assert ledger.overdue(later(GRACE + 1)) == []
    redis.zadd(keys.LEDGER_APPLIED, {Queue.INGEST.value: early.accepted_at - 10})
    assert ledger.overdue(later(GRACE + 1)) == []
    redis.zadd(keys.LEDGER_APPLIED, {Queue.INGEST.value: late.accepted_at + 10})
    assert len(ledger.overdue(later(GRACE + 1))) == 3


def test_a_job_that_was_overtaken_is_sent_again_though_its_queue_is_busy(
    ledger: Ledger, redis: Redis
) -> None:
    lost = chunk()
    while new_id()[:13] == lost.id[:13]:
        pass  # ids tell milliseconds apart
    newer = chunk()
    ledger.accept([lost, newer])
    backlog(redis, Queue.INGEST)
    ledger.clear(claimed(ledger, newer), Outcome(applied=1))
    assert ledger.overdue(later(GRACE + 1)) == [lost]


def test_queues_are_judged_apart(ledger: Ledger, redis: Redis) -> None:
    removal = RemoveChunk(
        id=new_id(), accepted_at=time.time(), items=(Removal(product_id="a", version=1),)
    )
    ledger.accept([chunk(), removal])
    backlog(redis, Queue.INGEST)
    assert ledger.overdue(later(GRACE + 1)) == [removal]


def test_a_follow_up_takes_over_in_the_same_step_and_comes_later(ledger: Ledger) -> None:
    job = chunk("a", "b")
    ledger.accept([job])
    again = follow_up(job, job.items[:1])
    assert (again.attempt, again.items) == (2, job.items[:1])
    ledger.clear(claimed(ledger, job), Outcome(applied=1), follow_ups=[again])
    assert ledger.size() == 1
    assert ledger.overdue(later(20)) == []
    assert ledger.overdue(later(40)) == [again]
    third = follow_up(again, again.items)
    ledger.clear(claimed(ledger, again), Outcome(applied=0), follow_ups=[third])
    assert ledger.overdue(later(45)) == []
    assert ledger.overdue(later(80)) == [third]


def test_several_follow_ups_come_in_the_same_step(ledger: Ledger) -> None:
    job = chunk("a", "b")
    ledger.accept([job])
    apart = [follow_up(job, [each]) for each in job.items]
    ledger.clear(claimed(ledger, job), Outcome(applied=0), follow_ups=apart)
    assert {each.id for each in ledger.overdue(later(60))} == {each.id for each in apart}


def test_only_the_newest_claim_says_what_became_of_a_job(ledger: Ledger, redis: Redis) -> None:
    job = chunk("a", "b")
    ledger.accept([job])
    asleep = claimed(ledger, job)
    run_out(redis, job)
    awake = claimed(ledger, job)
    first, second = (follow_up(job, job.items[:1]) for _ in range(2))
    assert not ledger.clear(asleep, Outcome(applied=2), follow_ups=[second])
    assert ledger.size() == 1
    assert not redis.exists(keys.LEDGER_APPLIED)
    assert ledger.clear(awake, Outcome(applied=1), follow_ups=[first])
    assert not ledger.clear(asleep, Outcome(applied=2), follow_ups=[second])
    assert ledger.outcomes([job.id]) == [Outcome(applied=1)]
    assert ledger.overdue(later(60)) == [first]


def test_a_producer_with_a_fast_clock_makes_nobody_look_overtaken(
    ledger: Ledger, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as clock:
        clock.setattr("producer.ids.time.time_ns", lambda: int((time.time() + 3600) * 1e9))
        fast = chunk()
    ledger.accept([fast])
    ledger.clear(claimed(ledger, fast), Outcome(applied=1))
    horizon = redis.zscore(keys.LEDGER_APPLIED, Queue.INGEST.value)
    assert horizon == pytest.approx(time.time(), abs=1)
    time.sleep(0.01)  # ids tell milliseconds apart
    waiting = chunk()
    ledger.accept([waiting])
    backlog(redis, Queue.INGEST)
    assert ledger.overdue(later(GRACE + 1)) == []


def test_a_job_has_one_worker_at_a_time(ledger: Ledger, redis: Redis) -> None:
    job = chunk()
    ledger.accept([job])
    first = claimed(ledger, job)
    assert (first.token, first.deaths) == (1, 0)
    assert ledger.begin(job) is None
    run_out(redis, job)
    second = claimed(ledger, job)
    assert (second.token, second.deaths) == (2, 1)
    assert ledger.begin(job) is None
    ledger.clear(second, Outcome(applied=1))
    assert ledger.begin(job) is None
    assert not redis.exists(keys.LEDGER_STARTS, keys.LEDGER_LEASES, keys.LEDGER_DUE)


def test_a_claim_lasts_while_it_is_renewed_and_the_job_is_sent_again_when_it_ran_out(
    ledger: Ledger, redis: Redis
) -> None:
    job = chunk()
    ledger.accept([job])
    claim = claimed(ledger, job)
    assert ledger.overdue(later(CLAIM - 2)) == []
    run_out(redis, job)
    assert ledger.renew(claim)  # nobody took it meanwhile
    assert ledger.begin(job) is None
    assert ledger.overdue(later(CLAIM + 2)) == [job]
    run_out(redis, job)
    taken = claimed(ledger, job)
    assert not ledger.renew(claim)
    assert ledger.renew(taken)
    ledger.clear(taken, Outcome(applied=1))
    assert not ledger.renew(taken)
    assert not redis.exists(keys.LEDGER_LEASES, keys.LEDGER_DUE)


def test_what_is_given_back_comes_again_soon_and_counts_no_death(
    ledger: Ledger, redis: Redis
) -> None:
    job = chunk()
    ledger.accept([job])
    claim = claimed(ledger, job)
    assert ledger.give_back(claim, after=5)
    assert ledger.overdue(later(4)) == []
    assert ledger.overdue(later(6)) == [job]
    again = claimed(ledger, job)
    assert (again.token, again.deaths) == (2, 0)
    assert not ledger.give_back(claim, after=5)
    run_out(redis, job)
    assert claimed(ledger, job).deaths == 1


def test_what_has_ended_cannot_be_given_back(ledger: Ledger, redis: Redis) -> None:
    job = chunk()
    ledger.accept([job])
    claim = claimed(ledger, job)
    ledger.clear(claim, Outcome(applied=1))
    assert not ledger.give_back(claim, after=5)
    assert not redis.exists(keys.LEDGER_EXCUSED, keys.LEDGER_DUE)


def test_outcomes_are_kept_for_their_own_time_and_are_small(redis: Redis) -> None:
    job = chunk()
    ledger = Ledger(redis, outcome_ttl=5000)
    ledger.accept([job])
    failure = ItemFailure(product_id="a", name=None, reason=Reason.INTERNAL, detail="x" * 10_000)
    ledger.clear(claimed(ledger, job), Outcome(applied=0, failures=(failure,)))
    assert 4_990_000 < redis.pttl(keys.outcome(job.id)) <= 5_000_000  # type: ignore[operator]
    assert redis.strlen(keys.outcome(job.id)) < 1000  # type: ignore[operator]
    assert ProducerSettings.model_fields["outcome_ttl"].default == 86_400


def test_sweeping_takes_no_more_than_asked_and_all_in_the_end(ledger: Ledger) -> None:
    jobs = [chunk() for _ in range(450)]
    ledger.accept(jobs)
    now = later(GRACE + 1)
    swept = [ledger.overdue(now, limit=200) for _ in range(4)]
    assert [len(part) for part in swept] == [200, 200, 50, 0]
    assert {job.id for part in swept for job in part} == {job.id for job in jobs}


def test_an_entry_of_another_version_blocks_nothing(ledger: Ledger, redis: Redis) -> None:
    for number, raw in enumerate(
        [
            "{",
            '{"task": "other", "message": {}}',
            '{"task": "lookalike.ingest", "message": {"v": 2}}',
        ]
    ):
        redis.hset(keys.LEDGER, str(number), raw)
        redis.zadd(keys.LEDGER_DUE, {str(number): 0})
    job = chunk()
    ledger.accept([job])
    assert ledger.overdue(later(GRACE + 1)) == [job]
    assert ledger.size() == 4


def test_what_is_struck_out_while_it_is_swept_does_not_come_back(
    ledger: Ledger, redis: Redis
) -> None:
    job = chunk()
    ledger.accept([job])
    ledger.clear(claimed(ledger, job), Outcome(applied=1))
    ledger._postpone({job.id: 5.0})
    assert redis.zscore(keys.LEDGER_DUE, job.id) is None
