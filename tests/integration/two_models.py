"""A catalogue that goes over from one model to another, with networks that take no time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from db.models import BackfillFailure, Embedding, Image, Product
from db.queries import catalogue, models, revisions
from db.queries.catalogue import ImageChange, NewEmbedding
from db.queries.models import ModelVersion
from db.session import Database
from producer.messages import BytesImage, ImageRef, PathImage
from producer.reasons import Reason
from worker.backfill import Backfill
from worker.embedder import Embedder
from worker.errors import DeviceFailed
from worker.images.decode import Decoded
from worker.images.errors import ImageError
from worker.images.fetch import Picture
from worker.serving import Serving

DIMENSION = 16
OLD, NEW = "d" * 64, "e" * 64


def vector_of(data: bytes, digest: str) -> NDArray[np.float32]:
    """What the model of that digest makes of a picture: unit length, and unlike another model's."""
    raw = np.frombuffer(hashlib.sha256(digest.encode() + data).digest(), np.uint8)[:DIMENSION]
    row = raw.astype(np.float32) - 127.5
    return np.asarray(row / np.linalg.norm(row), np.float32)


class Network:
    """Embeds as `vector_of` says. A picture says by its bytes how it behaves."""

    busy_for = 0.0
    network = SimpleNamespace(device="cpu")

    def __init__(self, digest: str, broken: Callable[[], bool] = lambda: False) -> None:
        self.digest = digest
        self.embedded: list[bytes] = []
        self.closed = False
        self._broken = broken
        self._pictures: dict[int, bytes] = {}

    def decode_bare(self, pictures: Sequence[bytes]) -> list[Decoded | ImageError]:
        """One number for each, by which `embed` knows it."""
        found: list[Decoded | ImageError] = []
        for data in pictures:
            if b"corrupt" in data:
                found.append(ImageError(Reason.CORRUPT_IMAGE, "it is broken"))
                continue
            number = len(self._pictures)
            self._pictures[number] = data
            found.append(Decoded(np.array([number], np.int64).view(np.uint8), b"", 1, 1))
        return found

    def decode_many(self, pictures: Sequence[bytes]) -> list[Decoded | ImageError]:
        """The same."""
        return self.decode_bare(pictures)

    def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """A row for each; NaN for one that gives no direction."""
        if self._broken():
            raise DeviceFailed("the network failed on cpu")
        rows = []
        for each in pixels:
            data = self._pictures[int(each.view(np.int64)[0])]
            self.embedded.append(data)
            bad = b"blank" in data
            rows.append(np.full(DIMENSION, np.nan) if bad else vector_of(data, self.digest))
        return np.asarray(rows, np.float32)

    def embed_picture(self, image: ImageRef) -> NDArray[np.float32]:
        """Of a path, whose name is the picture."""
        assert isinstance(image, PathImage)
        return vector_of(image.path.encode(), self.digest)

    def close(self) -> None:
        """It is not needed any more."""
        self.closed = True


def as_embedder(network: Network) -> Embedder:
    """For whoever wants a real one."""
    return cast(Embedder, network)


@dataclass
class TwoModels:
    """A catalogue of an old model, in which a new one is registered; and the files that its pictures came from."""

    database: Database
    files: dict[str, bytes] = field(default_factory=dict)
    slow: set[str] = field(default_factory=set)
    """Paths that cannot be read at the moment."""
    networks: dict[str, Network] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with self.database.writing() as session:
            self.old = models.register(session, OLD, "old", DIMENSION, {})
            self.new = models.register(session, NEW, "new", DIMENSION, {})

    def add(self, product_id: str, source: str | None = None, data: bytes | None = None) -> None:
        """Commit a picture as a worker does that knows the old model only."""
        source = source or f"/{product_id}"
        data = data or source.encode()
        self.files.setdefault(source, data)
        digest = hashlib.sha256(data).digest()
        change = ImageChange(product_id, "main", digest, source, "c", {}, 1)
        with self.database.writing() as session:
            catalogue.add_embeddings(session, self.old.pk, [stored(data, OLD)])
            catalogue.apply(session, [change], [])

    def begin(self, *, without_missing: bool = False) -> None:
        """Roll the new model out."""
        with self.database.writing() as session:
            revisions.lock(session)
            models.begin_rollout(session, self.new.pk, without_missing=without_missing)

    def fetch(self, image: ImageRef) -> Picture:
        """From the files."""
        if isinstance(image, BytesImage):
            raise ImageError(Reason.BYTES_EXPIRED, "the picture's bytes expired")
        assert isinstance(image, PathImage)
        if image.path in self.slow:
            raise ImageError(Reason.FETCH_TIMEOUT, "too slow", transient=True)
        if image.path not in self.files:
            raise ImageError(Reason.NOT_FOUND, "there is no such file")
        return Picture(self.files[image.path], image.path)

    def load(self, model: ModelVersion) -> Embedder:
        """The network of a model, made anew."""
        self.networks[model.digest] = Network(model.digest)
        return as_embedder(self.networks[model.digest])

    def serving(self) -> Serving:
        """What a process knows now; it does not follow."""
        found = Serving(self.database, self.load)
        found.look()
        return found

    def backfill(self, **options: Any) -> Backfill:
        """One of a process that has just started."""
        return Backfill(self.database, self.serving(), self.fetch, ThreadPoolExecutor(2), **options)

    # -- what there is ----------------------------------------------------------------------------

    def embedded(self, digest: str = NEW) -> set[str]:
        """Products whose picture has the right vector under a model."""
        model = self.new if digest == NEW else self.old
        statement = (
            select(Product.product_id, Image.source, Embedding.vector)
            .join(Image, Image.product_pk == Product.pk)
            .join(Embedding, Embedding.content_sha256 == Image.content_sha256)
            .where(Embedding.model_version_pk == model.pk, ~Image.removed)
        )
        with self.database.reading() as session:
            rows = session.execute(statement).all()
        for id_, source, vector in rows:
            assert vector == stored(self.files[source], digest).vector, id_
        return {row[0] for row in rows}

    def failures(self) -> dict[str, tuple[str, int, bool]]:
        """Reason, attempts, and whether it is given up, of each source whose bytes failed."""
        table = BackfillFailure
        statement = select(Image.source, table.reason, table.attempts, table.again_at).join(
            table, table.content_sha256 == Image.content_sha256
        )
        with self.database.reading() as session:
            rows = session.execute(statement).all()
        return {source: (reason, count, again is None) for source, reason, count, again in rows}

    def revision(self) -> int:
        """Of the catalogue."""
        with self.database.reading() as session:
            return revisions.current(session)


def stored(data: bytes, digest: str) -> NewEmbedding:
    """As SQL has it."""
    vector = vector_of(data, digest).astype("<f4").tobytes()
    return NewEmbedding(hashlib.sha256(data).digest(), DIMENSION, vector)
