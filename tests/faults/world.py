"""A small service without Celery: a ledger, a catalogue, a folder, and workers whose network is a digest."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import select

from db.models import Embedding, Image, Product
from db.queries import dead_letters, models
from db.queries.dead_letters import DeadLetter
from db.session import Database
from producer import keys
from producer.broker import celery_app, send
from producer.ids import new_id
from producer.ledger import Claim, Ledger
from producer.messages import (
    ImageItem,
    ImageRef,
    IngestChunk,
    Job,
    PathImage,
    Queue,
    Removal,
    RemoveChunk,
)
from producer.reasons import Reason
from producer.settings import ProducerSettings
from tests.fake_worker import take
from worker.claims import Claims
from worker.images.decode import Decoded
from worker.images.errors import ImageError
from worker.images.fetch import Picture
from worker.ingest import Ingester, remove
from worker.jobs import Jobs
from worker.preparing import Preparer
from worker.sweep import sweep

DIMENSION = 16
DIGEST = "d" * 64
AN_AGE = 2000.0
"""Seconds after which anything in the ledger is due."""


@dataclass(frozen=True)
class World:
    """Where a process of the service does its part; every process opens it anew."""

    folder: Path
    redis_url: str
    database_url: str

    @property
    def data_dir(self) -> Path:
        """LOOKALIKE_DATA_DIR."""
        return self.folder / "data"

    @property
    def settings(self) -> ProducerSettings:
        """A producer's."""
        return ProducerSettings(redis_url=SecretStr(self.redis_url), chunk_size=2)

    @property
    def fixed(self) -> Path:
        """A file: while it is not there, slow pictures fail for a passing reason."""
        return self.folder / "fixed"

    @contextmanager
    def worker(self) -> Iterator[Worker]:
        """A worker of this world, in this process."""
        with Redis.from_url(self.redis_url) as redis:
            database = Database(self.database_url)
            with ThreadPoolExecutor(2) as executor:
                yield Worker(self, redis, database, executor)
            database.close()


class Worker:
    """Does jobs as the real ones do. A picture's bytes are its path, which says how it behaves."""

    def __init__(
        self, world: World, redis: Redis, database: Database, executor: ThreadPoolExecutor
    ) -> None:
        self.world = world
        self.redis = redis
        self.database = database
        self.executor = executor
        self.ledger = Ledger(redis)
        self.claims = Claims(self.ledger)
        self.app = celery_app(world.settings)
        with database.writing() as session:
            self.model = models.register(session, DIGEST, "test", DIMENSION, {})
        preparer = Preparer(
            database=database,
            model_version_pk=self.model.pk,
            fetch=self._fetch,
            decode_many=self._decode,
            embed=lambda pixels: np.stack([vector_of(each.tobytes()) for each in pixels]),
            executor=executor,
        )
        self.ingester = Ingester(
            database=database,
            ledger=self.ledger,
            model_version_pk=self.model.pk,
            prepare=preparer.prepare,
            quarantine=preparer.prepare,
        )
        self.jobs = Jobs(
            database=database,
            ledger=self.ledger,
            claims=self.claims,
            stopping=threading.Event(),
            stop=lambda: None,
        )

    def send(self, message: Any) -> None:
        """Publish."""
        send(self.app, message)

    def accept(self, *items: ImageItem | Removal) -> Job:
        """Write a job with these items into the ledger, as a producer does; nothing is published."""
        job = job_of(*items)
        self.ledger.accept([job])
        return job

    def do(self, job: Job) -> None:
        """Do a job."""
        if isinstance(job, IngestChunk):
            self.jobs.do(job, self.ingester.ingest)
        elif isinstance(job, RemoveChunk):
            self.jobs.do(job, self._remove)

    def _remove(self, claim: Claim[RemoveChunk]) -> None:
        remove(self.database, self.ledger, claim)

    def drain(self) -> None:
        """Do every job that waits in a queue."""
        for queue in (Queue.INGEST, Queue.CONTROL):
            while (message := take(self.redis, queue)) is not None:
                if isinstance(message, Job):
                    self.do(message)

    def let_claims_run_out(self) -> None:
        """As if their workers had not renewed them."""
        for job_id in cast("list[bytes]", self.redis.zrange(keys.LEDGER_LEASES, 0, -1)):
            self.redis.zadd(keys.LEDGER_LEASES, {job_id: 1.0})

    def settle(self) -> None:
        """What the service does by itself after a crash: sweep and work until the ledger is empty."""
        for age in range(1, 20):
            self.drain()
            if self.ledger.size() == 0:
                return
            self.let_claims_run_out()
            sweep(self.ledger, self.send, time.time() + age * AN_AGE)

    def _fetch(self, ref: ImageRef) -> Picture:
        assert isinstance(ref, PathImage)
        if "missing" in ref.path:
            raise ImageError(Reason.NOT_FOUND, "there is no such file")
        if "slow" in ref.path and not self.world.fixed.exists():
            raise ImageError(Reason.FETCH_TIMEOUT, "too slow", transient=True)
        return Picture(ref.path.encode(), ref.path)

    def _decode(self, pictures: Sequence[bytes]) -> list[Decoded | ImageError]:
        if any(b"bug" in data for data in pictures):
            raise ZeroDivisionError
        return [
            Decoded(
                np.frombuffer(hashlib.sha256(data).digest(), np.uint8), b"thumbnail " + data, 1, 1
            )
            for data in pictures
        ]

    # -- what came of it --------------------------------------------------------------------------

    def vectors(self) -> dict[str, bytes]:
        """The vector of each live picture, by `product/name`."""
        statement = (
            select(Product.product_id, Image.name, Embedding.vector)
            .join(Image, Image.product_pk == Product.pk)
            .join(Embedding, Embedding.content_sha256 == Image.content_sha256, isouter=True)
            .where(~Image.removed)
        )
        with self.database.reading() as session:
            return {f"{id_}/{name}": vector for id_, name, vector in session.execute(statement)}

    def letters(self) -> list[DeadLetter]:
        """All dead letters."""
        with self.database.reading() as session:
            return dead_letters.list_(session)


def job_of(*items: ImageItem | Removal) -> Job:
    """A job with these items."""
    kind = IngestChunk if isinstance(items[0], ImageItem) else RemoveChunk
    return kind.model_validate({"id": new_id(), "accepted_at": time.time(), "items": items})


def item(product_id: str, version: int = 1, path: str | None = None) -> ImageItem:
    """The picture of a product, at a path of the same name."""
    return ImageItem(
        product_id=product_id, image=PathImage(path=path or f"/{product_id}"), version=version
    )


def vector_of(digest: bytes) -> NDArray[np.float32]:
    """float32 [16], unit length: what the network makes of a picture whose decoded form is `digest`."""
    raw = np.frombuffer(digest, np.uint8)[:DIMENSION].astype(np.float32) - 127.5
    return np.asarray(raw / np.linalg.norm(raw), np.float32)


def wanted(product_id: str) -> bytes:
    """The vector that the product's picture must have, as SQL has it."""
    return vector_of(hashlib.sha256(f"/{product_id}".encode()).digest()).astype("<f4").tobytes()
