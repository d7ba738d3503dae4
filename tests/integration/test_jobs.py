"""Jobs end: applied, or given up with a reason; whatever dies, fails or goes away meanwhile."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import TypeVar, cast

import pytest
from redis import Redis
from redis.exceptions import RedisError

from db.errors import DatabaseUnavailable
from db.queries import dead_letters, fences
from db.queries.dead_letters import DeadLetter
from db.session import Database
from producer import keys
from producer.ids import new_id
from producer.ledger import Claim, Ledger
from producer.messages import ImageItem, IngestChunk, Job, Outcome, PathImage, Removal, RemoveChunk
from producer.reasons import Reason
from worker.claims import Claims
from worker.errors import DeviceFailed
from worker.jobs import MAX_CHUNK_DEATHS, MAX_DEATHS, MAX_FAILURES, Jobs

J = TypeVar("J", bound=Job)


def chunk(*products: str) -> IngestChunk:
    """A job with a picture of each product."""
    items = tuple(
        ImageItem(product_id=each, image=PathImage(path=f"/{each}"), version=1) for each in products
    )
    return IngestChunk(id=new_id(), accepted_at=time.time(), items=items)


class Desk:
    """A `Jobs` on a real ledger and catalogue, that remembers whether it was stopped."""

    def __init__(self, database: Database, redis: Redis) -> None:
        self.database = database
        self.redis = redis
        self.ledger = Ledger(redis)
        self.stopped = threading.Event()
        self.jobs = Jobs(
            database=database,
            ledger=self.ledger,
            claims=Claims(self.ledger),
            stopping=threading.Event(),
            stop=self.stopped.set,
        )

    def accept(self, job: J) -> J:
        """Write the job down, as a producer does."""
        self.ledger.accept([job])
        return job

    def work(self, claim: Claim[Job]) -> None:
        """What a worker that has nothing to complain about does."""
        self.ledger.clear(claim, Outcome(applied=1))

    def die(self, job: Job) -> None:
        """One delivery of the job to a worker that does not survive it."""
        assert self.ledger.begin(job) is not None
        self.redis.zadd(keys.LEDGER_LEASES, {job.id: 1.0})  # its claim runs out

    def claims_run_out(self) -> None:
        """Let every claim run out now."""
        for job_id in cast("list[bytes]", self.redis.zrange(keys.LEDGER_LEASES, 0, -1)):
            self.redis.zadd(keys.LEDGER_LEASES, {job_id: 1.0})

    def taken(self, job_id: str | None) -> IngestChunk:
        """A job that the ledger holds."""
        raw = cast("bytes", self.redis.hget(keys.LEDGER, str(job_id)))
        return IngestChunk.parse(json.loads(raw)["message"])

    def letters(self) -> list[DeadLetter]:
        """All dead letters."""
        with self.database.reading() as session:
            return dead_letters.list_(session)


@pytest.fixture
def desk(sqlite_database: Database, empty_valkey_url: str) -> Desk:
    """A desk of the test's own."""
    return Desk(sqlite_database, Redis.from_url(empty_valkey_url))


def fail(_: Claim[Job]) -> None:
    """Fail as a bug does: nothing is cleared."""
    raise ZeroDivisionError


def test_a_late_copy_of_an_applied_job_is_skipped(desk: Desk) -> None:
    job = desk.accept(chunk("a"))
    desk.jobs.do(job, desk.work)
    desk.jobs.do(job, lambda _: pytest.fail("done twice"))


def test_a_copy_of_a_job_that_another_worker_is_at_is_skipped(desk: Desk) -> None:
    job = desk.accept(chunk("a"))
    copies: list[object] = []

    def work(claim: Claim[Job]) -> None:
        desk.jobs.do(job, copies.append)
        desk.work(claim)

    desk.jobs.do(job, work)
    assert copies == []
    assert desk.ledger.size() == 0


def test_a_job_that_ends_every_worker_is_given_up(desk: Desk) -> None:
    removal = desk.accept(
        RemoveChunk(
            id=new_id(), accepted_at=time.time(), items=(Removal(product_id="deadly", version=1),)
        )
    )
    for _ in range(MAX_DEATHS):
        desk.die(removal)
    desk.jobs.do(removal, lambda _: pytest.fail("begun once too often"))
    assert desk.ledger.size() == 0
    (letter,) = desk.letters()
    assert (letter.product_id, letter.reason, letter.attempts) == (
        "deadly",
        Reason.WORKER_FAILED,
        MAX_DEATHS,
    )
    (outcome,) = desk.ledger.outcomes([removal.id])
    assert outcome is not None
    assert [failure.reason for failure in outcome.failures] == [Reason.WORKER_FAILED]


