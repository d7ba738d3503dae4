"""A late writer is refused by its token, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from db.queries import fences, models
from db.queries.fences import Fenced
from db.session import Database
from producer.ids import new_id


def raise_(database: Database, job: str, token: int, *, days_ago: int = 0) -> None:
    """Raise the fence of a job."""
    with database.writing() as session:
        fences.raise_(session, job, token, now=datetime.now(UTC) - timedelta(days=days_ago))


def admits(database: Database, job: str, token: int) -> bool:
    """Whether a commit with this token is admitted."""
    try:
        with database.writing() as session:
            fences.check(session, job, token)
    except Fenced:
        return False
    return True


def test_only_the_newest_claim_may_commit(database: Database) -> None:
    job, other = new_id(), new_id()
    assert admits(database, job, 1)
    raise_(database, job, 2)
    assert [admits(database, job, token) for token in (1, 2, 3)] == [False, True, True]
    assert admits(database, other, 1)


def test_a_fence_is_never_lowered(database: Database) -> None:
    job = new_id()
    raise_(database, job, 5)
    raise_(database, job, 3)
    assert not admits(database, job, 4)


def test_old_fences_are_taken_down_by_new_ones(database: Database) -> None:
    old, new = new_id(), new_id()
    raise_(database, old, 2, days_ago=8)
    assert not admits(database, old, 1)
    raise_(database, new, 2)
    assert admits(database, old, 1)


def test_what_a_late_writer_did_in_its_transaction_is_undone(database: Database) -> None:
    job = new_id()
    raise_(database, job, 2)

    def write_late() -> None:
        with database.writing() as session:
            models.register(session, "d" * 64, "late", 1, {})
            fences.check(session, job, 1)

    with pytest.raises(Fenced):
        write_late()
    with database.reading() as session:
        assert models.active(session) is None
