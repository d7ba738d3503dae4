"""What anybody who can write to Redis may put on a queue: workers refuse it, keep it to be seen, and go on."""

from __future__ import annotations

import base64
import json
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis import Redis

from db.queries import dead_letters
from db.queries.dead_letters import DeadLetter
from db.session import Database
from producer import keys
from producer.client import Producer
from producer.errors import SettingsError
from producer.ids import new_id
from producer.mailbox import Mailbox
from producer.messages import (
    MAX_MESSAGE,
    ImageItem,
    IngestChunk,
    PathImage,
    ProductLookup,
    Queue,
    RemoveChunk,
    WatchIndex,
)
from producer.reasons import Reason
from producer.settings import ProducerSettings
from producer.signing import Signer
from tests.faults.group import Group, group
from tests.stack import save_picture

KEY, OTHER = "k" * 20, "o" * 20


@dataclass(frozen=True)
class Town:
    """A running service, and somebody at its Redis."""

    service: Group
    redis: Redis
    database: Database

    def put(self, raw: str | bytes, queue: Queue = Queue.INGEST) -> None:
        """Put something on a queue."""
        self.redis.lpush(keys.queue(queue.value), raw)

    def letters(self) -> list[DeadLetter]:
        """What was refused, the oldest first."""
        with self.database.reading() as session:
            return dead_letters.list_(session, limit=10_000)[::-1]

    def add(self, product_id: str, settings: ProducerSettings | None = None) -> None:
        """Add a good product and wait until it is applied: the queue is read to here."""
        path = save_picture(self.service.folder / f"{product_id}.jpg", len(product_id))
        with Producer(settings or self.service.producer) as shop:
            shop.add(product_id, str(path)).wait(60.0)

    def pids(self) -> dict[str, int]:
        """The processes of the service that are alive."""
        workers = self.service.workers.items()
        return {role: each.pid for role, each in workers if each.code is None}


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """One whose messages need no signature."""
    with _town(tmp_path_factory.mktemp("town")) as opened:
        yield opened


@contextmanager
def _town(folder: Path, **settings: Any) -> Iterator[Town]:
    with group(folder, image_roots=(folder,), **settings) as service:
        service.start()
        service.ready()
        database = Database(service.settings.database)
        with Redis.from_url(service.server.url) as redis:
            yield Town(service, redis, database)
        database.close()


# -- messages -------------------------------------------------------------------------------------


def chunk(**changes: Any) -> dict[str, Any]:
    """A job as it goes on the wire."""
    image = PathImage(path="/nowhere/x.jpg")
    item = ImageItem(product_id="p", image=image, version=1)
    job = IngestChunk(id=new_id(), accepted_at=time.time(), items=(item,))
    return job.model_dump(mode="json") | changes


def enveloped(arguments: object, task: str = IngestChunk.task, **changes: Any) -> dict[str, Any]:
    """What Celery makes of a task's arguments."""
    embedded = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    body = json.dumps([arguments, {}, embedded]).encode()
    return {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"task": task, "id": new_id(), "retries": 0, "eta": None},
        "properties": {
            "delivery_tag": new_id(),
            "delivery_info": {"exchange": "", "routing_key": "ingest"},
            "body_encoding": "base64",
        },
    } | changes


def _body(data: bytes) -> dict[str, str]:
    return {"body": base64.b64encode(data).decode()}


def _headers(**changes: Any) -> dict[str, Any]:
    return {"headers": {"task": IngestChunk.task, "id": new_id(), **changes}}


@dataclass(frozen=True)
class Case:
    """Something on a queue, and what is said of it."""

    name: str
    raw: Callable[[], str | bytes]
    said: str


def case(name: str, said: str, value: Callable[[], object]) -> Case:
    """One that is JSON."""
    return Case(name, lambda: json.dumps(value()), said)


