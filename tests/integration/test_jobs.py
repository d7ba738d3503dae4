"""Jobs end: applied, or given up with a reason; whatever dies, fails or goes away meanwhile."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from redis import Redis

from db.errors import DatabaseUnavailable
from db.queries import dead_letters
from db.session import Database
from producer.ids import new_id
from producer.ledger import Ledger
from producer.messages import ImageItem, IngestChunk, Job, Outcome, PathImage, Reason
from worker.errors import DeviceFailed
from worker.jobs import MAX_STARTS, Jobs


def chunk(*products: str) -> IngestChunk:
    """A job with a picture of each product."""
    items = tuple(
        ImageItem(product_id=each, image=PathImage(path=f"/{each}"), version=1) for each in products
    )
    return IngestChunk(id=new_id(), accepted_at=time.time(), items=items)


class Desk:
    """A `Jobs` on a real ledger and catalogue, that remembers what it sends and whether it was stopped."""

    def __init__(self, database: Database, redis: Redis) -> None:
        self.database = database
        self.ledger = Ledger(redis)
        self.sent: list[Job] = []
        self.stopped = threading.Event()
        self.jobs = Jobs(
            database=database,
            ledger=self.ledger,
            send=self.sent.append,
            stopping=threading.Event(),
            stop=self.stopped.set,
        )

    def accept(self, job: IngestChunk) -> IngestChunk:
        """Write the job down, as a producer does."""
        self.ledger.accept([job])
        return job

    def work(self, job: Job) -> None:
        """What a worker that has nothing to complain about does."""
        self.ledger.clear(job, Outcome(applied=1))


@pytest.fixture
def desk(sqlite_database: Database, empty_valkey_url: str) -> Desk:
    """A desk of the test's own."""
    return Desk(sqlite_database, Redis.from_url(empty_valkey_url))


def die(_: Job) -> None:
    """Fail as a bug does: nothing is cleared."""
    raise ZeroDivisionError


def begin_and_die(desk: Desk, job: IngestChunk) -> None:
    """One delivery of the job to a worker that does not survive it."""
    with pytest.raises(ZeroDivisionError):
        desk.jobs.do(job, die)


def test_a_late_copy_of_an_applied_job_is_skipped(desk: Desk) -> None:
    job = desk.accept(chunk("a"))
    desk.jobs.do(job, desk.work)
    desk.jobs.do(job, lambda _: pytest.fail("done twice"))


def test_a_chunk_that_never_ended_is_split_so_that_one_picture_does_not_cost_the_others(
    desk: Desk,
) -> None:
    job = desk.accept(chunk("good", "deadly"))
    begin_and_die(desk, job)
    desk.jobs.do(job, lambda _: pytest.fail("begun again as a whole"))
    good, deadly = desk.sent
    assert isinstance(good, IngestChunk)
    assert isinstance(deadly, IngestChunk)
    (outcome,) = desk.ledger.outcomes([job.id])
    assert outcome is not None
    assert [failure.retried_as for failure in outcome.failures] == [good.id, deadly.id]

    desk.jobs.do(good, desk.work)
    for _ in range(MAX_STARTS):
        begin_and_die(desk, deadly)
    desk.jobs.do(deadly, lambda _: pytest.fail("begun once too often"))
    assert desk.ledger.size() == 0
    with desk.database.reading() as session:
        (letter,) = dead_letters.list_(session)
    assert letter.product_id == "deadly"
    assert letter.reason == Reason.WORKER_FAILED


def test_a_database_that_comes_back_costs_the_job_nothing(desk: Desk) -> None:
    job = desk.accept(chunk("a", "b"))
    tries: list[Job] = []

    def away_at_first(each: Job) -> None:
        tries.append(each)
        if len(tries) == 1:
            raise DatabaseUnavailable
        desk.work(each)

    desk.jobs.do(job, away_at_first)
    assert tries == [job, job]
    assert desk.ledger.size() == 0


def test_a_database_that_stays_away_is_not_the_jobs_fault(desk: Desk) -> None:
    job = desk.accept(chunk("a", "b"))
    desk.jobs.stopping.set()  # nobody waits any more

    def away(_: Job) -> None:
        raise DatabaseUnavailable

    for _ in range(2 * MAX_STARTS):
        desk.jobs.do(job, away)
    assert desk.sent == []
    assert [each.id for each in desk.ledger.overdue(time.time() + 10)] == [job.id]


def test_a_broken_device_ends_the_process_and_not_the_job(desk: Desk) -> None:
    job = desk.accept(chunk("a"))

    def broken(_: Job) -> None:
        raise DeviceFailed

    for _ in range(2 * MAX_STARTS):
        desk.jobs.do(job, broken)
    assert desk.stopped.is_set()
    assert desk.ledger.size() == 1


def test_a_catalogue_is_not_made_by_looking_at_it(tmp_path: Path) -> None:
    from migrations import check_schema

    database = Database(f"sqlite:///{tmp_path / 'nowhere' / 'catalogue.db'}")
    with pytest.raises(Exception, match="lookalike-worker migrate"):
        check_schema(database)
    assert not (tmp_path / "nowhere").exists()
