"""The HTTP gateway as a process of its own, on a real server: what it takes, answers and refuses."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from producer import ItemFailure, Outcome, Reason
from producer.ids import new_id
from producer.ledger import Ledger
from producer.messages import IngestChunk, PictureLookup, ProductLookup, Queue, Range, TasteLookup
from tests.fake_worker import TINY_JPEG, FakeWorker, match, take_all
from tests.http import BOTH, KEYS, READ, WRITE, Gateway, gateway
from tests.services import RedisServer, start_valkey

PICTURE = "https://cdn.example/42.jpg"
BODY = 300_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    running = start_valkey(folder=tmp_path_factory.mktemp("gateway-valkey"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def running(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The gateway that most tests share: with keys, small limits, and little patience."""
    folder = tmp_path_factory.mktemp("gateway")
    with gateway(server.url, folder, max_body=BODY, http_timeout=1.0, max_backlog=5) as started:
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
    worker = FakeWorker(redis, {"a": [match("b", 0.5, category="dress")], "b": [match("a")]})
    with worker.working():
        yield worker


def refused(response: httpx.Response, status: int, reason: str) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json", response.text
    problem: dict[str, Any] = response.json()
    assert (response.status_code, problem["status"], problem["reason"]) == (status, status, reason)
    assert problem["type"] == f"/docs#{reason}"
    assert problem["title"]
    assert problem["detail"]
    return problem


def ended(http: httpx.Client, url: str) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while (found := http.get(url)).json()["state"] == "waiting":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    outcome: dict[str, Any] = found.json()
    return outcome


def items(redis: Redis) -> list[Any]:
    return [
        item
        for job in take_all(redis, Queue.INGEST)
        if isinstance(job, IngestChunk)
        for item in job.items
    ]


# -- products -------------------------------------------------------------------------------------


def test_a_product_is_added_by_address_and_its_job_is_followed(
    http: httpx.Client, redis: Redis
) -> None:
    product = {"product_id": "x/é", "image": PICTURE, "category": "dress"}
    product |= {"attributes": {"price": 49.0, "sizes": ["S", "M"]}, "version": 7}  # type: ignore[dict-item]
    said = http.post("/products", json=product)
    assert said.status_code == 202
    accepted = said.json()
    assert (accepted["accepted"], len(accepted["jobs"])) == (1, 1)
    url = said.headers["location"]
    assert url == accepted["jobs"][0]["url"]
    assert http.get(url).json() == {
        "id": accepted["jobs"][0]["id"], "state": "waiting", "applied": 0, "failures": [],
    }  # fmt: skip
    (item,) = items(redis)
    assert (item.product_id, item.image.url, item.category) == ("x/é", PICTURE, "dress")
    assert (item.attributes, item.version) == ({"price": 49.0, "sizes": ["S", "M"]}, 7)


def test_what_became_of_jobs_is_told_with_reasons(http: httpx.Client, crew: FakeWorker) -> None:
    done = http.post("/products", json={"product_id": "x", "image": PICTURE})
    assert ended(http, done.headers["location"])["applied"] == 1
    failure = ItemFailure(product_id="x", name="main", reason=Reason.NOT_FOUND, detail="it is 404")
    crew.outcome = lambda _: Outcome(applied=0, failures=(failure,))
    lost = http.post("/products", json={"product_id": "x", "image": PICTURE})
    outcome = ended(http, lost.headers["location"])
    assert outcome["failures"] == [
        {"product_id": "x", "name": "main", "reason": "not_found", "detail": "it is 404"}
    ]
    refused(http.get(f"/jobs/{new_id()}"), 404, "unknown_job")


def test_many_products_go_together_or_not_at_all(http: httpx.Client, redis: Redis) -> None:
    rows = [{"product_id": f"p{number}", "image": PICTURE} for number in range(40)]
    said = http.post("/products", json=rows).json()
    assert (said["accepted"], [job["items"] for job in said["jobs"]]) == (40, [32, 8])
    assert len(items(redis)) == 40
    bad = [*rows, {"product_id": "x", "image": "https://cdn.example/\x7f", "attributes": {"a": {}}}]
    refused(http.post("/products", json=bad), 422, "invalid_request")
    refused(http.post("/products", json=[*rows, {"product_id": "x"}]), 400, "malformed")
    assert not items(redis)