CASES = [
    Case("no JSON", lambda: b"not json", "not JSON"),
    Case("nothing", lambda: b"", "not JSON"),
    Case("no UTF-8", lambda: b"\xff\xfe\x00", "not JSON"),
    Case("nested too deeply", lambda: b"[" * 100_000, "not JSON"),
    Case("a number without end", lambda: b"9" * 5000, "not JSON"),
    case("no envelope", "not a message of Celery's", lambda: [1, 2]),
    case("an empty envelope", "not a message of Celery's", dict),
    case("no properties", "not a message", lambda: enveloped([chunk()], properties=None)),
    case("no tag", "not a message", lambda: enveloped([chunk()], properties={})),
    case("headers that are none", "not a message", lambda: enveloped([chunk()], headers=[1])),
    case("no base64", "not JSON", lambda: enveloped([chunk()], body="x")),
    case("an unknown task", "'shop.delete_all' is not", lambda: enveloped([], "shop.delete_all")),
    case("a task of Celery's own", "'celery.chord_unlock'", lambda: enveloped([], "celery.chord_unlock")),
    case("a task's name that is none", "None is not one", lambda: enveloped([], headers={"task": {}})),
    case("no task", "None is not one", lambda: enveloped([], headers={})),
    case(
        "a pickle",
        "application/x-python-serialize",
        lambda: enveloped([], **{"content-type": "application/x-python-serialize"}, **_body(pickle.dumps(print))),
    ),
    case("a pickle that says it is JSON", "not a task", lambda: enveloped([], **_body(pickle.dumps(print)))),
    case("YAML", "application/x-yaml", lambda: enveloped([], **{"content-type": "application/x-yaml"})),
    case("another encoding", "only JSON in UTF-8", lambda: enveloped([chunk()], **{"content-encoding": "binary"})),
    case("too large", "at most", lambda: enveloped([chunk()], **_body(b" " * (MAX_MESSAGE + 1)))),
    case("arguments that are none", "all that a task", lambda: enveloped("abc")),
    case("no arguments", "all that a task", lambda: enveloped([])),
    case("keywords", "all that a task", lambda: enveloped([], **_body(b'[[{}], {"body": 1}, {}]'))),
    case("a callback", "other tasks hang", lambda: enveloped([], **_body(b'[[{}], {}, {"callbacks": [{}]}]'))),
    case("in a year", "at a later time", lambda: enveloped([chunk()], **_headers(eta="2099-01-01T00:00:00"))),
    case("an expiry that is none", "Celery cannot read it", lambda: enveloped([chunk()], **_headers(expires="x"))),
    case("an extra key", "surprise", lambda: enveloped([chunk(surprise=1)])),
    case("another version", "v: Input should be 1", lambda: enveloped([chunk(v=2)])),
    case("a wrong type", "accepted_at", lambda: enveloped([chunk(accepted_at="today")])),
    case("no items", "items", lambda: enveloped([chunk(items=[])])),
    case("a null", "is given", lambda: enveloped([None])),
    case(
        "an id that SQL text cannot hold",
        "NUL",
        lambda: enveloped([chunk(items=[chunk()["items"][0] | {"product_id": "a\x00b"}])]),
    ),
    case(
        "another job's message",
        "is given",
        lambda: enveloped([WatchIndex().model_dump(mode="json")]),
    ),
]  # fmt: skip


def test_every_message_that_is_none_is_refused_and_kept_and_the_worker_goes_on(town: Town) -> None:
    town.add("before")
    pids = town.pids()
    known = len(town.letters())
    for each in CASES:
        town.put(each.raw())
    town.add("after")
    town.service.wait(lambda: len(town.letters()) >= known + len(CASES), 30.0, "not all are kept")
    letters = town.letters()[known:]
    assert {each.reason for each in letters} == {Reason.INVALID_MESSAGE}
    # They are read in order, but those that a thread of its own refuses may come a little later.
    said = "\n".join(each.detail for each in letters)
    assert [each.name for each in CASES if each.said not in said] == []
    assert len(letters) == len(CASES)
    assert town.pids() == pids


