"""A chunk's way into the catalogue, with fetching, decoding and the network replaced by what a test says."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from redis import Redis

from db.queries import audit, catalogue, dead_letters, models, revisions
from db.session import Database
from producer.ids import new_id
from producer.ledger import Ledger
from producer.messages import (
    ImageItem,
    ImageRef,
    IngestChunk,
    Outcome,
    PathImage,
    Removal,
    RemoveChunk,
)
from producer.reasons import Reason
from worker.images.decode import Decoded
from worker.images.errors import ImageError
from worker.images.fetch import Picture
from worker.ingest import MAX_ATTEMPTS, Ingester, remove
from worker.preparing import Preparer
from worker.sweep import sweep

DIMENSION = 8


def item(product: str, version: int = 1, name: str = "main") -> ImageItem:
    """One picture of a product, whose bytes are its path."""
    return ImageItem(
        product_id=product, name=name, image=PathImage(path=f"/{product}"), version=version
    )


def chunk(*items: ImageItem, attempt: int = 1) -> IngestChunk:
    """A job of these items."""
    return IngestChunk(id=new_id(), accepted_at=time.time(), attempt=attempt, items=items)


class Bench:
    """An ingester on a real catalogue and ledger, that fails where it is told to."""

    def __init__(self, database: Database, redis: Redis) -> None:
        self.database = database
        self.ledger = Ledger(redis)
        self.fails: dict[str, ImageError] = {}
        self.embedded = 0
        with database.writing() as session:
            self.model = models.register(session, "d" * 64, "test", DIMENSION, {})
        self.preparer = Preparer(
            database=database,
            model_version_pk=self.model.pk,
            fetch=self._fetch,
            decode_many=self._decode,
            embed=self._embed,
            executor=ThreadPoolExecutor(4),
        )
        self.ingester = Ingester(
            database=database,
            ledger=self.ledger,
            model_version_pk=self.model.pk,
            prepare=self.preparer.prepare,
            quarantine=lambda items: pytest.fail("no worker died"),
        )

    def ingest(self, job: IngestChunk) -> Outcome | None:
        """Have a worker take the job; None if there is nothing to do."""
        claim = self.ledger.begin(job)
        return self.ingester.ingest(claim) if claim is not None else None

    def applied(self, job: IngestChunk) -> Outcome:
        """What a worker makes of the job."""
        outcome = self.ingest(job)
        assert outcome is not None
        return outcome

    def remove(self, job: RemoveChunk) -> None:
        """Have a worker take the removal."""
        claim = self.ledger.begin(job)
        if claim is not None:
            remove(self.database, self.ledger, claim)

    def _fetch(self, ref: ImageRef) -> Picture:
        assert isinstance(ref, PathImage)
        if ref.path in self.fails:
            raise self.fails[ref.path]
        return Picture(ref.path.encode(), ref.path)

    def _decode(self, pictures: Sequence[bytes]) -> list[Decoded | ImageError]:
        return [
            Decoded(np.full((4, 4, 3), data[-1], np.uint8), b"thumbnail of " + data, 4, 4)
            for data in pictures
        ]

    def _embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.embedded += len(pixels)
        vectors = np.zeros((len(pixels), DIMENSION), np.float32)
        vectors[np.arange(len(pixels)), pixels[:, 0, 0, 0] % DIMENSION] = 1
        return vectors

    def accept(self, job: IngestChunk) -> IngestChunk:
        """Write the job into the ledger, as a producer does."""
        self.ledger.accept([job])
        return job

    def products(self) -> int:
        """How many products a lookup can find."""
        with self.database.reading() as session:
            return catalogue.count(session).products

    def dead(self) -> Mapping[str, int]:
        """Dead letters by reason."""
        with self.database.reading() as session:
            return dead_letters.count_by_reason(session)


@pytest.fixture
def bench(database: Database, empty_valkey_url: str) -> Bench:
    """A bench on one database and then on the other."""
    return Bench(database, Redis.from_url(empty_valkey_url))


def test_an_applied_chunk_leaves_the_ledger_and_an_outcome(bench: Bench) -> None:
    job = bench.accept(chunk(item("a"), item("b")))
    outcome = bench.applied(job)
    assert outcome.applied == 2
    assert bench.products() == 2
    assert bench.ledger.size() == 0
    assert bench.ledger.outcomes([job.id]) == [outcome]


def test_the_same_bytes_are_embedded_once(bench: Bench) -> None:
    bench.ingest(bench.accept(chunk(item("a"))))
    bench.ingest(bench.accept(chunk(item("a", version=2), item("a", 2, "again"))))
    assert bench.embedded == 1
    with bench.database.reading() as session:
        known = catalogue.known_embeddings(
            session, [hashlib.sha256(b"/a").digest()], bench.model.pk
        )
    assert len(known) == 1


def test_a_vector_that_is_deleted_as_unused_meanwhile_is_made_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`verify --repair` may take it between the look at what is known and the commit."""
    bench.ingest(bench.accept(chunk(item("a"))))
    digest = hashlib.sha256(b"/a").digest()
    decode = bench._decode
    gone: list[int] = []

    def overtaken(pictures: Sequence[bytes]) -> list[Decoded | ImageError]:
        if not gone:
            with bench.database.writing() as session:
                gone.append(audit.delete_embeddings(session, [digest], bench.model.pk))
        return decode(pictures)

    preparer = replace(bench.preparer, decode_many=overtaken)
    bench.ingester = replace(bench.ingester, prepare=preparer.prepare)
    outcome = bench.applied(bench.accept(chunk(item("a", 2), item("b"))))
    assert (gone, outcome.applied) == ([1], 2)
    assert bench.embedded == 1 + 1 + 2  # a; b, for nothing; a and b
    with bench.database.reading() as session:
        assert digest in catalogue.known_embeddings(session, [digest], bench.model.pk)
    assert bench.ledger.size() == 0


