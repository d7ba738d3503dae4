"""From a job's acceptance until lookups find what it brought."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from producer import Producer, keys
from tests.services import free_port
from tests.stack import save_picture
from worker.freshness import KEPT, Commits, Sightings, freshness


def until(done: Callable[[], bool], seconds: float = 10.0) -> None:
    ends = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < ends
        time.sleep(0.02)


@pytest.fixture
def redis(empty_valkey_url: str) -> Iterator[Redis]:
    with Redis.from_url(empty_valkey_url) as client:
        yield client


@pytest.fixture
def unreachable() -> Redis:
    return Redis(port=free_port(), retry=Retry(NoBackoff(), 0))


def test_a_sample_is_from_the_acceptance_to_the_first_sight_of_the_revision(redis: Redis) -> None:
    now = [100.0]
    sightings, commits = Sightings(redis, clock=lambda: now[0]), Commits(redis)
    commits.note(4, 1.0)  # was there when this process began
    sightings.see(4)
    for revision in (5, 6, 7, 9):
        commits.note(revision, 90.0)
    for at, revision in ((200.0, 6), (300.0, 8)):
        now[0] = at
        sightings.see(revision)
    assert sightings.measure(until=99.0) == []
    assert sightings.measure(until=250.0) == [110.0, 110.0]
    assert sightings.measure(until=300.0) == [210.0]
    assert sightings.measure(until=300.0) == []
    now[0] = 89.0  # a clock that is behind
    sightings.see(9)
    assert sightings.measure(until=300.0) == [0.0]
    found = freshness(redis)
    assert found is not None
    assert (found.p50, found.p95, found.samples) == (110.0, 210.0, 4)
    assert found.since.timestamp() == pytest.approx(time.time(), abs=5)


def test_several_views_at_once_are_told_apart(redis: Redis) -> None:
    now = [100.0]
    sightings, commits = Sightings(redis, clock=lambda: now[0]), Commits(redis)
    sightings.see(4)
    for revision in (5, 6, 7):
        commits.note(revision, 90.0)
        now[0] += 100.0
        sightings.see(revision)
    assert sightings.measure(until=1000.0) == [110.0, 210.0, 310.0]


def test_each_process_that_answers_counts(redis: Redis) -> None:
    one, two = Sightings(redis), Sightings(redis)
    for each in (one, two):
        each.see(1)
    Commits(redis).note(2, time.time())
    for each in (one, two):
        each.see(2)
        assert len(each.measure(until=time.time())) == 1
    found = freshness(redis)
    assert found is not None
    assert found.samples == 2


def test_what_is_kept_is_bounded_and_expires(redis: Redis) -> None:
    commits, sightings = Commits(redis), Sightings(redis)
    sightings.see(0)
    for revision in range(1, KEPT + 100):
        commits.note(revision, time.time())
    assert redis.zcard(keys.COMMITS) == KEPT
    sightings.see(KEPT + 99)
    assert len(sightings.measure(until=time.time())) == KEPT
    sightings.see(KEPT + 100)
    commits.note(KEPT + 100, time.time())
    sightings.measure(until=time.time())
    assert redis.llen(keys.FRESHNESS) == KEPT
    assert all(redis.ttl(key) > 0 for key in (keys.COMMITS, keys.FRESHNESS))  # type: ignore[operator]


def test_a_catalogue_that_went_back_in_time_gives_no_samples(redis: Redis) -> None:
    commits, sightings = Commits(redis), Sightings(redis)
    for revision in (7, 8):
        sightings.see(revision)
        commits.note(revision, time.time())
    sightings.measure(until=time.time())
    sightings.see(3)
    assert sightings.measure(until=time.time()) == []
    commits.note(4, time.time())
    sightings.see(4)
    assert len(sightings.measure(until=time.time())) == 1


def test_without_redis_nobody_fails_and_afterwards_it_goes_on(
    redis: Redis, unreachable: Redis
) -> None:
    Commits(unreachable).note(1, time.time())
    observed: list[float] = []
    with Sightings(unreachable, observed.append, every=0.01) as sightings:
        sightings.see(1)
        sightings.see(2)
        until(lambda: sightings._from == 2)  # it has tried
        sightings._redis = redis
        Commits(redis).note(3, time.time() - 10)
        sightings.see(3)
        until(lambda: bool(observed))
    assert observed == pytest.approx([10], abs=2)


def test_nothing_is_known_before_the_first_change(redis: Redis) -> None:
    assert freshness(redis) is None


@pytest.mark.parametrize("stack", ["sqlite"], indirect=True)
def test_a_running_service_tells_it(shop: Producer, folder: Path) -> None:
    path = save_picture(folder / "one.jpg", 5)
    began = time.time()
    shop.add("fresh", str(path)).wait(60.0)
    took = time.time() - began
    until(lambda: shop.status(30.0).freshness is not None, 30.0)
    found = shop.status(30.0).freshness
    assert found is not None
    assert 0 < found.p50 <= found.p95 <= took + 1.0  # within a second of its commit (invariant 9)