def test_pictures_have_more_patience_since_they_are_tried_in_a_process_of_their_own(
    desk: Desk,
) -> None:
    job = desk.accept(chunk("a", "b"))
    begun: list[Claim[Job]] = []
    for _ in range(MAX_CHUNK_DEATHS - 1):
        desk.die(job)

    def work(claim: Claim[Job]) -> None:
        begun.append(claim)
        desk.claims_run_out()

    desk.jobs.do(job, work)
    assert [claim.deaths for claim in begun] == [MAX_CHUNK_DEATHS - 1]
    desk.jobs.do(job, lambda _: pytest.fail("begun once too often"))
    assert {letter.product_id for letter in desk.letters()} == {"a", "b"}


def test_an_unexpected_error_of_one_item_does_not_cost_the_others(desk: Desk) -> None:
    job = desk.accept(chunk("good", "bad"))
    desk.jobs.do(job, fail)
    (outcome,) = desk.ledger.outcomes([job.id])
    assert outcome is not None
    good, bad = (desk.taken(failure.retried_as) for failure in outcome.failures)
    assert [len(each.items) for each in (good, bad)] == [1, 1]
    desk.jobs.do(good, desk.work)
    while desk.ledger.size():
        desk.jobs.do(bad, fail)
        (outcome,) = desk.ledger.outcomes([bad.id])
        assert outcome is not None
        if retried := outcome.failures[0].retried_as:
            bad = desk.taken(retried)
    (letter,) = desk.letters()
    assert (letter.product_id, letter.reason, letter.attempts) == (
        "bad",
        Reason.INTERNAL,
        MAX_FAILURES,
    )


def test_a_worker_that_wakes_after_its_claim_changes_nothing(desk: Desk) -> None:
    job = desk.accept(chunk("a"))
    began: list[int] = []

    def work(claim: Claim[Job]) -> None:
        began.append(claim.token)
        desk.claims_run_out()
        desk.jobs.do(job, desk.work)  # another worker, while this one is asleep
        with desk.database.writing() as session:
            fences.check(session, job.id, claim.token)
        pytest.fail("its commit was not refused")

    desk.jobs.do(job, work)
    assert began == [1]
    assert desk.ledger.size() == 0
    assert desk.ledger.outcomes([job.id]) == [Outcome(applied=1)]
    assert desk.letters() == []


def test_redis_that_goes_away_is_not_the_jobs_fault(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = desk.accept(chunk("a"))

    def away(*_: object, **__: object) -> None:
        raise RedisError

    with monkeypatch.context() as gone:
        gone.setattr(desk.ledger, "_clear", away)
        gone.setattr(desk.ledger, "_give_back", away)
        desk.jobs.do(job, desk.work)
    desk.jobs.claims.tend()
    claim = desk.ledger.begin(job)
    assert claim is not None
    assert (claim.token, claim.deaths) == (2, 0)


def test_a_database_that_comes_back_costs_the_job_nothing(desk: Desk) -> None:
    job = desk.accept(chunk("a", "b"))
    tries: list[Job] = []

    def away_at_first(claim: Claim[Job]) -> None:
        tries.append(claim.job)
        if len(tries) == 1:
            raise DatabaseUnavailable
        desk.work(claim)

    desk.jobs.do(job, away_at_first)
    assert tries == [job, job]
    assert desk.ledger.size() == 0


def test_a_database_that_stays_away_is_not_the_jobs_fault(desk: Desk) -> None:
    job = desk.accept(chunk("a", "b"))
    desk.jobs.stopping.set()  # nobody waits any more

    def away(_: Claim[Job]) -> None:
        raise DatabaseUnavailable

    for _ in range(2 * MAX_DEATHS):
        desk.jobs.do(job, away)
    assert [each.id for each in desk.ledger.overdue(time.time() + 10)] == [job.id]


def test_a_broken_device_ends_the_process_and_not_the_job(desk: Desk) -> None:
    job = desk.accept(chunk("a"))

    def broken(_: Claim[Job]) -> None:
        raise DeviceFailed

    for _ in range(2 * MAX_DEATHS):
        desk.jobs.do(job, broken)
    assert desk.stopped.is_set()
    assert desk.ledger.size() == 1


def test_a_catalogue_is_not_made_by_looking_at_it(tmp_path: Path) -> None:
    from migrations import check_schema

    database = Database(f"sqlite:///{tmp_path / 'nowhere' / 'catalogue.db'}")
    with pytest.raises(Exception, match="lookalike-worker migrate"):
        check_schema(database)
    assert not (tmp_path / "nowhere").exists()
