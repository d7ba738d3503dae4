"""What the service says of itself, as `lookalike status` asks it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from db.session import Database
from producer import keys
from producer.broker import celery_app, send
from producer.ids import new_id
from producer.messages import ProductLookup, Queue
from producer.settings import ProducerSettings
from tests.integration.two_models import NEW, TwoModels
from worker import status
from worker.heartbeat import Beating, Heartbeat, Pulse, beating
from worker.status import Count, Status


@pytest.fixture
def redis(empty_valkey_url: str) -> Iterator[Redis]:
    with Redis.from_url(empty_valkey_url) as client:
        yield client


@pytest.fixture
def two(database: Database) -> TwoModels:
    """Five products of the old model, on one database and then on the other."""
    found = TwoModels(database)
    for number in range(5):
        found.add(f"p{number}")
    return found


def beat(redis: Redis, role: str, **more: object) -> None:
    """As a process of this role does."""
    now = time.time()
    said = {"role": role, "host": "h", "pid": 1, "started_at": now, "beat_at": now} | more
    redis.hset(keys.WORKERS, role, json.dumps(said))


def test_a_rollout_is_told_with_what_it_waits_for(two: TwoModels, redis: Redis) -> None:
    told = Status(two.database, redis)
    assert told.reply().rollout is None
    two.begin()
    del two.files["/p4"]
    rollout = told.reply().rollout
    assert rollout is not None
    assert (rollout.model_version, rollout.images, rollout.embedded) == (NEW, 5, 0)
    assert rollout.waits_for == "no embed worker runs"
    beat(redis, "embed")
    begun = Status(two.database, redis).reply().rollout
    assert begun is not None
    assert (begun.waiting, begun.waits_for) == (5, None)
    two.backfill().work()
    done = Status(two.database, redis).reply().rollout
    assert done is not None
    assert (done.embedded, done.given_up, done.waiting) == (4, {"not_found": 1}, 0)
    assert "--without-missing" in str(done.waits_for)
    two.begin(without_missing=True)
    for role in ("index", "beat"):
        before = Status(two.database, redis).reply().rollout
        assert before is not None
        assert "its index is not built" in str(before.waits_for)
        beat(redis, role)
    building = Status(two.database, redis).reply().rollout
    assert building is not None
    assert building.waits_for is None


def test_queues_are_told_as_a_worker_sees_them(
    two: TwoModels, redis: Redis, empty_valkey_url: str
) -> None:
    settings = ProducerSettings.model_validate({"redis_url": empty_valkey_url})
    with celery_app(settings) as app:
        lookup = ProductLookup(id=new_id(), expires_at=time.time() + 60, product_ids=("a",))
        send(app, lookup)
    told = {each.name: each for each in Status(two.database, redis).reply().queues}
    assert (told["lookup"].waiting, told["lookup"].unacked) == (1, 0)
    assert set(told) == {queue.value for queue in Queue}


def test_a_server_without_scripts_costs_the_queues_alone(
    two: TwoModels, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Redis) -> None:
        raise ResponseError("unknown command")

    monkeypatch.setattr(status, "depths", refuse)
    reply = Status(two.database, redis).reply()
    assert (reply.queues, reply.images) == ((), 5)


def test_workers_say_how_busy_they_are(two: TwoModels, redis: Redis) -> None:
    pulse = Pulse(busy=2, longest=7.5, stuck=True)
    with Heartbeat(redis, "embed", pulse=lambda: pulse) as heartbeat:
        heartbeat.start()
        beaten = threading.Event()
        while not beating(redis):
            assert not beaten.wait(0.02)
        (worker,) = Status(two.database, redis).reply().workers
    assert (worker.role, worker.busy, worker.longest, worker.stuck) == ("embed", 2, 7.5, True)


def test_a_beat_of_another_version_is_read(redis: Redis) -> None:
    beat(redis, "embed", since_then="a new thing")
    (found,) = beating(redis)
    assert isinstance(found, Beating)
    assert (found.role, found.busy, found.longest, found.stuck) == ("embed", 0, None, False)


def test_what_takes_long_to_count_is_not_counted_all_the_time() -> None:
    now, counted = [0.0], []

    def count() -> int:
        now[0] += 2.0
        counted.append(now[0])
        return len(counted)

    value: Count[int] = Count(lambda: now[0])
    assert [value.of("a", count), value.of("a", count)] == [1, 1]
    now[0] += 19.0
    assert value.of("a", count) == 1
    now[0] += 1.0
    assert value.of("a", count) == 2
    assert value.of("b", count) == 3
