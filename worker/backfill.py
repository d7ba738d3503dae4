"""Embeds pictures that are in the catalogue already under a model that has no vector of them.

That is the incoming model, and the active one for what it missed. What is left to do is in SQL itself, so it
resumes after whatever interrupted it. Pictures are read from where they once came, and other bytes there are not
taken. It steps aside for chunks of new pictures, and works a sixth of the time only while somebody asks.
"""

from __future__ import annotations

import hashlib
import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import numpy as np
from pydantic import ValidationError
from redis.exceptions import RedisError

from db.errors import DatabaseError_
from db.queries import backfill, catalogue, models, revisions
from db.queries.backfill import SHARDS, Failure
from db.queries.models import ModelVersion
from db.session import Database
from producer.messages import ImageRef
from producer.reasons import Reason
from worker.errors import DeviceFailed
from worker.images.errors import ImageError
from worker.images.fetch import Picture
from worker.ingest import new
from worker.jobs import MAX_DEATHS
from worker.lease import Lease, LeaseHeld
from worker.preparing import FETCH_BUG, NO_VECTOR, Vectors
from worker.serving import Loaded, Serving
from worker.sources import kept_bytes, reference

log = logging.getLogger(__name__)

CHUNK = 16
"""Pictures of one commit."""
EVERY = 1.0
"""Seconds between two looks for something to do."""
TROUBLE = 15.0
"""Seconds of rest after the network or the database failed."""
LEASE_TTL = 20.0
"""Seconds after which the part of a process that died is taken by another, and what it was at tried again."""
LONGEST_WAIT = 1.0
"""Seconds that a chunk waits for new pictures: in a flood they do not end, and it should go on all the same."""
MAX_ATTEMPTS = 5
FIRST_PAUSE = 4.0
"""Seconds until bytes that could not be had are tried again; doubled each time."""
MAX_SOURCES = 4
"""Places that are tried for the same bytes."""
RESTS = 5.0
"""How many times as long as it worked it rests while somebody asks: more than one lookup in twenty, which would be
slower for it otherwise, must not notice."""
_LATE = "late"


class Cause(StrEnum):
    """Why a picture is given up, besides the reasons that a new one is refused for."""

    OTHER_BYTES = "other_bytes"
    SENT_AS_BYTES = "sent_as_bytes"


KILLED = "a worker ended while it embedded this picture"
OTHER_BYTES = "there are other bytes at {} now: `lookalike add` takes those"
WITHDRAWN = "the network or the database failed meanwhile; it is tried again"
SENT_AS_BYTES = (
    "its bytes came with the message and are not kept: `lookalike sync`, or `add`, sends them again"
)


class _Over(Exception):
    """The model is neither active nor incoming any more."""


@dataclass(frozen=True)
class _Trouble:
    reason: str
    detail: str
    transient: bool


@dataclass
class _Scope:
    """How far a model's vectors are known to be complete."""

    up_to: int | None = None
    """Revision up to which nothing is missing but what failed; None: not looked at yet."""