def test_a_picture_that_is_embedded_later_than_it_was_stored_is_a_change(bench: Bench) -> None:
    """Whoever follows the revisions must hear that it can be found from now on."""
    bench.ingest(bench.accept(chunk(item("a", 3), item("b", 3))))
    with bench.database.writing() as session:
        digest = hashlib.sha256(b"/a").digest()
        assert audit.delete_embeddings(session, [digest], bench.model.pk) == 1
        before = revisions.current(session)
    bench.ingest(bench.accept(chunk(item("a", 3), item("b", 3))))
    with bench.database.reading() as session:
        (change,) = catalogue.changes_since(session, before, bench.model.pk)
        assert change.vector is not None
        assert revisions.current(session) == before + 1
    bench.ingest(bench.accept(chunk(item("a", 3), item("b", 3))))
    with bench.database.reading() as session:
        assert revisions.current(session) == before + 1


def test_a_passing_error_is_tried_again_later_and_the_rest_is_applied_now(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench.fails["/slow"] = ImageError(Reason.FETCH_TIMEOUT, "too slow", transient=True)
    outcome = bench.applied(bench.accept(chunk(item("good"), item("slow"))))
    assert outcome.applied == 1
    assert bench.products() == 1
    (failure,) = outcome.failures
    assert failure.retried_as is not None
    assert f"tried again as {failure.retried_as}: 1 fetch_timeout" in caplog.text
    assert bench.ledger.missing([failure.retried_as]) == []
    assert bench.ledger.overdue() == []
    assert not bench.dead()

    del bench.fails["/slow"]
    retried: list[IngestChunk] = []
    assert sweep(bench.ledger, collect(retried), now=time.time() + 120) == 1
    bench.ingest(retried[0])
    assert bench.products() == 2
    assert bench.ledger.size() == 0


def collect(into: list[IngestChunk]) -> Callable[[object], None]:
    """A `send` that keeps what is sent."""

    def send(job: object) -> None:
        assert isinstance(job, IngestChunk)
        into.append(job)

    return send


def test_a_passing_error_ends_as_a_dead_letter(bench: Bench) -> None:
    bench.fails["/slow"] = ImageError(Reason.FETCH_TIMEOUT, "too slow", transient=True)
    outcome = bench.applied(bench.accept(chunk(item("slow"), attempt=MAX_ATTEMPTS)))
    assert outcome.failures[0].retried_as is None
    assert bench.dead() == {Reason.FETCH_TIMEOUT: 1}
    assert bench.ledger.size() == 0


def test_a_permanent_error_is_a_dead_letter_at_once_and_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench.fails["/gone"] = ImageError(Reason.NOT_FOUND, "no such file")
    job = bench.accept(chunk(item("gone"), item("good")))
    bench.ingest(job)
    bench.ingest(job)
    assert bench.dead() == {Reason.NOT_FOUND: 1}
    assert bench.products() == 1
    assert f"job {job.id}: given up: 1 not_found" in caplog.text


def test_messages_out_of_order_leave_what_the_newest_says(bench: Bench) -> None:
    removal = RemoveChunk(
        id=new_id(), accepted_at=time.time(), items=(Removal(product_id="a", version=5),)
    )
    bench.ledger.accept([removal])
    bench.remove(removal)
    bench.ingest(bench.accept(chunk(item("a", version=4))))
    assert bench.products() == 0
    bench.ingest(bench.accept(chunk(item("a", version=6))))
    assert bench.products() == 1
    bench.remove(removal)
    assert bench.products() == 1