def test_pictures_come_in_a_form(http: httpx.Client, redis: Redis) -> None:
    one = {"products": json.dumps({"product_id": "x", "category": "shoe"})}
    assert http.post("/products", data=one, files={"image": TINY_JPEG}).status_code == 202
    (item,) = items(redis)
    assert (item.product_id, item.category) == ("x", "shoe")
    assert redis.get(f"lookalike:picture:{item.image.key}") == TINY_JPEG
    rows = [{"product_id": "x", "image": "upload:front"}, {"product_id": "y", "image": PICTURE}]
    form = {"products": json.dumps(rows)}
    assert http.post("/products", data=form, files={"front": TINY_JPEG}).json()["accepted"] == 2
    assert [item.image.kind for item in items(redis)] == ["bytes", "url"]
    for files in ({"back": TINY_JPEG}, {"front": TINY_JPEG, "back": TINY_JPEG}):
        refused(http.post("/products", data=form, files=files), 422, "invalid_request")
    refused(http.post("/products", files={"image": TINY_JPEG}), 400, "malformed")


def test_a_product_is_removed(http: httpx.Client, redis: Redis) -> None:
    assert http.delete("/products/a%2Fb?version=5").status_code == 202
    (job,) = take_all(redis, Queue.CONTROL)
    assert [(item.product_id, item.version) for item in job.items] == [("a/b", 5)]  # type: ignore[attr-defined]


def test_when_the_service_is_behind_it_says_when_to_come_again(
    http: httpx.Client, redis: Redis
) -> None:
    for number in range(5):
        http.post("/products", json={"product_id": str(number), "image": PICTURE})
    said = http.post("/products", json={"product_id": "x", "image": PICTURE})
    assert refused(said, 503, "queue_full")["accepted"] == 0
    assert int(said.headers["retry-after"]) >= 1
    assert Ledger(redis).size() == 5
    assert http.delete("/products/x").status_code == 202


# -- lookups --------------------------------------------------------------------------------------


def test_a_lookup_is_polled(http: httpx.Client, redis: Redis) -> None:
    said = http.post("/lookups", json={"product_id": "a"})
    assert (said.status_code, said.json()["state"]) == (202, "queued")
    assert int(said.headers["retry-after"]) >= 1
    url = said.headers["location"]
    assert (http.get(url).status_code, http.get(url).json()["state"]) == (202, "queued")
    worker = FakeWorker(redis, {"a": [match("b", 0.5, category="dress", attributes={"price": 9})]})
    assert worker.step()
    done = http.get(url)
    assert (done.status_code, done.json()["state"]) == (200, "done")
    assert "retry-after" not in done.headers
    (reply,) = done.json()["replies"]
    assert (reply["product_id"], reply["generation"], reply["path"]) == ("a", 3, "annoy+overlay")
    assert reply["matches"] == [
        {"product_id": "b", "name": "main", "distance": 0.5, "similarity": 0.875,
         "category": "dress", "attributes": {"price": 9}}
    ]  # fmt: skip


def test_waiting_gives_the_answer_as_soon_as_it_is_there(
    http: httpx.Client, crew: FakeWorker
) -> None:
    begun = time.monotonic()
    said = http.post("/lookups?wait=20", json={"product_id": "a"})
    assert (said.status_code, said.json()["replies"][0]["matches"][0]["product_id"]) == (200, "b")
    assert time.monotonic() - begun < 10
    missing = http.post("/lookups?wait=20", json={"product_id": "nowhere"}).json()
    assert (missing["state"], missing["replies"], missing["not_found"]) == ("done", [], ["nowhere"])


