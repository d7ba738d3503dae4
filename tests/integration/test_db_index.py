"""Models, leases, and the pointer that only a lease's newest holder can move (invariant 7)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError

from db.models import ModelVersion
from db.queries import catalogue, generations, leases, models
from db.queries.generations import LEASE, NewGeneration, Pointer
from db.session import Database
from tests.integration.catalogue_rows import model

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def generation(database: Database, number: int = 1) -> NewGeneration:
    """A build ready to be published."""
    return NewGeneration(
        number=number,
        model_version_pk=model(database).pk,
        revision=7,
        images=3,
        directory=f"generation-{number:08d}",
        manifest_sha256="a" * 64,
        recall=0.99,
        created_at=NOON,
    )


def take(database: Database, *, now: datetime = NOON, holder: str = "builder") -> int | None:
    """The lease for a minute."""
    with database.writing() as session:
        return leases.acquire(session, LEASE, holder, 60, now=now)


def publish(
    database: Database, build: NewGeneration, token: int | None, expected: int | None = None
) -> bool:
    """Try to make the build current."""
    assert token is not None
    with database.writing() as session:
        return generations.publish(session, build, expected_current=expected, lease_token=token)


def roll_back(database: Database, number: int, token: int, expected: int) -> bool:
    """Try to make a published generation current again."""
    with database.writing() as session:
        return generations.roll_back(session, number, expected_current=expected, lease_token=token)


def pointer(database: Database) -> Pointer:
    """All that the pointer says."""
    with database.reading() as session:
        return generations.pointer(session)


def current(database: Database) -> int | None:
    """The number that the pointer names, by both of the ways to read it."""
    with database.reading() as session:
        found = generations.current(session)
        number = found.number if found else None
        assert catalogue.head(session).generation == number
        return number


def test_a_lease_is_one_holder_s_until_it_runs_out_and_tokens_grow(database: Database) -> None:
    assert take(database) == 1
    assert take(database, holder="other") is None
    assert take(database, now=NOON + timedelta(seconds=59)) is None
    assert take(database, now=NOON + timedelta(seconds=61), holder="other") == 2


def test_only_the_newest_token_renews_and_releases(database: Database) -> None:
    old = take(database)
    assert old is not None
    with database.writing() as session:
        assert leases.renew(session, LEASE, old, 60, now=NOON + timedelta(seconds=50))
    assert take(database, now=NOON + timedelta(seconds=100)) is None
    new = take(database, now=NOON + timedelta(seconds=120))
    assert new is not None
    with database.writing() as session:
        assert not leases.renew(session, LEASE, old, 60)
        assert not leases.release(session, LEASE, old)
        assert leases.release(session, LEASE, new)
        assert not leases.renew(session, LEASE, new, 60), "given back"
    assert take(database) == new + 1, "the token survives the release"


def test_of_many_that_ask_at_once_one_gets_the_lease(database: Database) -> None:
    barrier = Barrier(6)

    def ask(number: int) -> int | None:
        barrier.wait()
        return take(database, holder=f"worker {number}")

    with ThreadPoolExecutor(6) as pool:
        tokens = list(pool.map(ask, range(6)))
    assert sorted(token for token in tokens if token is not None) == [1]


def test_a_published_generation_is_current_and_reads_back_whole(database: Database) -> None:
    build = generation(database)
    assert current(database) is None
    assert publish(database, build, take(database))
    assert current(database) == 1
    with database.reading() as session:
        found = generations.current(session)
        assert found is not None
        assert found.model_digest == "d" * 64
        assert NewGeneration(**{k: getattr(found, k) for k in vars(build)}) == build
        assert generations.next_number(session) == 2
        assert catalogue.head(session).token == 1


def test_a_holder_that_was_overtaken_cannot_publish(database: Database) -> None:
    late = take(database)
    newer = take(database, now=NOON + timedelta(seconds=61), holder="other")
    assert not publish(database, generation(database), late)
    assert current(database) is None
    assert publish(database, generation(database), newer)
    assert not publish(database, generation(database, 2), late, expected=1)
    assert current(database) == 1
    with database.reading() as session:
        assert generations.get(session, 2) is None, "nothing of it was written"


def test_a_lease_that_was_given_back_cannot_publish(database: Database) -> None:
    token = take(database)
    assert token is not None
    with database.writing() as session:
        leases.release(session, LEASE, token)
    assert not publish(database, generation(database), token)


def test_a_pointer_that_moved_meanwhile_is_left_alone(database: Database) -> None:
    token = take(database)
    assert publish(database, generation(database, 1), token)
    assert not publish(database, generation(database, 2), token, expected=None)
    assert not publish(database, generation(database, 2), token, expected=5)
    assert current(database) == 1
    assert publish(database, generation(database, 2), token, expected=1)
    assert not publish(database, generation(database, 2), token, expected=2), "number taken"
    assert current(database) == 2


def test_of_two_that_publish_at_once_one_wins(database: Database) -> None:
    token, build = take(database), generation(database)
    barrier = Barrier(2)

    def race(number: int) -> bool:
        barrier.wait()
        return publish(database, replace(build, number=number), token)

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(race, [1, 2])) == [False, True]


def test_a_rollback_pins_and_only_an_operator_publishes_over_it(database: Database) -> None:
    token = take(database)
    assert token is not None
    for number in (1, 2, 3):
        assert publish(database, generation(database, number), token, current(database))
    assert pointer(database) == Pointer(3, token, pinned=False)
    assert roll_back(database, 2, token, expected=3)
    assert pointer(database) == Pointer(2, token, pinned=True)
    assert not publish(database, generation(database, 4), token, expected=2)
    assert pointer(database) == Pointer(2, token, pinned=True)
    with database.writing() as session:
        build = generation(database, 4)
        assert generations.publish(
            session, build, expected_current=2, lease_token=token, over_pin=True
        )
    assert pointer(database) == Pointer(4, token, pinned=False)
    assert publish(database, generation(database, 5), token, expected=4)


def test_a_rollback_is_refused_where_a_build_would_be(database: Database) -> None:
    late = take(database)
    token = take(database, now=NOON + timedelta(seconds=61), holder="other")
    assert late is not None
    assert token is not None
    for number in (1, 2, 3):
        assert publish(database, generation(database, number), token, current(database))
    assert not roll_back(database, 2, late, expected=3), "overtaken"
    assert not roll_back(database, 2, token, expected=1), "the pointer is elsewhere"
    assert not roll_back(database, 9, token, expected=3), "unknown"
    with database.writing() as session:
        assert generations.mark_removed(session, 1, at=NOON)
    assert not roll_back(database, 1, token, expected=3), "deleted"
    with database.writing() as session:
        assert leases.release(session, LEASE, token)
    assert not roll_back(database, 2, token, expected=3), "given back"
    assert pointer(database) == Pointer(3, token, pinned=False)
    with database.reading() as session:
        assert generations.removed_at(session, 1) == NOON
        assert generations.removed_at(session, 2) is None
        assert generations.removed_at(session, 9) is None


def test_whoever_is_refused_a_lease_can_be_told_who_has_it(database: Database) -> None:
    with database.reading() as session:
        assert leases.holder(session, LEASE) is None
    token = take(database)
    assert token is not None
    with database.reading() as session:
        found = leases.holder(session, LEASE, now=NOON + timedelta(seconds=60))
        assert found == leases.Holder("builder", token, NOON + timedelta(seconds=60))
        assert leases.holder(session, LEASE, now=NOON + timedelta(seconds=61)) is None
    with database.writing() as session:
        assert leases.release(session, LEASE, token)
    with database.reading() as session:
        assert leases.holder(session, LEASE, now=NOON) is None


def test_the_current_generation_is_not_marked_removed(
    database: Database,
) -> None:
    token = take(database)
    assert token is not None
    for number in (1, 2, 3):
        assert publish(database, generation(database, number), token, current(database))
    with database.writing() as session:
        assert not generations.mark_removed(session, 3)
        assert generations.mark_removed(session, 1, at=NOON)
        assert not generations.mark_removed(session, 1), "already"
        assert [each.number for each in generations.kept(session)] == [3, 2]
        assert generations.next_number(session) == 4
    assert current(database) == 3


def test_the_first_model_is_active_and_a_second_one_is_not(database: Database) -> None:
    first, second = model(database), model(database, "e" * 64)
    assert model(database) == first
    with database.reading() as session:
        assert models.active(session) == first
        assert models.by_pk(session, second.pk) == second
        assert models.by_digest(session, "f" * 64) is None
        head = catalogue.head(session)
        assert (head.model_version_pk, head.model_digest) == (first.pk, first.digest)


def test_a_generation_of_the_incoming_model_makes_it_the_active_one(database: Database) -> None:
    first, second = model(database), model(database, "e" * 64)
    token, build = take(database), generation(database)
    theirs = replace(build, model_version_pk=second.pk)
    assert not publish(database, theirs, token), "it is neither active nor incoming"
    with database.writing() as session:
        models.begin_rollout(session, second.pk, without_missing=False)
    assert publish(database, theirs, token)
    with database.reading() as session:
        serving = models.serving(session)
        found = generations.current(session)
    assert (serving.active, serving.incoming) == (second, None)
    assert found is not None
    assert found.model_digest == second.digest
    late = replace(build, number=2, model_version_pk=first.pk)
    assert not publish(database, late, token, 1), "the model of a late builder is active no more"


def test_two_models_are_never_on_their_way_at_once(database: Database) -> None:
    model(database)
    first, second = model(database, "e" * 64), model(database, "f" * 64)
    with database.writing() as session:
        models.begin_rollout(session, first.pk, without_missing=True)
        models.begin_rollout(session, second.pk, without_missing=False)
        serving = models.serving(session)
    assert (serving.incoming, serving.without_missing) == (second, False)
    with pytest.raises(IntegrityError), database.writing() as session:
        session.execute(update(ModelVersion).values(incoming=True))


def test_workers_that_start_together_agree_on_the_active_model(database: Database) -> None:
    barrier = Barrier(4)

    def register(number: int) -> int:
        barrier.wait()
        return model(database, f"{number % 2}" * 64).pk

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(register, range(4)))) == 2
    with database.reading() as session:
        assert models.active(session) is not None
