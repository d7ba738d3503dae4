"""What the gateway gives the lookbook: its page, pages of the catalogue, pictures, failures and judgements."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from redis import Redis

from producer import keys
from producer.browsing import Browse, Discard, PastLookup, Requeue
from producer.gateway.turns import AT_ONCE, PAST_AT_ONCE
from producer.judging import JudgeMatch
from producer.messages import Failure, Queue, ThumbnailRequest
from producer.reasons import Reason
from tests.fake_worker import TINY_JPEG, FakeWorker, failed, match
from tests.http import READ, WRITE, Gateway, gateway
from tests.integration.test_gateway import refused
from tests.services import RedisServer, start_valkey


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    running = start_valkey(folder=tmp_path_factory.mktemp("lookbook-valkey"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def running(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(server.url, tmp_path_factory.mktemp("gateway")) as started:
        yield started


@pytest.fixture
def redis(server: RedisServer) -> Iterator[Redis]:
    with Redis.from_url(server.url) as client:
        client.flushall()
        yield client


@pytest.fixture
def http(running: Gateway, redis: Redis) -> Iterator[httpx.Client]:
    with running.client() as client:
        yield client


@pytest.fixture
def crew(redis: Redis) -> Iterator[FakeWorker]:
    worker = FakeWorker(redis, {f"p{number}/é": [match("q")] for number in range(5)})
    with worker.working():
        yield worker


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# -- the page -------------------------------------------------------------------------------------


def test_the_page_needs_no_key_and_takes_nothing_from_elsewhere(running: Gateway) -> None:
    with running.client(None) as anybody:
        for path in ("/", "/lookbook"):
            moved = anybody.get(path)
            assert (moved.status_code, moved.headers["location"]) == (307, "/lookbook/")
        page = anybody.get("/lookbook/")
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        again = anybody.get("/lookbook/", headers={"If-None-Match": page.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "name",
    ["nothing.js", "..%2Fclient.py", "%2e%2e/client.py", "../client.py", "__init__.py", "a/b"],
)
def test_only_its_own_files_are_given(running: Gateway, name: str) -> None:
    with running.client(None) as anybody:
        refused(anybody.get(f"/lookbook/{name}"), 404, "no_such_address")


@pytest.mark.parametrize(
    ("secret", "scopes"),
    [(None, []), ("wrong", []), (READ, ["read"]), (WRITE, ["write"])],
)
def test_access_says_what_a_key_may_do(
    running: Gateway, secret: str | None, scopes: list[str]
) -> None:
    with running.client(secret) as client:
        assert client.get("/access").json() == {"open": False, "scopes": scopes}


def test_whoever_may_only_write_sees_nothing_and_a_reader_changes_nothing(running: Gateway) -> None:
    reads = ("/catalogue", "/categories", "/generations", "/status", "/failures", "/thumbnails/p")
    with running.client(WRITE) as writer, running.client(READ) as reader:
        for path in reads:
            refused(writer.get(path), 403, "forbidden")
        for path in ("/failures/requeue", "/failures/discard"):
            refused(reader.post(path, json={"all": True}), 403, "forbidden")
        refused(reader.put("/judgements", json={}), 403, "forbidden")


# -- the catalogue --------------------------------------------------------------------------------


def test_the_catalogue_is_paged_by_cursors(http: httpx.Client, crew: FakeWorker) -> None:
    found, after = [], None
    for _ in range(5):
        page = http.get("/catalogue", params={"limit": 2} | ({"after": after} if after else {}))
        found += [each["product_id"] for each in page.json()["products"]]
        after = page.json()["next"]
        if after is None:
            break
    assert found == [f"p{number}/é" for number in range(5)]
    picked = {"category": "dress", "prefix": "p1"}
    assert [each["product_id"] for each in http.get("/catalogue", params=picked).json()["products"]]
    assert isinstance(crew.questions[-1], Browse)
    assert (crew.questions[-1].category, crew.questions[-1].prefix) == ("dress", "p1")


@pytest.mark.parametrize(
    ("query", "status", "reason"),
    [
        ("after=!", 400, "malformed"),
        ("after=_w", 422, "invalid_request"),
        ("limit=0", 400, "malformed"),
        ("limit=201", 400, "malformed"),
        ("prefix=%00", 400, "malformed"),
        ("category=a&uncategorised=true", 422, "invalid_request"),
    ],
)
def test_a_page_that_cannot_be_is_refused(
    http: httpx.Client, query: str, status: int, reason: str
) -> None:
    refused(http.get(f"/catalogue?{query}"), status, reason)


def test_the_service_is_asked_and_its_refusal_told(http: httpx.Client, crew: FakeWorker) -> None:
    assert http.get("/categories").json()["total"] == 5
    (generation,) = http.get("/generations").json()["generations"]
    assert (generation["number"], generation["current"]) == (3, True)
    crew.failure = Failure(reason=Reason.UNAVAILABLE, detail="the catalogue is away")
    refused(http.get("/categories"), 503, "unavailable")
    crew.failure = Failure(reason=Reason.INTERNAL, detail="a bug")
    refused(http.get("/generations"), 500, "internal")


def test_the_status_is_told_without_a_worker_too(http: httpx.Client, redis: Redis) -> None:
    told = http.get("/status").json()
    assert told["service"] is None
    assert told["problem"].startswith("No worker has answered in time.")
    assert {each["name"] for each in told["queues"]} == {queue.value for queue in Queue}
    worker = FakeWorker(redis)
    with worker.working():
        while (told := http.get("/status").json())["service"] is None:
            pass
    assert (told["service"]["dead_letters"], told["problem"]) == ({"not_found": 2}, None)


def test_a_lookup_in_a_kept_generation(http: httpx.Client, crew: FakeWorker) -> None:
    asked = {"product_id": "p1/é", "generation": 2, "limit": 3, "where": {"price": {"lt": 5}}}
    said = http.post("/lookups?wait=20", json=asked).json()
    assert said["replies"][0]["matches"][0]["product_id"] == "q"
    (question,) = (each for each in crew.questions if isinstance(each, PastLookup))
    assert (question.generation, question.selection.limit) == (2, 3)
    refused(http.post("/lookups", json=asked | {"generation": 0}), 400, "malformed")
    refused(http.post("/lookups", json=asked | {"image": "https://a.b/c"}), 400, "malformed")
    crew.failure = Failure(reason=Reason.UNKNOWN_GENERATION, detail="generation 2 is not kept")
    ended = http.post("/lookups?wait=20", json=asked).json()
    assert (ended["state"], ended["problem"]["reason"]) == ("failed", "unknown_generation")


# -- what many questions cost ---------------------------------------------------------------------


def test_what_was_answered_takes_no_room_in_redis(
    http: httpx.Client, redis: Redis, crew: FakeWorker
) -> None:
    assert http.get("/catalogue").status_code == 200
    assert http.get("/thumbnails/p1").status_code == 200
    assert len(crew.questions) == 2
    for mailbox in redis.scan_iter(f"{keys.PREFIX}mailbox:*"):
        assert not redis.get(mailbox)


def test_questions_of_pages_wait_in_the_gateway_and_not_before_a_removal(
    running: Gateway, redis: Redis
) -> None:
    asking, removing = running.client(READ), running.client(WRITE)
    control = keys.queue(Queue.CONTROL.value)
    many = AT_ONCE + 20
    with asking, removing, ThreadPoolExecutor(many) as pool:
        pages = [pool.submit(asking.get, "/catalogue", params={"limit": 2}) for _ in range(many)]
        until(lambda: redis.llen(control) == AT_ONCE)
        assert removing.delete("/products/p1").status_code == 202
        assert redis.llen(control) == AT_ONCE + 1
        with FakeWorker(redis, {"p1": []}).working():
            assert {page.result().status_code for page in pages} == {200}


def test_lookups_in_kept_generations_do_not_pile_up(http: httpx.Client, redis: Redis) -> None:
    question = {"product_id": "p1", "generation": 3}
    for _ in range(PAST_AT_ONCE):
        assert http.post("/lookups", json=question).status_code == 202
    until(lambda: http.post("/lookups", json=question).status_code == 503)
    refused(http.post("/lookups", json=question), 503, "busy")
    assert http.post("/lookups", json={"product_id": "p1"}).status_code == 202
    with FakeWorker(redis, {"p1": []}).working():
        until(lambda: http.post("/lookups", json=question).status_code == 202)


# -- pictures -------------------------------------------------------------------------------------


def test_a_page_of_pictures_is_few_questions(http: httpx.Client, crew: FakeWorker) -> None:
    crew.without_picture = frozenset({"gone"})
    ids = [f"sku/{number}" for number in range(40)]
    begin = threading.Barrier(len(ids))

    def fetch(product_id: str) -> httpx.Response:
        begin.wait()
        return http.get(f"/thumbnails/{product_id}", params={"name": "main"})

    with ThreadPoolExecutor(len(ids)) as pool:
        found = list(pool.map(fetch, ids))
    assert {each.status_code for each in found} == {200}
    assert {each.content for each in found} == {TINY_JPEG}
    questions = [each for each in crew.questions if isinstance(each, ThumbnailRequest)]
    asked = [image for each in questions for image in each.images]
    assert sorted(asked) == sorted((id_, "main") for id_ in ids)
    assert len(questions) < len(ids) / 2
    # What is kept is not asked again, and neither is what is missing.
    before = len(crew.questions)
    again = http.get(f"/thumbnails/{ids[0]}", headers={"If-None-Match": found[0].headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert len(crew.questions) == before
    assert found[0].headers["content-type"] == "image/jpeg"
    assert found[0].headers["cache-control"] == "private, max-age=60, stale-while-revalidate=86400"
    for _ in range(2):
        refused(http.get("/thumbnails/gone"), 404, "no_such_picture")
    assert len(crew.questions) == before + 1


def test_a_picture_that_nobody_gives_is_asked_for_again(
    http: httpx.Client, crew: FakeWorker
) -> None:
    crew.failure = Failure(reason=Reason.UNAVAILABLE, detail="the catalogue is away")
    refused(http.get("/thumbnails/later"), 503, "unavailable")
    crew.failure = None
    assert http.get("/thumbnails/later").status_code == 200


# -- what was given up ----------------------------------------------------------------------------


def test_failures_are_paged_requeued_and_discarded(http: httpx.Client, crew: FakeWorker) -> None:
    crew.failures = [failed(number) for number in (4, 3)] + [
        failed(number, Reason.CORRUPT_IMAGE) for number in (2, 1)
    ]
    first = http.get("/failures", params={"limit": 3}).json()
    assert [each["id"] for each in first["failures"]] == [4, 3, 2]
    assert first["failures"][0]["reason"] == "not_found"
    rest = http.get("/failures", params={"after": first["next"]}).json()
    assert ([each["id"] for each in rest["failures"]], rest["next"]) == ([1], None)
    assert http.post("/failures/requeue", json={"ids": [4]}).json() == {"requeued": 1, "left": 0}
    by_reason = http.post("/failures/discard", json={"reason": "corrupt_image"}).json()
    assert by_reason == {"discarded": 2, "left": 0}
    assert http.post("/failures/requeue", json={"all": True}).json()["requeued"] == 1
    kinds = [type(each) for each in crew.questions if isinstance(each, Requeue | Discard)]
    assert kinds == [Requeue, Discard, Requeue]


@pytest.mark.parametrize(
    "body",
    [{}, {"ids": []}, {"ids": [0]}, {"all": False}, {"reason": "none"}, {"all": True, "ids": [1]}],
)
def test_which_failures_has_to_be_said(http: httpx.Client, body: dict[str, object]) -> None:
    for path in ("/failures/requeue", "/failures/discard"):
        refused(http.post(path, json=body), 400, "malformed")
    refused(http.post(path, data={"all": "true"}), 415, "unsupported_media_type")


# -- judgements -----------------------------------------------------------------------------------


def test_a_judgement_is_of_the_key_that_gives_it(
    running: Gateway, http: httpx.Client, crew: FakeWorker
) -> None:
    vote = {"product_id": "a", "match": "b", "verdict": "up", "generation": 3, "distance": 0.25}
    made = http.put("/judgements", json=vote)
    assert made.status_code == 200
    assert (made.json()["judge"], made.json()["verdict"]) == ("shop", "up")
    with running.client(WRITE) as writer:
        writer.put("/judgements", json=vote | {"verdict": "down"})
    found = http.get("/judgements", params={"product_id": "a"}).json()["judgements"]
    told = {each["judge"]: (each["verdict"], each["mine"]) for each in found}
    assert told == {"shop": ("up", True), "writer": ("down", False)}
    assert http.put("/judgements", json=vote | {"verdict": None}).json()["verdict"] is None
    found = http.get("/judgements", params={"product_id": "a"}).json()["judgements"]
    assert [each["judge"] for each in found] == ["writer"]
    judged = [each for each in crew.questions if isinstance(each, JudgeMatch)]
    assert [each.generation for each in judged] == [3, 3, 3]
    refused(http.put("/judgements", json=vote | {"match": "a"}), 422, "invalid_request")
    refused(http.put("/judgements", json=vote | {"verdict": "so so"}), 400, "malformed")
    refused(http.get("/judgements"), 400, "malformed")


def test_without_keys_anybody_on_this_machine_judges(
    server: RedisServer, redis: Redis, crew: FakeWorker, tmp_path: Path
) -> None:
    with gateway(server.url, tmp_path, api_keys=None) as open_, open_.client(None) as anybody:
        assert anybody.get("/access").json() == {"open": True, "scopes": ["read", "write"]}
        vote = {"product_id": "a", "match": "b", "verdict": "down"}
        assert anybody.put("/judgements", json=vote).json()["judge"] == "anybody"
        elsewhere = {"Origin": "https://elsewhere.example"}
        refused(anybody.get("/access", headers=elsewhere), 403, "forbidden")
        refused(anybody.put("/judgements", json=vote, headers=elsewhere), 403, "forbidden")
    assert not redis.exists(keys.LEDGER)