def test_nobody_answers_and_the_client_is_told_in_time(http: httpx.Client) -> None:
    begun = time.monotonic()
    said = http.post("/lookups?wait=0.3", json={"product_id": "a"})
    assert (said.status_code, said.json()["state"]) == (202, "queued")
    assert 0.3 <= time.monotonic() - begun < 5
    begun = time.monotonic()
    assert http.get(said.headers["location"] + "?wait=0.3").status_code == 202
    assert 0.3 <= time.monotonic() - begun < 5
    for wait in ("31", "-1", "nan", "soon"):
        refused(http.get(said.headers["location"], params={"wait": wait}), 400, "malformed")


def test_every_option_reaches_the_question(http: httpx.Client, redis: Redis) -> None:
    options = {
        "limit": 5, "where": {"price": {"lt": 50}, "category": ["dress", "skirt"]},
        "min_similarity": -0.5, "collapse": 0.1, "at_most": {"brand": 2}, "diversity": 0.3,
    }  # fmt: skip
    assert http.post("/lookups", json={"product_id": "1"} | options).status_code == 202
    taste = {"product_id": ["1", "2"], "disliked": "3"}
    assert http.post("/lookups", json=taste | options).status_code == 202
    assert http.post("/lookups", json={"product_ids": ["1", "2"]} | options).status_code == 202
    one, several, batch = take_all(redis, Queue.LOOKUP)
    assert isinstance(one, ProductLookup)
    assert one.selection.where == {"price": Range(lt=50.0), "category": ("dress", "skirt")}
    assert (one.selection.limit, one.selection.min_similarity) == (5, -0.5)
    assert (one.selection.collapse, one.selection.diversity) == (0.1, 0.3)
    assert one.selection.at_most == {"brand": 2}
    assert isinstance(several, TasteLookup)
    assert (several.liked, several.disliked) == (("1", "2"), ("3",))
    assert isinstance(batch, ProductLookup)
    assert batch.product_ids == ("1", "2")
    assert one.selection == several.selection == batch.selection


def test_pictures_are_asked_about_by_address_and_in_a_form(
    http: httpx.Client, redis: Redis
) -> None:
    asked = {"image": PICTURE, "disliked_image": ["s3://bucket/key"]}
    assert http.post("/lookups", json=asked).status_code == 202
    files = [("image", TINY_JPEG), ("image", TINY_JPEG + b"2"), ("disliked_image", b"other")]
    form = {"lookup": json.dumps({"limit": 3, "disliked": "9"}), "image": PICTURE}
    assert http.post("/lookups", data=form, files=files).status_code == 202
    address, pictures = take_all(redis, Queue.QUERY)
    assert isinstance(address, PictureLookup)
    assert [image.kind for image in address.images] == ["url"]
    assert [image.kind for image in address.disliked_images] == ["store"]
    assert isinstance(pictures, PictureLookup)
    assert [image.kind for image in pictures.images] == ["url", "bytes", "bytes"]
    assert (pictures.disliked, pictures.selection.limit) == (("9",), 3)


def test_a_batch_is_answered_in_its_order(http: httpx.Client, crew: FakeWorker) -> None:
    said = http.post("/lookups?wait=20", json={"product_ids": ["b", "nowhere", "a"]}).json()
    assert [reply["product_id"] for reply in said["replies"]] == ["b", "a"]
    assert said["not_found"] == ["nowhere"]


def test_a_large_answer_is_whole(http: httpx.Client, crew: FakeWorker) -> None:
    crew.products["a"] = [match(f"m{number}", number / 1000) for number in range(1000)]
    said = http.post("/lookups?wait=20", json={"product_id": "a", "limit": 1000}).json()
    assert [each["product_id"] for each in said["replies"][0]["matches"]][999] == "m999"


def test_a_lookup_that_failed_says_why(http: httpx.Client, crew: FakeWorker) -> None:
    said = http.post("/lookups?wait=20", files={"image": b"this is no picture"})
    assert (said.status_code, said.json()["state"]) == (200, "failed")
    problem = said.json()["problem"]
    assert (problem["reason"], problem["status"]) == ("unsupported_format", 422)
    assert problem["detail"] == "this is no picture"