@dataclass(frozen=True)
class Backfill:
    """Works in a thread of an embedding process, beside those of other processes."""

    database: Database
    serving: Serving
    fetch: Callable[[ImageRef], Picture]
    executor: Executor
    is_busy: Callable[[], bool] = lambda: False
    """Whether new pictures are being embedded in this process."""
    is_asked: Callable[[], bool] = lambda: False
    """Whether anybody asks at the moment; may raise RedisError."""
    _scopes: dict[int, _Scope] = field(default_factory=dict)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Begin."""
        thread = threading.Thread(target=self._run, name="backfill", daemon=True)
        self._threads.append(thread)
        thread.start()

    def stop(self) -> None:
        """End after the chunk that is being worked on."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        pause = EVERY
        while not self._stopping.wait(pause):
            try:
                self.work()
                pause = EVERY
            except (DatabaseError_, DeviceFailed) as error:
                log.warning("embedding again rests for %.0f s: %s", TROUBLE, error)
                pause = TROUBLE
            except Exception:
                log.exception("embedding again failed; it goes on in %.0f s", TROUBLE)
                pause = TROUBLE

    def work(self) -> None:
        """Do all that can be done now, until it is told to stop. Raises DatabaseError_, DeviceFailed."""
        with self.serving.present() as present:
            now = [present.active, *([present.incoming] if present.incoming else [])]
            for pk in self._scopes.keys() - {each.model.pk for each in now}:
                del self._scopes[pk]
            for loaded in now:
                self._complete(loaded, self._scopes.setdefault(loaded.model.pk, _Scope()))

    def _complete(self, loaded: Loaded, scope: _Scope) -> None:
        pk = loaded.model.pk
        with self.database.reading() as session:
            revision = revisions.current(session)
            due = backfill.due(session, pk, datetime.now(UTC), 1)
        done = True
        if due:
            self._part(loaded, _LATE, lambda _: self._due(pk))
        if scope.up_to is None:
            for shard in random.sample(range(SHARDS), SHARDS):
                done &= self._shard(loaded, shard)
        elif scope.up_to < revision:
            since = scope.up_to
            done = self._part(loaded, _LATE, lambda _: self._changed(pk, since))
        if done and not self._stopping.is_set():
            scope.up_to = revision

    # -- parts ------------------------------------------------------------------------------------

    def _shard(self, loaded: Loaded, shard: int) -> bool:
        """Do all of a shard; False where another process is at it."""
        pk = loaded.model.pk

        def find(after: bytes) -> list[bytes]:
            with self.database.reading() as session:
                return backfill.missing(session, pk, shard, after, CHUNK)

        return self._part(loaded, f"{shard:x}", find)

    def _due(self, pk: int) -> list[bytes]:
        """What is to be tried again; alone, if a worker has died with it."""
        now = datetime.now(UTC)
        with self.database.reading() as session:
            alone = backfill.due(session, pk, now, 1, reason=Reason.WORKER_FAILED)
            return alone or backfill.due(session, pk, now, CHUNK)

    def _changed(self, pk: int, since: int) -> list[bytes]:
        with self.database.reading() as session:
            return backfill.missing_since(session, pk, since, CHUNK)

    def _part(self, loaded: Loaded, name: str, find: Callable[[bytes], list[bytes]]) -> bool:
        """Embed what `find` gives until that is nothing; False where another process is at it, or it was ended."""
        after = b""
        if not find(after):  # most often: no lease is needed to see that
            return True
        try:
            with Lease(self.database, f"backfill-{loaded.model.pk}-{name}", ttl=LEASE_TTL) as lease:
                while digests := find(after):
                    if self._stopping.is_set() or lease.lost or not self._serves(loaded.model):
                        return False
                    self._step_aside()
                    began = time.monotonic()
                    self._embed(loaded, digests)
                    self._rest(time.monotonic() - began)
                    after = digests[-1]
        except (LeaseHeld, _Over):
            return False
        return True

    def _serves(self, model: ModelVersion) -> bool:
        with self.database.reading() as session:
            serving = models.serving(session)
        return _is_among(model, serving)

    def _step_aside(self) -> None:
        until = time.monotonic() + LONGEST_WAIT
        while self.is_busy() and time.monotonic() < until and not self._stopping.wait(0.02):
            pass

    def _rest(self, worked: float) -> None:
        try:
            asked = self.is_asked()
        except RedisError:
            return
        if asked:
            self._stopping.wait(RESTS * worked)

    # -- a chunk ----------------------------------------------------------------------------------

    def _embed(self, loaded: Loaded, digests: Sequence[bytes]) -> None:
        begun = self._begin(loaded.model, digests)
        try:
            self._embed_begun(loaded, begun)
        except Exception:  # no picture is to blame for a device or a database
            self._withdraw(loaded.model, begun)
            raise

    def _begin(self, model: ModelVersion, digests: Sequence[bytes]) -> dict[bytes, int]:
        """Note how often they are tried by now: what ends this process is tried alone the next time."""
        begun: dict[bytes, int] = {}
        again_at = datetime.now(UTC) + timedelta(seconds=LEASE_TTL)
        with self.database.writing() as session:
            tried = backfill.tried(session, model.pk, digests)
            notes = []
            for digest in digests:
                reason, attempts = tried.get(digest, ("", 0))
                deadly = reason == Reason.WORKER_FAILED and attempts >= MAX_DEATHS
                if not deadly:
                    begun[digest] = attempts = attempts + 1
                again = None if deadly else again_at
                notes.append(Failure(digest, Reason.WORKER_FAILED, KILLED, attempts, again))
            backfill.note(session, model.pk, notes)
        return begun

    def _withdraw(self, model: ModelVersion, begun: Mapping[bytes, int]) -> None:
        """Leave them to whoever comes next, as if this try had not been: forgotten, nobody would look for them."""
        now = datetime.now(UTC)
        notes = [
            Failure(digest, Reason.UNAVAILABLE, WITHDRAWN, attempts - 1, now)
            for digest, attempts in begun.items()
        ]
        with self.database.writing() as session:
            backfill.note(session, model.pk, notes)

    def _embed_begun(self, loaded: Loaded, begun: dict[bytes, int]) -> None:
        with self.database.reading() as session:
            sources = backfill.sources(session, list(begun))
        troubles: dict[bytes, _Trouble] = {}
        data: dict[bytes, bytes] = {}
        wanted = [digest for digest in begun if digest in sources]
        results = self.executor.map(lambda each: self._had(each, sources[each]), wanted)
        for digest, result in zip(wanted, results, strict=True):
            if isinstance(result, _Trouble):
                troubles[digest] = result
            else:
                data[digest] = result
        vectors = _vectors(loaded, data, troubles)
        failures = [_failure(each, begun[each], troubles[each]) for each in troubles]
        self._commit(loaded.model, begun, vectors, failures)

    def _had(self, digest: bytes, sources: Sequence[str]) -> bytes | _Trouble:
        """The bytes of this digest, from the first source that still has them."""
        troubles = []
        for source in sources[:MAX_SOURCES]:
            found = self._read(digest, source)
            if isinstance(found, bytes):
                return found
            troubles.append(found)
        return next((each for each in troubles if each.transient), troubles[0])

    def _read(self, digest: bytes, source: str) -> bytes | _Trouble:
        try:
            image = reference(source)
            picture = self.fetch(image or kept_bytes(digest))
        except ValidationError:
            return _Trouble(Reason.NOT_FOUND, f"{source!r} is no place to have it from", False)
        except ImageError as error:
            if error.reason is Reason.BYTES_EXPIRED:
                return _Trouble(Cause.SENT_AS_BYTES, SENT_AS_BYTES, False)
            return _Trouble(error.reason, error.detail, error.transient)
        except (
            Exception
        ):  # whatever a picture's server makes a library do: it must not stop the others
            log.exception("a picture could not be fetched again")
            return _Trouble(Reason.INTERNAL, FETCH_BUG, True)
        if hashlib.sha256(picture.data).digest() != digest:
            return _Trouble(Cause.OTHER_BYTES, OTHER_BYTES.format(picture.source), False)
        return picture.data

    def _commit(
        self,
        model: ModelVersion,
        begun: Collection[bytes],
        vectors: Vectors,
        failures: Sequence[Failure],
    ) -> None:
        with self.database.writing() as session:
            catalogue.add_embeddings(session, model.pk, new(vectors))
            # Under the lock that whoever makes a model the active one takes, too: from then on lookups wait for
            # these vectors; before, a new revision would only fill the overlay of the other model's index.
            revisions.lock(session)
            serving = models.serving(session)
            if not _is_among(model, serving):
                raise _Over
            backfill.forget(session, model.pk, begun)
            backfill.note(session, model.pk, failures)
            if serving.active is not None and serving.active.pk == model.pk:
                catalogue.reveal(session, vectors.keys())


