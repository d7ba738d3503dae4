"""What there is to know of the queues, as kombu really keeps them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from celery import Celery
from redis import Redis

from producer import keys
from producer.broker import celery_app, send
from producer.depths import depths, lengths
from producer.ids import new_id
from producer.messages import (
    ImageItem,
    IngestChunk,
    PathImage,
    ProductLookup,
    Queue,
    QueueStatus,
    WatchIndex,
)
from producer.settings import ProducerSettings


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    with celery_app(ProducerSettings.model_validate({"redis_url": redis_url})) as made:
        yield made


def of(redis: Redis, queue: Queue) -> QueueStatus:
    return next(each for each in depths(redis) if each.name == queue.value)


def id_of(age: float) -> str:
    """An id as `new_id` made it so many seconds ago."""
    fresh = new_id()
    digits = f"{round((time.time() - age) * 1000):012x}"
    return f"{digits[:8]}-{digits[8:]}{fresh[13:]}"


def chunk(age: float) -> IngestChunk:
    item = ImageItem(product_id="p", image=PathImage(path="/x" * 1500), version=1)
    return IngestChunk(id=id_of(age), accepted_at=time.time() - age, items=(item,) * 64)


def lookup() -> ProductLookup:
    return ProductLookup(id=new_id(), expires_at=time.time() + 60, product_ids=("a",))


def test_nothing_at_all(redis: Redis) -> None:
    nothing = [(queue.value, 0, 0, None) for queue in Queue]
    assert [
        (each.name, each.waiting, each.unacked, each.oldest) for each in depths(redis)
    ] == nothing


def test_what_waits_is_counted_at_every_priority_and_the_next_is_the_oldest(
    redis: Redis, app: Celery
) -> None:
    for age in (500.0, 400.0, 300.0):
        send(app, chunk(age))
    assert of(redis, Queue.INGEST).waiting == 3
    assert of(redis, Queue.INGEST).oldest == pytest.approx(500, abs=5)
    old = chunk(900.0)
    app.send_task(
        old.task, [old.model_dump(mode="json")], queue="ingest", task_id=old.id, priority=7
    )
    assert [each.waiting for each in depths(redis)] == [4, 0, 0, 0, 0]
    assert of(redis, Queue.INGEST).oldest == pytest.approx(900, abs=5)
    assert [each.waiting for each in lengths(redis)] == [4, 0, 0, 0, 0]
    assert {each.unacked for each in lengths(redis)} == {None}


def test_what_a_worker_has_taken_belongs_to_its_queue_until_it_is_acknowledged(
    redis: Redis, app: Celery
) -> None:
    for age in (500.0, 400.0):
        send(app, chunk(age))
    send(app, lookup())
    with app.connection_for_read() as connection, connection.channel() as channel:
        first, second = (channel.basic_get(name) for name in ("ingest", "lookup"))
        assert [(each.waiting, each.unacked) for each in depths(redis)] == [
            (1, 1), (0, 0), (0, 1), (0, 0), (0, 0),
        ]  # fmt: skip
        assert of(redis, Queue.INGEST).oldest == pytest.approx(500, abs=5)
        assert of(redis, Queue.LOOKUP).oldest == pytest.approx(0, abs=5)
        first.ack()
        assert of(redis, Queue.INGEST).oldest == pytest.approx(400, abs=5)
        second.ack()
        assert of(redis, Queue.LOOKUP) == QueueStatus(name="lookup", waiting=0, unacked=0)


def test_one_that_was_given_back_is_as_old_as_before(redis: Redis, app: Celery) -> None:
    send(app, chunk(500.0))
    with app.connection_for_read() as connection, connection.channel() as channel:
        channel.basic_get("ingest").requeue()
    assert of(redis, Queue.INGEST).waiting == 1
    assert of(redis, Queue.INGEST).oldest == pytest.approx(500, abs=5)


def test_ticks_say_when_they_were_sent(redis: Redis, app: Celery) -> None:
    send(app, WatchIndex())
    app.send_task(WatchIndex.task, [{"v": 1}], queue="control")  # as beat does
    assert of(redis, Queue.CONTROL).waiting == 2
    assert of(redis, Queue.CONTROL).oldest == pytest.approx(0, abs=5)


@pytest.mark.parametrize(
    "odd",
    [b"", b"\xff", b"]", json.dumps({"properties": {"correlation_id": "x" * 36}}).encode()],
    ids=["empty", "no text", "a bracket", "no id"],
)
def test_what_is_no_message_of_ours_is_counted_and_has_no_age(redis: Redis, odd: bytes) -> None:
    redis.lpush(keys.queue("query"), odd)
    redis.hset(keys.UNACKED, "tag", odd)  # type: ignore[arg-type]
    redis.zadd(keys.UNACKED_INDEX, {"tag": 1.0, "of nothing": 2.0})
    assert of(redis, Queue.QUERY) == QueueStatus(name="query", waiting=1, unacked=0)


def test_a_long_queue_costs_no_more_than_a_short_one(redis: Redis, app: Celery) -> None:
    send(app, chunk(100.0))
    (message,) = redis.lrange(keys.queue("ingest"), 0, 0)  # type: ignore[misc]
    held = json.dumps([json.loads(message), "", "ingest"])
    for start in range(0, 3000, 500):
        redis.lpush(keys.queue("ingest"), *[message[-3000:]] * 500)
        tags = [str(start + each) for each in range(500)]
        redis.hset(keys.UNACKED, mapping=dict.fromkeys(tags, held[-3000:]))
        redis.zadd(keys.UNACKED_INDEX, {tag: float(tag) for tag in tags})
    began = time.perf_counter()
    found = of(redis, Queue.INGEST)
    assert time.perf_counter() - began < 0.5
    assert (found.waiting, found.unacked) == (3001, 3000)


def test_of_very_many_that_are_held_each_queue_has_its_share(redis: Redis) -> None:
    """Redis is not kept from its work for longer than it takes to read a few megabytes."""
    for place in range(300):
        queue = "ingest" if place % 3 else "lookup"
        redis.hset(keys.UNACKED, str(place), f'["{"x" * 50_000}", "", "{queue}"]')
        redis.zadd(keys.UNACKED_INDEX, {str(place): float(place)})
    found = {each.name: each.unacked for each in depths(redis)}
    assert found["ingest"] == pytest.approx(200, abs=3)
    assert found["lookup"] == pytest.approx(100, abs=3)
    assert found["query"] == 0