def test_unknown_and_expired_lookups_are_told_apart(http: httpx.Client) -> None:
    refused(http.get(f"/lookups/{new_id()}"), 404, "unknown_lookup")
    refused(http.get("/lookups/nonsense"), 404, "unknown_lookup")
    refused(http.get("/lookups/01890a5d-ac96-774b-bcce-b302099a8057"), 410, "expired")
    refused(http.get("/lookups/01890a5d-ac96-774b-bcce-b302099a8057/events"), 410, "expired")


def test_a_question_that_cannot_be_asked_is_refused_in_the_producers_words(
    http: httpx.Client, redis: Redis
) -> None:
    for question, status, says in (
        ({"product_id": "1", "disliked": "1"}, 422, "both liked and disliked"),
        ({}, 422, "nothing to look like"),
        ({"product_id": "1", "where": {"category": 5}}, 422, "a category is text"),
        ({"product_id": "1", "limit": 0}, 400, "limit"),
        ({"product_id": "1", "colour": "red"}, 400, "colour"),
        ({"product_ids": ["1"], "image": PICTURE}, 400, "image"),
        ({"image": "/etc/passwd"}, 400, "image: not a whole address"),
        ({"image": "file:///etc/passwd"}, 400, "image"),
        ([], 400, ""),
    ):
        reason = "invalid_request" if status == 422 else "malformed"
        problem = refused(http.post("/lookups", json=question), status, reason)
        assert says in problem["detail"]
    text = {"Content-Type": "text/plain"}
    refused(http.post("/lookups", content="a", headers=text), 415, "unsupported_media_type")
    for broken in (
        b"{",
        b'{"product_id": NaN}',
        b'{"product_id": "\\ud800"}',
        b"\xff",
        b"[" * 9999,
    ):
        json_type = {"Content-Type": "application/json"}
        refused(http.post("/lookups", content=broken, headers=json_type), 400, "malformed")
    assert not take_all(redis, Queue.LOOKUP)


def test_events_tell_each_state_and_end_with_the_reply(http: httpx.Client, redis: Redis) -> None:
    url = http.post("/lookups", json={"product_id": "a"}).json()["url"] + "/events"
    worker = FakeWorker(redis, {"a": [match("b")]})
    events = []
    with http.stream("GET", url) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            if line.startswith("event: queued"):
                worker.step()
            if line.startswith("data: "):
                events.append(json.loads(line.removeprefix("data: ")))
    assert (events[0]["state"], events[-1]["state"]) == ("queued", "done")
    assert events[-1]["replies"][0]["matches"][0]["product_id"] == "b"
    assert http.get(url, headers={"Last-Event-ID": "done"}).status_code == 204


# -- idempotency ----------------------------------------------------------------------------------


def test_a_request_that_is_sent_again_does_nothing_again(http: httpx.Client, redis: Redis) -> None:
    key = {"Idempotency-Key": "order-1"}
    product = {"product_id": "x", "image": PICTURE}
    first = http.post("/products", json=product, headers=key)
    again = http.post("/products", content=json.dumps(product, indent=4), headers=key | _JSON)
    assert (again.status_code, again.json()) == (202, first.json())
    assert len(items(redis)) == 1
    other = http.post("/products", json=product | {"product_id": "y"}, headers=key)
    refused(other, 409, "idempotency_key_reused")
    refused(http.delete("/products/x", headers=key), 409, "idempotency_key_reused")
    assert 0 < redis.pttl(_only(redis, "idempotency")) <= 86_400_000  # type: ignore[operator]


def test_a_form_that_is_sent_again_is_the_same_whatever_its_boundary(
    http: httpx.Client, redis: Redis
) -> None:
    key = {"Idempotency-Key": "form"}
    first, again = (
        http.post("/lookups", files={"image": TINY_JPEG}, headers=key).json()["id"] for _ in "12"
    )
    assert first == again
    other = http.post("/lookups", files={"image": TINY_JPEG + b"x"}, headers=key)
    refused(other, 409, "idempotency_key_reused")
    assert len(take_all(redis, Queue.QUERY)) == 1


