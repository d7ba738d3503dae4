"""The producer on a real server; the worker is played by the test."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from producer import (
    BatchReply,
    InvalidRequest,
    ItemFailure,
    JobTimeout,
    LookupState,
    LookupTimeout,
    Outcome,
    PictureRejected,
    Producer,
    ProducerSettings,
    ProductNotFound,
    QueueFull,
    QueueUnavailable,
    Reason,
    ServiceUnresponsive,
    UnknownJob,
    UnknownLookup,
    keys,
)
from producer.ledger import Ledger, follow_up
from producer.messages import (
    IngestChunk,
    ProductLookup,
    Queue,
    RemoveChunk,
    Selection,
    TasteLookup,
)
from tests.fake_worker import TINY_JPEG, FakeWorker, claimed, match, take, take_all
from tests.services import RedisServer, start_valkey

Shop = Callable[..., Producer]
OwnServer = Callable[..., RedisServer]


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def shop_with(redis_url: str) -> Iterator[Shop]:
    made: list[Producer] = []

    def make(**changes: Any) -> Producer:
        made.append(Producer(ProducerSettings.model_validate({"redis_url": redis_url, **changes})))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def shop(shop_with: Shop) -> Producer:
    return shop_with()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[OwnServer]:
    started: list[RedisServer] = []

    def start(*options: str, password: str) -> RedisServer:
        started.append(start_valkey(*options, folder=tmp_path, password=password))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def rows(count: int) -> list[dict[str, Any]]:
    return [{"product_id": str(number), "image": f"/pics/{number}.jpg"} for number in range(count)]


# -- the catalogue --------------------------------------------------------------------------------


def test_a_product_is_in_the_ledger_and_on_the_queue(shop: Producer, redis: Redis) -> None:
    receipt = shop.add("sku-42", "https://cdn.example/42.jpg", category="dress", price=49.0)
    job = take(redis, Queue.INGEST)
    assert isinstance(job, IngestChunk)
    assert (job.id, job.attempt, len(job.items)) == (receipt.id, 1, receipt.items)
    item = job.items[0]
    assert (item.product_id, item.name, item.category) == ("sku-42", "main", "dress")
    assert item.attributes == {"price": 49.0}
    assert Ledger(redis).overdue(job.accepted_at + 100) == [job]


def test_everything_in_redis_lies_under_the_prefix(shop: Producer, redis: Redis) -> None:
    shop.add("a", b"x")
    shop.remove("b")
    shop.find_similar("a")
    shop.find_similar(image=b"y")
    found = list(redis.scan_iter())
    assert len(found) > 5
    assert all(key.startswith(keys.PREFIX.encode()) for key in found)


def test_bytes_travel_beside_the_message_and_expire(shop_with: Shop, redis: Redis) -> None:
    shop = shop_with(picture_ttl=100)
    shop.add("a", b"picture")
    job = take(redis, Queue.INGEST)
    assert isinstance(job, IngestChunk)
    assert job.items[0].image.kind == "bytes"
    key = keys.picture(job.items[0].image.key)
    assert redis.get(key) == b"picture"
    redis.pexpire(key, 5000)
    shop.add("b", b"picture")
    assert 99_000 < redis.pttl(key) <= 100_000  # type: ignore[operator]


def test_a_question_keeps_bytes_for_as_long_as_itself_and_a_product_for_longer(
    shop_with: Shop, redis: Redis
) -> None:
    shop = shop_with(picture_ttl=1000, lookup_ttl=100)

    def left(data: bytes) -> int:
        return int(redis.pttl(keys.picture(sha256(data).hexdigest())))  # type: ignore[arg-type]

    shop.find_similar(image=b"asked")
    assert 99_000 < left(b"asked") <= 100_000
    shop.add("a", b"asked")
    assert 999_000 < left(b"asked") <= 1_000_000
    shop.find_similar(image=b"asked")
    assert 999_000 < left(b"asked") <= 1_000_000


def test_pictures_are_read_as_they_are_sent(shop: Producer, redis: Redis) -> None:
    sent_before: list[int] = []

    def large() -> Iterator[dict[str, Any]]:
        for number in range(12):
            sent_before.append(number - sum(1 for _ in redis.scan_iter(keys.picture("*"))))
            yield {"product_id": str(number), "image": bytes([number]) * 3_000_000}

    shop.add_many(large())
    assert max(sent_before) <= 6


def test_many_products_go_in_chunks(shop: Producer, redis: Redis) -> None:
    seen: list[int] = []
    receipts = shop.add_many(iter(rows(1000)), progress=seen.append)
    jobs = take_all(redis, Queue.INGEST)
    assert [job.id for job in jobs] == [receipt.id for receipt in receipts]  # type: ignore[attr-defined]
    sizes = [len(job.items) for job in jobs]  # type: ignore[attr-defined]
    assert sizes == [32] * 31 + [8]
    assert seen == [512, 1000]
    assert shop.backlog() == 32


def test_removals_go_to_a_queue_of_their_own(shop: Producer, redis: Redis) -> None:
    receipts = shop.remove(*(str(number) for number in range(1001)))
    assert [receipt.items for receipt in receipts] == [1000, 1]
    jobs = take_all(redis, Queue.CONTROL)
    assert all(isinstance(job, RemoveChunk) for job in jobs)


def test_a_full_queue_raises_or_waits_as_asked(shop_with: Shop, redis: Redis) -> None:
    shop = shop_with(max_backlog=3, chunk_size=2)
    with pytest.raises(QueueFull, match="LOOKALIKE_MAX_BACKLOG") as caught:
        shop.add_many(rows(10), when_full="raise")
    assert (caught.value.accepted, shop.backlog()) == (6, 3)
    with pytest.raises(QueueFull, match=r"after 0\.05 s"):
        shop.add("a", "/a.jpg", timeout=0.05)
    assert shop.backlog() == 3
    worker = FakeWorker(redis)
    with worker.working():
        shop.wait_for(shop.add_many(rows(40)), timeout=20)
    assert shop.backlog() == 0


def test_a_receipt_waits_for_the_outcome(shop: Producer, redis: Redis) -> None:
    receipt = shop.add("a", "/a.jpg")
    assert shop.outcome(receipt.id) is None
    with pytest.raises(JobTimeout, match="nothing is lost"):
        receipt.wait(0.02)
    with FakeWorker(redis).working():
        assert receipt.wait(10) == Outcome(applied=1)
    assert shop.outcome(receipt.id) == Outcome(applied=1)
    redis.delete(keys.outcome(receipt.id))
    with pytest.raises(UnknownJob):
        receipt.wait(10)


def test_waiting_follows_retries_to_their_end(shop: Producer, redis: Redis) -> None:
    receipts = shop.add_many(rows(3))
    job = take(redis, Queue.INGEST)
    assert isinstance(job, IngestChunk)
    ledger = Ledger(redis)
    again = follow_up(job, job.items[:1])

    def failed(product_id: str, retried_as: str | None) -> ItemFailure:
        return ItemFailure(
            product_id=product_id,
            name="main",
            reason=Reason.FETCH_TIMEOUT,
            detail="slow",
            retried_as=retried_as,
        )

    first = Outcome(applied=1, failures=(failed("0", again.id), failed("1", None)))
    ledger.clear(claimed(ledger, job), first, follow_ups=[again])
    tracker = shop.track(receipts)
    assert (tracker.poll(), tracker.done, tracker.open) == (2, 2, 1)
    ledger.clear(claimed(ledger, again), Outcome(applied=0, failures=(failed("0", None),)))
    done: list[int] = []
    outcome = shop.wait_for(receipts, 10, done.append)
    assert outcome.applied == 1
    assert [failure.product_id for failure in outcome.failures] == ["1", "0"]
    assert done[-1] == 3


# -- lookups --------------------------------------------------------------------------------------


def test_a_lookup_is_answered_also_for_another_process(
    shop: Producer, shop_with: Shop, redis: Redis
) -> None:
    lookup = shop.find_similar("a", limit=2, where={"price": {"lt": 50}})
    assert lookup.state is LookupState.QUEUED
    with pytest.raises(LookupTimeout, match="still queued"):
        lookup.result(0)
    with FakeWorker(redis, {"a": [match("b"), match("c"), match("d")]}).working():
        reply = lookup.result(10)
    assert [each.product_id for each in reply.matches] == ["b", "c"]
    assert (reply.generation, reply.as_of.revision, reply.path) == (3, 12, "annoy+overlay")
    other = shop_with().lookup(lookup.id)
    assert other.state is LookupState.DONE
    assert other.result(0) == reply


def test_a_lookup_costs_a_mailbox_and_a_message(shop: Producer, redis: Redis) -> None:
    shop.find_similar("warm")

    def commands() -> int:
        return int(redis.info("stats")["total_commands_processed"])  # type: ignore[index]

    before = commands()
    shop.find_similar("a")
    assert commands() - before - 1 <= 2


def test_pictures_are_asked_about_by_their_bytes(shop: Producer, redis: Redis) -> None:
    good, bad = shop.find_similar(image=TINY_JPEG), shop.find_similar(image=b"no picture")
    with FakeWorker(redis).working():
        assert good.result(10).matches[0].product_id == "by-picture"
        with pytest.raises(PictureRejected) as caught:
            bad.result(10)
    assert caught.value.reason is Reason.UNSUPPORTED_FORMAT
    assert bad.state is LookupState.FAILED


def test_several_products_are_one_question_with_one_reply(shop: Producer, redis: Redis) -> None:
    lookup = shop.find_similar(["a", "b"], disliked="c", limit=2, at_most={"brand": 1})
    question = take(redis, Queue.LOOKUP)
    assert isinstance(question, TasteLookup)
    assert (question.liked, question.disliked) == (("a", "b"), ("c",))
    assert question.selection == Selection(limit=2, at_most={"brand": 1})
    lookup = shop.find_similar(["a", "b"], disliked="c", limit=2)
    products = {"a": [match("b"), match("d"), match("e")], "b": [match("e"), match("f")], "c": []}
    with FakeWorker(redis, products).working():
        reply = lookup.result(10)
    assert [each.product_id for each in reply.matches] == ["d", "e"]
    assert shop.batch(lookup.id).result(0) == BatchReply(replies=(reply,))


def test_pictures_and_products_are_one_question(shop: Producer, redis: Redis) -> None:
    mixed: dict[str, Any] = {"image": [TINY_JPEG, "/b.jpg"], "disliked_image": b"\xff\xd8other"}
    lookup = shop.find_similar("a", disliked="b", **mixed)
    absent = shop.find_similar("a", disliked=["x", "y"], **mixed)
    assert redis.llen(keys.queue("query")) == 2
    assert len(list(redis.scan_iter(keys.picture("*")))) == 2
    with FakeWorker(redis, {"a": [], "b": []}).working():
        assert lookup.result(10).matches[0].product_id == "by-picture"
        with pytest.raises(ProductNotFound) as caught:
            absent.result(10)
    assert caught.value.product_id == "x"
    bad = shop.find_similar("a", disliked_image=b"no picture")
    with FakeWorker(redis, {"a": []}).working(), pytest.raises(PictureRejected):
        bad.result(10)


def test_many_products_are_one_message(shop: Producer, redis: Redis) -> None:
    lookup = shop.find_similar_many(["a", "b", "nowhere"])
    assert redis.llen(keys.queue("lookup")) == 1
    with FakeWorker(redis, {"a": [match("b")], "b": [match("a")]}).working():
        batch = lookup.result(10)
    assert [each.product_id for each in batch.replies] == ["a", "b"]
    assert batch.not_found == ("nowhere",)
    assert shop.batch(lookup.id).result(0) == batch
    with pytest.raises(InvalidRequest, match="is a batch"):
        shop.lookup(lookup.id).result(0)


def test_lookups_that_have_no_reply_say_why(shop: Producer, redis: Redis) -> None:
    with FakeWorker(redis).working(), pytest.raises(ProductNotFound) as caught:
        shop.find_similar("nowhere").result(10)
    assert caught.value.product_id == "nowhere"
    with pytest.raises(UnknownLookup):
        shop.lookup("nonsense").result(5)


def test_one_question_read_as_a_batch_is_a_batch_of_one(shop: Producer, redis: Redis) -> None:
    lookup = shop.find_similar(image=TINY_JPEG)
    with FakeWorker(redis).working():
        reply = lookup.result(10)
    assert shop.batch(lookup.id).result(0) == BatchReply(replies=(reply,))


def test_a_batch_that_is_too_large_is_refused(shop: Producer, redis: Redis) -> None:
    with pytest.raises(InvalidRequest, match="at most 25,600 in one lookup, not 26 times 1,000"):
        shop.find_similar_many(map(str, range(26)), limit=1000)
    shop.find_similar_many(map(str, range(256)), limit=100)


def test_answers_about_the_service_are_kept_for_a_minute(shop: Producer, redis: Redis) -> None:
    with FakeWorker(redis).working():
        shop.status(10)
        shop.thumbnails([("a", "main")], 100)
    left = sorted(int(redis.pttl(key)) for key in redis.scan_iter(keys.mailbox("*")))  # type: ignore[arg-type]
    assert [round(each / 1000) for each in left] == [60, 100]


def test_the_question_ends_when_its_mailbox_does(shop_with: Shop, redis: Redis) -> None:
    shop_with(lookup_ttl=50).find_similar("a")
    question = take(redis, Queue.LOOKUP)
    assert isinstance(question, ProductLookup)
    left = redis.pttl(keys.mailbox(question.id))
    assert 49_000 < left <= 50_000  # type: ignore[operator]


# -- the service ----------------------------------------------------------------------------------


def test_status_needs_a_worker_and_queues_do_not(shop: Producer, redis: Redis) -> None:
    shop.find_similar("a")
    waiting = {queue.name: queue.waiting for queue in shop.queue_status()}
    assert waiting == {"ingest": 0, "query": 0, "lookup": 1, "index": 0, "control": 0}
    with pytest.raises(ServiceUnresponsive, match="lookalike-worker up"):
        shop.status(0.02)
    with FakeWorker(redis).working():
        assert shop.status(10).model_name == "a model"


def test_thumbnails_come_in_as_many_messages_as_needed(shop: Producer, redis: Redis) -> None:
    wanted = [(str(number), "main") for number in range(501)]
    with FakeWorker(redis).working():
        found = shop.thumbnails(wanted)
    assert list(found) == wanted
    assert found["7", "main"] == TINY_JPEG
    assert shop.thumbnails([]) == {}


# -- connections ----------------------------------------------------------------------------------


def test_threads_share_a_producer(shop: Producer, redis: Redis) -> None:
    errors: list[Exception] = []

    def work(number: int) -> None:
        try:
            for each in range(20):
                shop.add(f"{number}-{each}", "/a.jpg")
                shop.find_similar(f"{number}-{each}")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    added = {job.items[0].product_id for job in take_all(redis, Queue.INGEST)}  # type: ignore[attr-defined]
    assert len(added) == 160
    assert len(take_all(redis, Queue.LOOKUP)) == 160


FORKING = """
import os, sys
from producer import Producer
shop = Producer.from_env()
shop.add("parent", "/a.jpg")
# As if other threads of the parent were publishing at the moment of the fork.
producers = shop._transport._current_sender().producers
busy = [producers.acquire(block=True) for _ in range(producers.limit)]
children = []
for child in range(4):
    pid = os.fork()
    if pid == 0:
        for number in range(100):
            shop.add(f"{child}-{number}", "/a.jpg")
        shop.close()
        os._exit(0)
    children.append(pid)
