"""Apply a chunk of pictures: fetch, decode, embed, and commit it in one transaction.

One bad picture never fails its chunk (invariant 3): it becomes a dead letter at once when its error is
permanent, and part of a later job when it is not. What the database refuses stays in the ledger.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from db.queries import catalogue, dead_letters
from db.queries.catalogue import ImageChange, NewEmbedding
from db.queries.dead_letters import NewDeadLetter
from db.session import Database
from producer.ledger import Ledger
from producer.messages import (
    ImageItem,
    ImageRef,
    IngestChunk,
    ItemFailure,
    Outcome,
    Reason,
    RemoveChunk,
)
from worker.images.decode import Decoded
from worker.images.errors import ImageError
from worker.images.fetch import Picture

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 5
FETCH_BUG = "fetching it failed unexpectedly; the worker's log has the trace"
NO_VECTOR = "the network gave no usable vector for this picture"

DecodeMany = Callable[[Sequence[bytes]], Sequence[Decoded | ImageError]]
"""Decodes pictures in order; a bad one is an ImageError in its place."""
Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Embeds uint8 [n, size, size, 3] to unit rows float32 [n, d]; a row without a direction is NaN."""


@dataclass(frozen=True)
class Fetched:
    """An item with the bytes of its picture."""

    item: ImageItem
    picture: Picture

    @property
    def sha256(self) -> bytes:
        """Digest of the bytes: what the embedding is keyed by."""
        return self.picture.content_sha256


@dataclass(frozen=True)
class Refused:
    """An item that cannot be applied now, and whether trying again can help."""

    item: ImageItem
    error: ImageError


@dataclass(frozen=True)
class New:
    """What is new to the catalogue, by the digest of the picture's bytes; and what could not be made."""

    vectors: dict[bytes, NDArray[np.float32]] = field(default_factory=dict)
    thumbnails: dict[bytes, bytes] = field(default_factory=dict)
    errors: dict[bytes, ImageError] = field(default_factory=dict)


class _EmbeddingGone(Exception):
    """A vector that was there when the chunk was begun is not there any more."""