def test_a_key_is_its_owners_and_is_free_again_when_the_request_failed(
    running: Gateway, http: httpx.Client, redis: Redis
) -> None:
    key = {"Idempotency-Key": "k"}
    mine = http.post("/lookups", json={"product_id": "a"}, headers=key).json()["id"]
    with running.client(READ) as other:
        said = other.post("/lookups", json={"product_id": "b"}, headers=key)
    assert said.status_code == 202
    assert said.json()["id"] != mine
    retry = {"Idempotency-Key": "r"}
    bad = {"product_id": "1", "disliked": "1"}
    refused(http.post("/lookups", json=bad, headers=retry), 422, "invalid_request")
    assert http.post("/lookups", json={"product_id": "1"}, headers=retry).status_code == 202


# -- who may --------------------------------------------------------------------------------------


def test_keys_have_scopes(running: Gateway, redis: Redis) -> None:
    product, question = {"product_id": "x", "image": PICTURE}, {"product_id": "x"}
    with running.client(READ) as reader, running.client(WRITE) as writer:
        assert reader.post("/lookups", json=question).status_code == 202
        said = reader.post("/products", json=product)
        refused(said, 403, "forbidden")
        assert "insufficient_scope" in said.headers["www-authenticate"]
        refused(reader.delete("/products/x"), 403, "forbidden")
        added = writer.post("/products", json=product)
        assert added.status_code == 202
        assert writer.get(added.headers["location"]).status_code == 200
        refused(writer.post("/lookups", json=question), 403, "forbidden")
        refused(writer.get(f"/lookups/{new_id()}"), 403, "forbidden")


@pytest.mark.parametrize("secret", [None, "wrong", READ[:-1], READ + "x", "é"])
def test_without_a_good_key_nothing_is_told(running: Gateway, secret: str | None) -> None:
    with running.client(None) as http:
        header = {} if secret is None else {"Authorization": f"Bearer {secret}".encode()}
        for method, path in (
            ("POST", "/products"),
            ("GET", "/lookups/x?wait=no"),
            ("GET", "/jobs/x"),
        ):
            said = http.request(method, path, headers=header)  # type: ignore[arg-type]
            refused(said, 401, "unauthenticated")
            assert said.headers["www-authenticate"] == "Bearer"
        assert http.get("/health").json() == {"state": "ok"}


def test_without_keys_only_this_machine_may_ask(
    server: RedisServer, redis: Redis, tmp_path: Path
) -> None:
    with gateway(server.url, tmp_path, api_keys=None) as open_, open_.client(None) as http:
        assert http.post("/lookups", json={"product_id": "a"}).status_code == 202
        local = {"Host": f"localhost:{open_.port}", "Origin": f"http://localhost:{open_.port}"}
        assert http.post("/lookups", json={"product_id": "a"}, headers=local).status_code == 202
        rebound = {"Host": "evil.example"}
        refused(http.post("/lookups", json={}, headers=rebound), 403, "forbidden")
        page = {"Origin": "https://evil.example"}
        refused(http.post("/lookups", json={}, headers=page), 403, "forbidden")
        for site in (
            "cross-site",
            "same-site",
        ):  # a picture in somebody else's page, with no Origin
            refused(http.get("/status", headers={"Sec-Fetch-Site": site}), 403, "forbidden")
        own = {"Sec-Fetch-Site": "same-origin"}
        assert http.get("/jobs/x", headers=own).status_code == 404
        for host in ("[", "[::1", "127.0.0.1.evil.example", "127.0.0.1@evil.example"):
            refused(http.get("/access", headers={"Host": host}), 403, "forbidden")
        assert "security" not in http.get("/openapi.json").text
    assert refuses_to_start(tmp_path, "--host", "0.0.0.0") == 2
    assert "LOOKALIKE_API_KEYS" in (tmp_path / "said").read_text()


