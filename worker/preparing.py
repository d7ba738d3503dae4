"""From items to what can be committed: fetch, decode and embed, each picture for itself (invariant 3)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from db.queries import catalogue
from db.session import Database
from producer import tracing
from producer.messages import ImageItem, ImageRef
from producer.reasons import Reason
from worker.images.decode import Decoded
from worker.images.errors import ImageError
from worker.images.fetch import Picture

log = logging.getLogger(__name__)

FETCH_BUG = "fetching it failed unexpectedly; the worker's log has the trace"
NO_VECTOR = "the network gave no usable vector for this picture"

DecodeMany = Callable[[Sequence[bytes]], Sequence[Decoded | ImageError]]
"""Decodes pictures in order; a bad one is an ImageError in its place."""
Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Embeds uint8 [n, size, size, 3] to unit rows float32 [n, d]; a row without a direction is NaN."""


@dataclass(frozen=True)
class Pictured:
    """An item whose picture was had."""

    item: ImageItem
    sha256: bytes
    """Digest of the picture's bytes: what its embedding is keyed by."""
    source: str
    """Where the bytes came from, fit to be kept."""


@dataclass(frozen=True)
class Refused:
    """An item that cannot be applied now; the error says whether trying again can help."""

    item: ImageItem
    error: ImageError


Vectors = dict[bytes, NDArray[np.float32]]
"""By the digest of a picture's bytes."""


@dataclass(frozen=True)
class Prepared:
    """Items ready to be committed, and what is new to the catalogue, by the digest of a picture's bytes."""

    pictured: Sequence[Pictured] = ()
    refused: Sequence[Refused] = ()
    vectors: Vectors = field(default_factory=dict)
    thumbnails: dict[bytes, bytes] = field(default_factory=dict)
    beside: Mapping[int, Vectors] = field(default_factory=dict)
    """Vectors under further models, by those models' keys."""


@dataclass(frozen=True)
class _Fetched:
    item: ImageItem
    picture: Picture

    @property
    def sha256(self) -> bytes:
        return self.picture.content_sha256


@dataclass(frozen=True)
class _New:
    vectors: Vectors = field(default_factory=dict)
    thumbnails: dict[bytes, bytes] = field(default_factory=dict)
    errors: dict[bytes, ImageError] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """A model that pictures are embedded under besides the active one."""

    model_version_pk: int
    decode_many: DecodeMany
    embed: Embed


@dataclass(frozen=True)
class Preparer:
    """Prepares the pictures of a chunk together. Safe to call from several threads, as its parts are."""

    database: Database
    model_version_pk: int
    fetch: Callable[[ImageRef], Picture]
    decode_many: DecodeMany
    embed: Embed
    executor: Executor
    beside: Sequence[Target] = ()
    """Further models: what fails under one of them only is not refused for it."""

    def prepare(self, items: Sequence[ImageItem]) -> Prepared:
        """Bytes that have a vector already are not embedded again. Raises DatabaseUnavailable, DeviceFailed."""
        fetched, refused = self._fetch(items)
        new = self._embed_unknown(fetched)
        bad = [
            Refused(each.item, new.errors[each.sha256])
            for each in fetched
            if each.sha256 in new.errors
        ]
        pictured = [
            Pictured(each.item, each.sha256, each.picture.source)
            for each in fetched
            if each.sha256 not in new.errors
        ]
        good = {each.sha256: each.picture.data for each in fetched if each.sha256 not in new.errors}
        beside = {each.model_version_pk: self._embed_beside(each, good) for each in self.beside}
        return Prepared(pictured, [*refused, *bad], new.vectors, new.thumbnails, beside)

    def _fetch(self, items: Sequence[ImageItem]) -> tuple[list[_Fetched], list[Refused]]:
        with tracing.span("fetch", lookalike__pictures=len(items)):
            results = list(self.executor.map(self._fetch_one, items))
        return (
            [result for result in results if isinstance(result, _Fetched)],
            [result for result in results if isinstance(result, Refused)],
        )

    def _fetch_one(self, item: ImageItem) -> _Fetched | Refused:
        try:
            return _Fetched(item, self.fetch(item.image))
        except ImageError as error:
            return Refused(item, error)
        except (
            Exception
        ):  # whatever a picture's server makes a library do: it must not cost the chunk
            log.exception("fetching a picture of %r failed", item.product_id)
            return Refused(item, ImageError(Reason.INTERNAL, FETCH_BUG, transient=True))

    def _embed_unknown(self, fetched: Sequence[_Fetched]) -> _New:
        data = {each.sha256: each.picture.data for each in fetched}
        with self.database.reading() as session:
            known = catalogue.known_embeddings(session, data, self.model_version_pk)
        unknown = [digest for digest in data if digest not in known]
        new = _New()
        decoded: dict[bytes, Decoded] = {}
        with tracing.span("decode", lookalike__pictures=len(unknown)):
            results = self.decode_many([data[digest] for digest in unknown])
        for digest, result in zip(unknown, results, strict=True):
            if isinstance(result, ImageError):
                new.errors[digest] = result
            else:
                decoded[digest] = result
        if decoded:
            self._embed(decoded, new)
        return new

    def _embed_beside(self, target: Target, data: Mapping[bytes, bytes]) -> Vectors:
        """Vectors of those bytes that have none under the target; the backfill tells why others got none."""
        with self.database.reading() as session:
            known = catalogue.known_embeddings(session, data, target.model_version_pk)
        unknown = [digest for digest in data if digest not in known]
        results = target.decode_many([data[digest] for digest in unknown])
        decoded = {
            digest: result
            for digest, result in zip(unknown, results, strict=True)
            if not isinstance(result, ImageError)
        }
        if not decoded:
            return {}
        try:
            vectors = target.embed(np.stack([each.pixels for each in decoded.values()]))
        except Exception:  # a model that is only on its way in must not end the work of the other
            log.exception("pictures were not embedded under the model that is rolled out")
            return {}
        pairs = zip(decoded, vectors, strict=True)
        return {digest: vector for digest, vector in pairs if np.isfinite(vector).all()}

    def _embed(self, decoded: dict[bytes, Decoded], new: _New) -> None:
        with tracing.span("model", lookalike__pictures=len(decoded)):
            vectors = self.embed(np.stack([each.pixels for each in decoded.values()]))
        for vector, (digest, picture) in zip(vectors, decoded.items(), strict=True):
            if np.isfinite(vector).all():
                new.vectors[digest] = vector
                new.thumbnails[digest] = picture.thumbnail
            else:
                new.errors[digest] = ImageError(Reason.BAD_VECTOR, NO_VECTOR)