def test_a_message_of_any_depth_that_json_can_have(town: Town) -> None:
    """Python reads some that it cannot write, or not from further down its stack."""
    pids, known = town.pids(), len(town.letters())
    depths = [20, 150, 300, *range(800, 985, 3)]
    for depth in depths:
        nested = "[" * depth + "1" + "]" * depth
        envelope = json.dumps(enveloped([chunk()], **_headers(nested="HERE")))
        town.put(envelope.replace('"HERE"', nested))
        town.put(json.dumps(enveloped([], **_body(f"[[{nested}], {{}}, {{}}]".encode()))))
    town.add("after")
    town.service.wait(lambda: len(town.letters()) >= known + len(depths), 30.0, "not all are kept")
    assert town.pids() == pids


def test_secrets_of_a_refused_message_are_not_kept(town: Town) -> None:
    known = len(town.letters())
    url = "https://user:hunter2@cdn.example/1.jpg?X-Amz-Signature=deadbeef&w=3"
    town.put(json.dumps(enveloped([chunk(image=url)])))
    town.add("later")
    town.service.wait(lambda: len(town.letters()) > known, 30.0, "it is not kept")
    kept = json.dumps(vars(town.letters()[-1]), default=str)
    assert "cdn.example/1.jpg" in kept
    assert "hunter2" not in kept
    assert "deadbeef" not in kept


def test_a_question_that_is_refused_is_answered(town: Town) -> None:
    mailbox, asked = Mailbox(town.redis, 60.0), new_id()
    mailbox.open(asked)
    question = {"id": asked, "expires_at": time.time() + 60, "nonsense": True}
    town.put(json.dumps(enveloped([question], ProductLookup.task)), Queue.LOOKUP)
    answer = mailbox.wait(asked, 30.0)
    assert answer is not None
    assert answer.failure is not None
    assert answer.failure.reason is Reason.INVALID_MESSAGE


def test_only_the_newest_refused_messages_are_kept(town: Town) -> None:
    with town.database.writing() as session:
        dead_letters.keep_newest(session, Reason.INVALID_MESSAGE, 2)
    assert len([each for each in town.letters() if each.reason == Reason.INVALID_MESSAGE]) == 2


def test_unsigned_and_wrongly_signed_messages_are_refused(tmp_path: Path) -> None:
    with _town(tmp_path, signing_keys=SecretStr(f"{KEY},{OTHER}")) as town:
        town.service.wait(lambda: bool(town.redis.exists(keys.WORKERS)), 30.0, "nobody beats")
        signed = town.service.producer.model_copy(update={"signing_keys": SecretStr(KEY)})
        rotated = town.service.producer.model_copy(update={"signing_keys": SecretStr(OTHER)})
        town.add("with-the-first-key", signed)
        town.add("with-the-second", rotated)
        job = chunk()
        forged = [
            [job],
            [job, None],
            [job, "é"],
            [job, Signer([b"another key of some length"]).sign(IngestChunk.task, job)],
            [job, Signer([KEY.encode()]).sign(RemoveChunk.task, job)],
            [chunk(), Signer([KEY.encode()]).sign(IngestChunk.task, job)],
        ]
        for each in forged:
            town.put(json.dumps(enveloped(each)))
        # Beside the queue, where the sweeper would find it.
        stored = json.dumps({"task": IngestChunk.task, "message": job})
        town.redis.hset(keys.LEDGER, job["id"], stored)
        town.redis.zadd(keys.LEDGER_DUE, {job["id"]: 1.0})
        town.add("after", signed)
        town.service.wait(lambda: len(town.letters()) >= len(forged), 30.0, "not all are kept")
        assert [each.detail.split(":")[0] for each in town.letters()] == [
            "it is not signed with a key of LOOKALIKE_SIGNING_KEYS, which producers need, too"
        ] * len(forged)
        town.service.wait(
            lambda: town.redis.zcount(keys.LEDGER_DUE, 0, 2) == 0,
            30.0,
            "the sweeper did not come by",
        )
        assert not town.redis.exists(keys.outcome(job["id"]))


@pytest.mark.parametrize("keys_", ["short", f"{KEY},", f"{KEY},short"])
def test_keys_that_are_too_short(keys_: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKALIKE_SIGNING_KEYS", keys_)
    with pytest.raises(SettingsError, match="LOOKALIKE_SIGNING_KEYS: every key") as raised:
        ProducerSettings.from_env()
    assert KEY not in str(raised.value)