def refuses_to_start(folder: Path, *options: str) -> int:
    command = [sys.executable, "-m", "producer.cli", "serve", *options]
    said = folder / "said"
    root = str(Path(__file__).parents[2])
    with said.open("w") as output:
        return subprocess.run(
            command, stderr=output, env={"PYTHONPATH": root}, cwd=folder, timeout=60, check=False
        ).returncode


def test_a_port_that_is_taken_is_named(running: Gateway, tmp_path: Path) -> None:
    assert refuses_to_start(tmp_path, "--port", str(running.port)) == 2
    said = (tmp_path / "said").read_text()
    assert f"port {running.port} of 127.0.0.1 is taken" in said
    assert "LOOKALIKE_HTTP_PORT" in said


def test_no_secret_is_ever_written(running: Gateway, http: httpx.Client) -> None:
    assert http.get("/lookups/x").status_code == 404
    assert http.get("/health", headers={"Authorization": f"Bearer {WRITE}"}).status_code == 200
    log = running.log.read_text()
    assert not any(secret in log for secret in (READ, WRITE, BOTH, KEYS))


# -- limits ---------------------------------------------------------------------------------------

_JSON = {"Content-Type": "application/json"}


def test_a_body_that_is_too_large_is_refused_while_it_is_read(
    http: httpx.Client, redis: Redis
) -> None:
    large = b" " * (BODY + 1)
    refused(http.post("/lookups", content=large, headers=_JSON), 413, "body_too_large")
    chunked = (large[:100_000] for _ in range(4))
    refused(http.post("/lookups", content=chunked, headers=_JSON), 413, "body_too_large")
    form = {"image": TINY_JPEG + large}
    refused(http.post("/lookups", files=form), 413, "body_too_large")
    assert http.post("/lookups", files={"image": TINY_JPEG + large[:200_000]}).status_code == 202
    assert len(take_all(redis, Queue.QUERY)) == 1