def _failure(digest: bytes, tried: int, trouble: _Trouble) -> Failure:
    again = trouble.transient and tried < MAX_ATTEMPTS
    pause = timedelta(seconds=FIRST_PAUSE * 2 ** (tried - 1))
    again_at = datetime.now(UTC) + pause if again else None
    return Failure(digest, trouble.reason, trouble.detail, tried, again_at)


def _is_among(model: ModelVersion, serving: models.Serving) -> bool:
    return model.pk in {each.pk for each in (serving.active, serving.incoming) if each is not None}


def _vectors(loaded: Loaded, data: dict[bytes, bytes], troubles: dict[bytes, _Trouble]) -> Vectors:
    """Decode and embed; what fails joins the troubles."""
    decoded = {}
    results = loaded.embedder.decode_bare(list(data.values()))
    for digest, result in zip(data, results, strict=True):
        if isinstance(result, ImageError):
            troubles[digest] = _Trouble(result.reason, result.detail, result.transient)
        else:
            decoded[digest] = result.pixels
    if not decoded:
        return {}
    vectors: Vectors = {}
    rows = loaded.embedder.embed(np.stack(list(decoded.values())))
    for digest, vector in zip(decoded, rows, strict=True):
        if np.isfinite(vector).all():
            vectors[digest] = vector
        else:
            troubles[digest] = _Trouble(Reason.BAD_VECTOR, NO_VECTOR, False)
    return vectors