for each in busy:
    each.release()
for number in range(100):
    shop.add(f"parent-{number}", "/a.jpg")
codes = [os.waitpid(pid, 0)[1] for pid in children]
shop.add("after", "/a.jpg")
shop.close()
sys.exit(any(codes))
"""


def test_forked_processes_have_connections_of_their_own(redis_url: str, redis: Redis) -> None:
    environment = os.environ | {"LOOKALIKE_REDIS_URL": redis_url}
    subprocess.run([sys.executable, "-c", FORKING], env=environment, check=True, timeout=30)
    jobs = take_all(redis, Queue.INGEST)
    assert len({job.items[0].product_id for job in jobs}) == len(jobs) == 502  # type: ignore[attr-defined]


def test_a_closed_producer_leaves_no_connection(redis_url: str, redis: Redis) -> None:
    def connected() -> int:
        return len(redis.client_list())  # type: ignore[arg-type]

    before = connected()
    with Producer(ProducerSettings.model_validate({"redis_url": redis_url})) as shop:
        shop.find_similar("a")
        assert connected() > before
    while connected() > before:  # the server notices in its own time
        pass


def test_a_server_that_is_gone_is_named_without_its_password_and_found_again(
    own_server: OwnServer,
) -> None:
    server = own_server(password="s3cret")
    settings = ProducerSettings.model_validate({"redis_url": server.url})
    with Producer(settings) as shop:
        shop.find_similar("a")
        server.kill()
        calls: list[Callable[[], object]] = [
            lambda: shop.add("a", "/a.jpg"),
            lambda: shop.find_similar("a"),
            shop.queue_status,
            lambda: shop.lookup("a").state,
        ]
        for call in calls:
            with pytest.raises(QueueUnavailable, match="LOOKALIKE_REDIS_URL") as caught:
                call()
            assert "s3cret" not in str(caught.value)
            assert f"127.0.0.1:{server.port}" in str(caught.value)
        server.start()
        shop.find_similar("a")
        shop.add("a", "/a.jpg")


def test_a_publication_that_fails_after_the_ledger_is_an_error_and_not_a_loss(
    shop: Producer, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        from kombu.exceptions import OperationalError

        raise OperationalError("connection lost")

    monkeypatch.setattr("producer.broker.send", broken)
    with pytest.raises(QueueUnavailable, match="connection lost"):
        shop.add("a", "/a.jpg")
    assert shop.backlog() == 1


def test_a_wrong_password_says_so(own_server: OwnServer) -> None:
    server = own_server(password="s3cret")
    url = server.url.replace("s3cret", "gu3ss")
    with Producer(ProducerSettings.model_validate({"redis_url": url})) as shop:
        with pytest.raises(QueueUnavailable, match="refused the user or password") as caught:
            shop.find_similar("a")
        assert "gu3ss" not in str(caught.value)


def test_a_unix_socket_will_do(own_server: OwnServer, tmp_path: Path) -> None:
    socket = tmp_path / "redis.sock"
    own_server("--unixsocket", str(socket), password="p@ss")
    url = f"unix://:p%40ss@{socket}?db=2"
    with Producer(ProducerSettings.model_validate({"redis_url": url})) as shop:
        shop.add("a", "/a.jpg")
    with Redis.from_url(url) as client:
        assert client.llen(keys.queue("ingest")) == 1
