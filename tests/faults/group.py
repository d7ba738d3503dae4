"""A whole service out of a hive, with a server and a catalogue of its own, and whoever starts again what dies."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pydantic import SecretStr
from redis import Redis
from sqlalchemy import func, select

from db.models import Embedding, Image, Product, RevisionCounter
from db.queries import dead_letters
from db.session import Database
from migrations import upgrade
from producer.client import Producer
from producer.settings import ProducerSettings
from tests.faults.hive import GROUP, Hive, HiveWorker
from tests.services import RedisServer, start_valkey
from tests.stack import picture, stack_settings
from worker.settings import WorkerSettings

HURRIED = "tests.faults.hooks:hurried"


@dataclass
class Group:
    """A running service. `hurry` are the arguments of `hooks.hurried`; None leaves all times as they are."""

    folder: Path
    server: RedisServer
    hive: Hive
    settings: WorkerSettings
    hurry: Mapping[str, Any] | None
    workers: dict[str, HiveWorker] = field(default_factory=dict)
    ended: list[tuple[str, int]] = field(default_factory=list)
    """Workers that ended by themselves and were started again: role and exit code."""
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def start(self, *roles: str) -> None:
        """Start these roles, or those of all that do not run."""
        with self._lock:
            for role in roles or GROUP:
                if role not in self.workers:
                    self.workers[role] = self._forked(role)

    def _forked(self, role: str) -> HiveWorker:
        before = HURRIED if self.hurry is not None else None
        return self.hive.start(role, self.settings, before=before, arguments=self.hurry)

    def ready(self) -> None:
        """Wait until all of them consume."""
        with self._lock:
            self.hive.wait_ready(list(self.workers.values()))

    def kill(self, *roles: str) -> None:
        """End these, or all, as a power cut would."""
        with self._lock:
            for role in roles or tuple(self.workers):
                if role in self.workers:
                    self.workers.pop(role).kill()

    def tend(self) -> None:
        """Start again what has ended by itself."""
        with self._lock:
            for role, worker in list(self.workers.items()):
                code = worker.code
                if code is not None:
                    self.ended.append((role, code))
                    self.workers[role] = self._forked(role)

    @property
    def producer(self) -> ProducerSettings:
        """A shop's settings, with small chunks, so that much can happen between them."""
        return ProducerSettings(redis_url=self.settings.redis_url, chunk_size=8)

    def wait(self, done: Callable[[], bool], timeout: float, what: str) -> float:
        """Tend until it is so; the seconds that it took. Raises TimeoutError."""
        began = time.monotonic()
        while not done():
            self.tend()
            if time.monotonic() - began > timeout:
                raise TimeoutError(f"{what}: not in {timeout:.0f} s")
            time.sleep(0.05)
        return time.monotonic() - began

    def settle(self, timeout: float = 240.0) -> float:
        """Wait until everything accepted is applied or given up; the seconds that it took."""
        with Redis.from_url(self.server.url) as redis:
            return self.wait(
                lambda: not redis.exists("lookalike:ledger"), timeout, "the ledger is not empty"
            )

    def deaths(self) -> dict[str, int]:
        """Starts of jobs that were neither ended nor excused: deaths, once nobody is at work."""
        with Redis.from_url(self.server.url, decode_responses=True) as redis:
            starts: Any = redis.hgetall("lookalike:ledger:starts")
            excused: Any = redis.hgetall("lookalike:ledger:excused")
        found = {id_: int(n) - int(excused.get(id_, 0)) for id_, n in starts.items()}
        return {id_: n for id_, n in found.items() if n}


@contextmanager
def group(
    folder: Path,
    *,
    hurry: Mapping[str, Any] | None = None,
    server: RedisServer | None = None,
    **settings: object,
) -> Iterator[Group]:
    """A service in this folder: nothing of it runs before `start`, and nothing after the block."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as closing:
        if server is None:
            server = start_valkey("--appendonly", "yes", folder=folder)
            closing.callback(server.stop)
        values: dict[str, object] = {"redis_url": SecretStr(server.url), "model_threads": 2}
        found = stack_settings(folder / "data", **(values | settings))
        database = Database(found.database)
        upgrade(database)
        database.close()
        hive = closing.enter_context(Hive(folder / "logs"))
        if hurry is not None:  # the shop's process, which is this one
            closing.enter_context(patch("producer.ledger.GRACE", hurry.get("grace", 3.0)))
        yield Group(folder, server, hive, found, hurry)


# -- pictures, and what became of them ------------------------------------------------------------


def pictures(folder: Path, count: int, *, bases: int = 200) -> list[Path]:
    """Files under an image root, no two with the same bytes; `bases` of them look different."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [picture(seed) for seed in range(min(bases, count))]
    paths = []
    for number in range(count):
        path = folder / f"{number}.jpg"
        # What follows the end of a JPEG is read by nobody.
        path.write_bytes(drawn[number % len(drawn)] + f"{number}".encode())
        paths.append(path)
    return paths


@dataclass(frozen=True)
class Catalogue:
    """What SQL holds."""

    vectors: dict[str, bytes]
    """Of each live product's picture; empty bytes where there is none."""
    letters: dict[str, str]
    """Dead letters: product → reason and detail."""
    given_up: int
    """How many dead letters there are."""
    superfluous_revisions: int
    """Revisions that no picture or product is of: a change that was made twice leaves one behind."""


def read(settings: WorkerSettings) -> Catalogue:
    """Read all of it."""
    database = Database(settings.database)
    statement = (
        select(Product.product_id, Embedding.vector)
        .join(Image, Image.product_pk == Product.pk)
        .join(Embedding, Embedding.content_sha256 == Image.content_sha256, isouter=True)
        .where(~Image.removed)
    )
    with database.reading() as session:
        vectors = {id_: vector or b"" for id_, vector in session.execute(statement)}
        given_up = dead_letters.list_(session, limit=100_000)
        letters = {each.product_id or "": f"{each.reason}: {each.detail}" for each in given_up}
        counter = session.scalar(select(RevisionCounter.value)) or 0
        used = session.scalar(select(func.count(func.distinct(Image.revision)))) or 0
    database.close()
    return Catalogue(vectors, letters, len(given_up), counter - used)


def add(shop: Producer, paths: Mapping[str, Path]) -> None:
    """Add products with their pictures."""
    shop.add_many([{"product_id": id_, "image": path} for id_, path in paths.items()])