def talk(running: Gateway, *parts: bytes, pause: float = 0.0) -> bytes:
    """What the gateway says to raw bytes, until it closes the connection or two seconds have passed."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=5) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        said = b""
        try:
            while piece := connection.recv(65536):
                said += piece
        except OSError:
            return said + b"(open)"
        return said


def head(length: int, *more: str) -> bytes:
    lines = ["POST /lookups HTTP/1.1", "Host: x", f"Content-Length: {length}", *more]
    lines += ["Content-Type: application/json", f"Authorization: Bearer {BOTH}"]
    return "\r\n".join([*lines, "", ""]).encode()


def test_who_asks_first_is_spared_sending_what_is_too_large(running: Gateway) -> None:
    said = talk(running, head(BODY + 1, "Expect: 100-continue", "Connection: close"))
    assert said.startswith(b"HTTP/1.1 413 ")
    assert b"100 Continue" not in said


def test_a_slow_client_is_cut_off(running: Gateway, redis: Redis) -> None:
    silent = talk(running, head(1000, "Connection: close"), b'{"product')
    assert silent.startswith(b"HTTP/1.1 408 ")
    assert b"too_slow" in silent
    assert talk(running) == b""
    assert talk(running, b"GET /health HTT") == b""
    assert not take_all(redis, Queue.LOOKUP)


def test_slow_and_huge_do_not_delay_others(
    running: Gateway, http: httpx.Client, crew: FakeWorker
) -> None:
    stop = threading.Event()

    def huge() -> None:
        with running.client() as client:
            while not stop.is_set():
                client.post("/lookups", files={"image": b"x" * (BODY * 10)})

    threads = [threading.Thread(target=huge) for _ in range(2)]
    slow = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(50)]
    for each in slow:
        each.sendall(head(1000))
    for thread in threads:
        thread.start()
    try:
        taken = []
        for _ in range(30):
            begun = time.monotonic()
            assert http.post("/lookups?wait=20", json={"product_id": "a"}).status_code == 200
            taken.append(time.monotonic() - begun)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for each in slow:
            each.close()
    assert sorted(taken)[len(taken) // 2] < 0.5


# -- the queue, and the end -----------------------------------------------------------------------


def test_redis_away_is_503_and_back_is_well(tmp_path: Path) -> None:
    server = start_valkey(folder=tmp_path)
    with gateway(server.url, tmp_path) as running, running.client() as http:
        asked = http.post("/lookups", json={"product_id": "a"}).json()
        server.kill()
        for said in (
            http.get("/health"),
            http.get(asked["url"]),
            http.get(asked["url"] + "/events"),
            http.post("/lookups", json={"product_id": "a"}),
            http.post("/products", json={"product_id": "x", "image": PICTURE}),
            http.post("/lookups", json={"product_id": "a"}, headers={"Idempotency-Key": "k"}),
        ):
            detail = refused(said, 503, "queue_unavailable")["detail"]
            assert "127.0.0.1" not in detail
            assert int(said.headers["retry-after"]) >= 1
        server.start()
        assert http.get("/health").status_code == 200
        assert http.post("/lookups", json={"product_id": "a"}).status_code == 202
    server.stop()
    assert "cannot be used" in running.log.read_text()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_in_good_order(
    server: RedisServer, redis: Redis, tmp_path: Path, how: signal.Signals
) -> None:
    with gateway(server.url, tmp_path) as running, running.client() as http:
        asked = http.post("/lookups", json={"product_id": "a"}).json()
        said: list[httpx.Response] = []
        waits = [f"{asked['url']}?wait=25", f"{asked['url']}/events"]
        threads = [threading.Thread(target=_get, args=(running, url, said)) for url in waits]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        begun = time.monotonic()
        running.process.send_signal(how)
        assert running.process.wait(20) == 0
        assert time.monotonic() - begun < 8
        for thread in threads:
            thread.join()
    assert sorted(each.status_code for each in said) == [200, 202]
    assert "Traceback" not in running.log.read_text()


def _get(running: Gateway, url: str, said: list[httpx.Response]) -> None:
    with running.client() as http:
        said.append(http.get(url))


def test_what_there_is_not_is_said_as_a_problem_too(http: httpx.Client) -> None:
    refused(http.get("/nowhere"), 404, "no_such_address")
    said = http.put("/lookups")
    refused(said, 405, "method_not_allowed")
    assert said.headers["allow"] == "POST"


def test_the_page_needs_nothing_from_elsewhere(http: httpx.Client) -> None:
    said = http.get("/docs")
    assert "default-src 'none'" in said.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in said.headers["content-security-policy"]
    assert http.get("/docs").text == said.text
    for there in ("POST /products", "GET /lookups/{lookup_id}/events", 'id="expired"'):
        assert there in said.text
    assert "<script" not in said.text
    assert "src=" not in said.text
    assert "<link" not in said.text


def _only(redis: Redis, what: str) -> str:
    (key,) = redis.keys(f"lookalike:{what}:*")  # type: ignore[misc]
    return str(key.decode())


def test_the_shops_user_of_redis_is_enough(tmp_path: Path) -> None:
    server = start_valkey(folder=tmp_path)
    users = (Path(__file__).parents[2] / "docs" / "redis-users.acl").read_text()
    with Redis.from_url(server.url) as admin:
        for line in users.replace("SHOP-PASSWORD", "shop-secret").splitlines():
            if line.startswith("user lookalike-shop"):
                admin.execute_command("ACL", "SETUSER", *line.split()[1:])
        url = server.url.replace("redis://", "redis://lookalike-shop:shop-secret@")
        worker = FakeWorker(admin, {"a": [match("b")]})
        with worker.working(), gateway(url, tmp_path) as running, running.client() as http:
            for _ in range(2):
                headers = {"Idempotency-Key": "k"}
                said = http.post("/lookups?wait=20", json={"product_id": "a"}, headers=headers)
                assert (said.status_code, said.json()["state"]) == (200, "done")
            added = http.post("/products", json={"product_id": "x", "image": PICTURE})
            assert ended(http, added.headers["location"])["applied"] == 1
    server.stop()
