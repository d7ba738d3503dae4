from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from db.errors import DatabaseUnavailable
from db.queries import leases
from db.session import Database
from worker.lease import Lease, LeaseHeld, LeaseLost


def test_one_holder_at_a_time_with_a_growing_token(database: Database) -> None:
    with Lease(database, "work") as first:
        with pytest.raises(LeaseHeld), Lease(database, "work"):
            pass
        with Lease(database, "other work"):
            pass
    with Lease(database, "work") as second:
        assert second.token > first.token
        second.check()


def test_it_is_renewed_while_the_work_lasts(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed = threading.Semaphore(0)
    real = leases.renew

    def renew(*args: object) -> bool:
        held = real(*args)  # type: ignore[arg-type]
        renewed.release()
        return held

    monkeypatch.setattr(leases, "renew", renew)
    with Lease(sqlite_database, "work", ttl=0.06) as lease:
        for _ in range(5):
            assert renewed.acquire(timeout=10)
        assert not lease.lost
        with sqlite_database.writing() as session:
            assert leases.acquire(session, "work", "thief", 1.0) is None


def test_the_lease_of_a_dead_process_can_be_taken(database: Database) -> None:
    with database.writing() as session:
        old = leases.acquire(
            session, "work", "dead", 60.0, now=datetime.now(UTC) - timedelta(seconds=61)
        )
    assert old is not None
    with Lease(database, "work") as lease:
        assert lease.token == old + 1


def test_a_lease_that_was_taken_is_lost(sqlite_database: Database) -> None:
    with Lease(sqlite_database, "work", ttl=0.06) as lease:
        with sqlite_database.writing() as session:
            leases.release(session, "work", lease.token)
            leases.acquire(session, "work", "thief", 60.0)
        _wait(lease)
        with pytest.raises(LeaseLost):
            lease.check()
    with sqlite_database.writing() as session:
        assert leases.acquire(session, "work", "third", 60.0) is None  # the thief still has it


def test_a_lease_that_cannot_be_renewed_in_time_is_lost(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bool:
        raise DatabaseUnavailable

    with Lease(sqlite_database, "work", ttl=0.3) as lease:
        monkeypatch.setattr(leases, "renew", fail)
        began = time.monotonic()
        _wait(lease)
        assert time.monotonic() - began >= 0.2


def _wait(lease: Lease) -> None:
    deadline = time.monotonic() + 10
    while not lease.lost:
        assert time.monotonic() < deadline
        time.sleep(0.005)