@dataclass(frozen=True)
class Ingester:
    """Turns messages about products into rows. Safe to call from several threads, as its parts are."""

    database: Database
    ledger: Ledger
    model_version_pk: int
    fetch: Callable[[ImageRef], Picture]
    decode_many: DecodeMany
    embed: Embed
    executor: Executor

    def ingest(self, chunk: IngestChunk) -> Outcome:
        """Make the chunk's pictures searchable and tell the ledger.

        Raises DatabaseUnavailable when nothing could be committed; the job then stays in the ledger.
        """
        fetched, refused = self._fetch(chunk.items)
        while True:
            try:
                return self._apply(chunk, fetched, refused, self._embed_unknown(fetched))
            except _EmbeddingGone:
                log.info(
                    "job %s: a vector was deleted as unused meanwhile; making it again", chunk.id
                )

    def _apply(
        self,
        chunk: IngestChunk,
        fetched: Sequence[Fetched],
        unfetched: Sequence[Refused],
        new: New,
    ) -> Outcome:
        usable = [each for each in fetched if each.sha256 not in new.errors]
        unusable = [each for each in fetched if each.sha256 in new.errors]
        refused = [
            *unfetched,
            *(Refused(each.item, new.errors[each.sha256]) for each in unusable),
        ]
        again = [each for each in refused if each.error.transient and chunk.attempt < MAX_ATTEMPTS]
        dead = [each for each in refused if each not in again]
        retry = self.ledger.follow_up(chunk, [each.item for each in again]) if again else None
        self._commit(chunk, usable, new, dead)
        failures = [_failure(each, None) for each in dead]
        failures += [_failure(each, retry) for each in again]
        outcome = Outcome(applied=len(usable), failures=tuple(failures))
        self.ledger.clear(chunk, outcome, follow_up=retry)
        return outcome

    def _fetch(self, items: Sequence[ImageItem]) -> tuple[list[Fetched], list[Refused]]:
        results = list(self.executor.map(self._fetch_one, items))
        return (
            [result for result in results if isinstance(result, Fetched)],
            [result for result in results if isinstance(result, Refused)],
        )

    def _fetch_one(self, item: ImageItem) -> Fetched | Refused:
        try:
            return Fetched(item, self.fetch(item.image))
        except ImageError as error:
            return Refused(item, error)
        except (
            Exception
        ):  # whatever a picture's server makes a library do: it must not cost the chunk
            log.exception("fetching a picture of %r failed", item.product_id)
            return Refused(item, ImageError(Reason.INTERNAL, FETCH_BUG, transient=True))

    def _embed_unknown(self, fetched: Sequence[Fetched]) -> New:
        data = {each.sha256: each.picture.data for each in fetched}
        with self.database.reading() as session:
            known = catalogue.known_embeddings(session, data, self.model_version_pk)
        unknown = [digest for digest in data if digest not in known]
        new = New()
        decoded: dict[bytes, Decoded] = {}
        results = self.decode_many([data[digest] for digest in unknown])
        for digest, result in zip(unknown, results, strict=True):
            if isinstance(result, ImageError):
                new.errors[digest] = result
            else:
                decoded[digest] = result
        if decoded:
            self._embed(decoded, new)
        return new

    def _embed(self, decoded: dict[bytes, Decoded], new: New) -> None:
        vectors = self.embed(np.stack([each.pixels for each in decoded.values()]))
        for vector, (digest, picture) in zip(vectors, decoded.items(), strict=True):
            if np.isfinite(vector).all():
                new.vectors[digest] = vector
                new.thumbnails[digest] = picture.thumbnail
            else:
                new.errors[digest] = ImageError(Reason.BAD_VECTOR, NO_VECTOR)

    def _commit(
        self,
        chunk: IngestChunk,
        usable: Sequence[Fetched],
        new: New,
        dead: Sequence[Refused],
    ) -> None:
        embeddings = [
            NewEmbedding(digest, len(vector), vector.astype("<f4").tobytes())
            for digest, vector in new.vectors.items()
        ]
        with self.database.writing() as session:
            catalogue.add_embeddings(session, self.model_version_pk, embeddings)
            catalogue.add_thumbnails(session, list(new.thumbnails.items()))
            dead_letters.add(session, [_dead_letter(chunk, each) for each in dead])
            changes = [_change(each) for each in usable]
            catalogue.apply(session, changes, [], embedded=new.vectors.keys())
            # Under the catalogue's lock: `verify --repair` deletes vectors that nobody used a moment ago.
            known = {each.sha256 for each in usable} - new.vectors.keys()
            if known - catalogue.known_embeddings(session, known, self.model_version_pk):
                raise _EmbeddingGone


def remove(database: Database, ledger: Ledger, chunk: RemoveChunk) -> Outcome:
    """Take products out of the catalogue and tell the ledger.

    Raises DatabaseUnavailable when nothing could be committed; the job then stays in the ledger.
    """
    removals = [catalogue.ProductRemoval(each.product_id, each.version) for each in chunk.items]
    with database.writing() as session:
        catalogue.apply(session, [], removals)
    outcome = Outcome(applied=len(removals))
    ledger.clear(chunk, outcome)
    return outcome


def _failure(refused: Refused, retry: IngestChunk | None) -> ItemFailure:
    return ItemFailure(
        product_id=refused.item.product_id,
        name=refused.item.name,
        reason=refused.error.reason,
        detail=refused.error.detail,
        retried_as=retry.id if retry else None,
    )


def _change(fetched: Fetched) -> ImageChange:
    item = fetched.item
    return ImageChange(
        product_id=item.product_id,
        name=item.name,
        content_sha256=fetched.sha256,
        source=fetched.picture.source,
        category=item.category,
        attributes=dict(item.attributes),
        version=item.version,
    )


def _dead_letter(chunk: IngestChunk, refused: Refused) -> NewDeadLetter:
    return NewDeadLetter(
        job_id=chunk.id,
        product_id=refused.item.product_id,
        name=refused.item.name,
        reason=refused.error.reason,
        detail=refused.error.detail,
        attempts=chunk.attempt,
        message=refused.item.model_dump(mode="json"),
        created_at=datetime.now(UTC),
    )
