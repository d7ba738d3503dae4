"""Vectors that the catalogue lacks under a model, and what could not be embedded from where it once came.

What is left to do is read out of the tables themselves, so that it resumes after whatever interrupted it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, delete, exists, func, insert, select, update
from sqlalchemy.orm import Session

from db.models import BackfillFailure, Embedding, Image
from db.queries import catalogue

SHARDS = 16
"""Parts by the first four bits of a digest, so that several workers share the work."""


@dataclass(frozen=True)
class Failure:
    """Bytes that could not be embedded."""

    content_sha256: bytes
    reason: str
    detail: str
    attempts: int
    again_at: datetime | None
    """When to try again; None: given up."""


@dataclass(frozen=True)
class Progress:
    """How much of the catalogue is embedded under a model, in live pictures."""

    images: int
    embedded: int
    given_up: dict[str, int]
    """By reason."""

    @property
    def waiting(self) -> int:
        """Pictures that are neither embedded nor given up."""
        return self.images - self.embedded - sum(self.given_up.values())


def missing(
    session: Session, model_version_pk: int, shard: int, after: bytes, limit: int
) -> list[bytes]:
    """Bytes of live pictures of a shard without a vector, ascending from beyond `after`; no failed ones."""
    least = bytes([shard << 4])
    beyond = Image.content_sha256 > after if after else Image.content_sha256 >= least
    parts = [beyond, _untried(model_version_pk)]
    if shard < SHARDS - 1:
        parts.append(Image.content_sha256 < bytes([(shard + 1) << 4]))
    return _digests(session, model_version_pk, parts, limit)


def missing_since(
    session: Session, model_version_pk: int, revision: int, limit: int
) -> list[bytes]:
    """As `missing`, of the pictures that changed after `revision`, in the order in which they did."""
    statement = (
        select(Image.content_sha256)
        .where(
            Image.removed.is_(False),
            ~_embedded(model_version_pk),
            Image.revision > revision,
            _untried(model_version_pk),
        )
        .order_by(Image.revision)
        .limit(limit)
    )
    return list(dict.fromkeys(session.execute(statement).scalars()))


def due(
    session: Session, model_version_pk: int, now: datetime, limit: int, *, reason: str | None = None
) -> list[bytes]:
    """Bytes that failed before, for this reason or any, and are to be tried again."""
    table = BackfillFailure
    tried = select(table.content_sha256).where(
        table.model_version_pk == model_version_pk, table.again_at <= now
    )
    if reason is not None:
        tried = tried.where(table.reason == reason)
    return list(session.execute(tried.order_by(table.again_at).limit(limit)).scalars())


def sources(session: Session, digests: Sequence[bytes]) -> dict[bytes, list[str]]:
    """Where the bytes of live pictures came from, by their digest; nothing of those that are gone."""
    statement = (
        select(Image.content_sha256, Image.source)
        .where(Image.content_sha256.in_(digests), Image.removed.is_(False))
        .order_by(Image.pk)
    )
    found: dict[bytes, list[str]] = {}
    for digest, source in session.execute(statement):
        known = found.setdefault(digest, [])
        if source not in known:
            known.append(source)
    return found


def is_complete(session: Session, model_version_pk: int, *, without_missing: bool) -> bool:
    """Whether every live picture has a vector under the model, those aside that may be missing."""
    lacking = [Image.removed.is_(False), ~_embedded(model_version_pk)]
    if without_missing:
        lacking.append(~_given_up(model_version_pk))
    return session.execute(select(Image.pk).where(*lacking).limit(1)).first() is None


def progress(session: Session, model_version_pk: int) -> Progress:
    """Count it all: for a catalogue of a million pictures it takes some seconds."""
    given_up = (
        select(BackfillFailure.reason, func.count())
        .join(Image, Image.content_sha256 == BackfillFailure.content_sha256)
        .where(
            BackfillFailure.model_version_pk == model_version_pk,
            BackfillFailure.again_at.is_(None),
            Image.removed.is_(False),
            ~_embedded(model_version_pk),
        )
        .group_by(BackfillFailure.reason)
        .order_by(BackfillFailure.reason)
    )
    return Progress(
        images=catalogue.count(session).images,
        embedded=catalogue.count_embedded(session, model_version_pk),
        given_up={row[0]: row[1] for row in session.execute(given_up)},
    )


def tried(
    session: Session, model_version_pk: int, digests: Collection[bytes]
) -> dict[bytes, tuple[str, int]]:
    """Of the bytes among these that failed: why at last, and how often they were tried."""
    table = BackfillFailure
    statement = select(table.content_sha256, table.reason, table.attempts).where(
        *_of(model_version_pk, digests)
    )
    return {row[0]: (row[1], row[2]) for row in session.execute(statement)}


def given_up(session: Session, model_version_pk: int, digests: Collection[bytes]) -> set[bytes]:
    """Which of these bytes are given up under the model."""
    statement = select(BackfillFailure.content_sha256).where(
        *_of(model_version_pk, digests), BackfillFailure.again_at.is_(None)
    )
    return set(session.execute(statement).scalars())


def note(session: Session, model_version_pk: int, failures: Sequence[Failure]) -> None:
    """Keep why these failed, in the place of what was known of them."""
    forget(session, model_version_pk, [each.content_sha256 for each in failures])
    rows = [
        {
            "model_version_pk": model_version_pk,
            "content_sha256": each.content_sha256,
            "reason": each.reason,
            "detail": each.detail,
            "attempts": each.attempts,
            "again_at": each.again_at,
        }
        for each in sorted(failures, key=lambda each: each.content_sha256)
    ]
    if rows:
        session.execute(insert(BackfillFailure), rows)


def forget(session: Session, model_version_pk: int, digests: Collection[bytes]) -> None:
    """They did not fail, or nobody wants them any more."""
    if digests:
        session.execute(delete(BackfillFailure).where(*_of(model_version_pk, digests)))


def forget_all(session: Session, model_version_pk: int) -> None:
    """Forget everything that failed under a model."""
    table = BackfillFailure
    session.execute(delete(table).where(table.model_version_pk == model_version_pk))


def try_all_again(session: Session, model_version_pk: int, now: datetime) -> None:
    """Whatever failed, or was given up, under the model is tried again from now on."""
    table = BackfillFailure
    session.execute(
        update(table)
        .where(table.model_version_pk == model_version_pk)
        .values(attempts=0, again_at=now)
    )


def count_vectors(session: Session, model_version_pk: int) -> int:
    """How many there are of a model, of removed pictures, too."""
    table = Embedding
    statement = select(func.count()).where(table.model_version_pk == model_version_pk)
    return session.execute(statement).scalar_one()


def delete_vectors(
    session: Session, model_version_pk: int, after: bytes, limit: int
) -> tuple[int, bytes]:
    """Delete so many vectors of a model, beyond a digest; how many there were, and the digest of the last."""
    table = Embedding
    of_model = table.model_version_pk == model_version_pk
    some = (
        select(table.content_sha256)
        .where(table.content_sha256 > after, of_model)
        .order_by(table.content_sha256)
        .limit(limit)
    )
    digests = list(session.execute(some).scalars())
    if not digests:
        return 0, after
    within = table.content_sha256.between(digests[0], digests[-1])
    session.execute(delete(table).where(within, of_model))
    return len(digests), digests[-1]


# -- conditions -----------------------------------------------------------------------------------


def _digests(
    session: Session, model_version_pk: int, parts: Iterable[ColumnElement[bool]], limit: int
) -> list[bytes]:
    statement = (
        select(Image.content_sha256)
        .distinct()
        .where(Image.removed.is_(False), ~_embedded(model_version_pk), *parts)
        .order_by(Image.content_sha256)
        .limit(limit)
    )
    return list(session.execute(statement).scalars())


def _embedded(model_version_pk: int) -> ColumnElement[bool]:
    return exists().where(
        Embedding.content_sha256 == Image.content_sha256,
        Embedding.model_version_pk == model_version_pk,
    )


def _given_up(model_version_pk: int) -> ColumnElement[bool]:
    return exists().where(_failed(model_version_pk), BackfillFailure.again_at.is_(None))


def _untried(model_version_pk: int) -> ColumnElement[bool]:
    """What failed is left to `due`."""
    return ~exists().where(_failed(model_version_pk))


def _failed(model_version_pk: int) -> ColumnElement[bool]:
    return and_(
        BackfillFailure.content_sha256 == Image.content_sha256,
        BackfillFailure.model_version_pk == model_version_pk,
    )


def _of(model_version_pk: int, digests: Collection[bytes]) -> tuple[ColumnElement[bool], ...]:
    table = BackfillFailure
    return (
        table.model_version_pk == model_version_pk,
        table.content_sha256.in_(sorted(digests)),
    )
