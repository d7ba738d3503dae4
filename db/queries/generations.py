"""Index generations, and the pointer that says which one is current (invariant 7)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from db.models import IndexGeneration, IndexPointer, Lease, ModelVersion
from db.queries import models, revisions

LEASE = "reindex"
"""Name of the lease that whoever builds a generation holds."""

_COLUMNS = (
    IndexGeneration.number,
    IndexGeneration.model_version_pk,
    IndexGeneration.revision,
    IndexGeneration.images,
    IndexGeneration.directory,
    IndexGeneration.manifest_sha256,
    IndexGeneration.recall,
    IndexGeneration.created_at,
    ModelVersion.digest,
)
_ROW = select(*_COLUMNS).join(ModelVersion, ModelVersion.pk == IndexGeneration.model_version_pk)
_POINTER = select(IndexPointer.generation, IndexPointer.token, IndexPointer.pinned).where(
    IndexPointer.pk == 1
)


@dataclass(frozen=True)
class NewGeneration:
    """A verified build, about to become current."""

    number: int
    model_version_pk: int
    revision: int
    images: int
    directory: str
    """Name of its directory under the data directory."""
    manifest_sha256: str
    recall: float
    created_at: datetime


@dataclass(frozen=True)
class Generation(NewGeneration):
    """A published build."""

    model_digest: str


@dataclass(frozen=True)
class Pointer:
    """Which generation is current."""

    generation: int | None
    token: int
    """Fencing token of who set it."""
    pinned: bool
    """Whether a rollback chose it: only an operator's rebuild replaces it."""


def next_number(session: Session) -> int:
    """A number above every published generation's, deleted ones included."""
    return (
        session.execute(select(func.coalesce(func.max(IndexGeneration.number), 0))).scalar_one() + 1
    )


def current(session: Session) -> Generation | None:
    """The generation that the pointer names."""
    return _one(session, _ROW.join(IndexPointer, IndexPointer.generation == IndexGeneration.number))


def pointer(session: Session) -> Pointer:
    """What the pointer says; raises LookupError when it is not there."""
    row = session.execute(_POINTER).first()
    if row is None:
        raise LookupError("the index pointer has no row: the schema is damaged")
    return Pointer(*row)


def get(session: Session, number: int) -> Generation | None:
    """The generation of this number, kept or not."""
    return _one(session, _ROW.where(IndexGeneration.number == number))


def removed_at(session: Session, number: int) -> datetime | None:
    """When the generation's files were deleted; None while they are kept, and for one that never was."""
    statement = select(IndexGeneration.removed_at).where(IndexGeneration.number == number)
    return session.execute(statement).scalar_one_or_none()


def kept(session: Session) -> list[Generation]:
    """Generations whose files have not been deleted, newest first."""
    rows = session.execute(
        _ROW.where(IndexGeneration.removed_at.is_(None)).order_by(IndexGeneration.number.desc())
    )
    return [Generation(*row) for row in rows]


def candidates(session: Session) -> Iterator[Generation]:
    """What may answer lookups: the current one, then the earlier ones of the same model, newest first."""
    now = current(session)
    if now is None:
        return
    yield now
    for row in kept(session):
        if row.number < now.number and row.model_version_pk == now.model_version_pk:
            yield row


def deleted_among(session: Session, directories: Iterable[str]) -> set[str]:
    """Those of the directories that were of generations which have been noted as deleted."""
    statement = select(IndexGeneration.directory).where(
        IndexGeneration.removed_at.is_not(None), IndexGeneration.directory.in_(sorted(directories))
    )
    return set(session.execute(statement).scalars())


def publish(
    session: Session,
    generation: NewGeneration,
    *,
    expected_current: int | None,
    lease_token: int,
    over_pin: bool = False,
    lease: str = LEASE,
) -> bool:
    """Insert the generation and make it current, if nothing has happened since the build began.

    A generation of the incoming model makes that the active one. False, and nothing is written, when the
    pointer no longer names `expected_current`, when somebody with a greater token has moved it, when the lease
    is not held with `lease_token` any more, when the number is taken, when the pointer is pinned and `over_pin`
    is not given, or when its model is neither the active nor the incoming one. The new one is not pinned.
    """
    now = _lock_pointer(session, expected_current, lease_token, lease)
    if now is None or (now.pinned and not over_pin):
        return False
    if get(session, generation.number) is not None:
        return False
    if not _adopt(session, generation.model_version_pk):
        return False
    session.execute(insert(IndexGeneration).values(**asdict(generation)))
    _move(session, generation.number, lease_token, pinned=False)
    return True


def roll_back(
    session: Session,
    number: int,
    *,
    expected_current: int | None,
    lease_token: int,
    lease: str = LEASE,
) -> bool:
    """Make a generation that is kept current again and pin it, if nothing has happened since it was chosen.

    Its model is the active one then, and no other is incoming. False, and nothing is written, for the same
    reasons as those of `publish`, when its files were deleted, and when its model was retired.
    """
    if _lock_pointer(session, expected_current, lease_token, lease) is None:
        return False
    kept_one = select(IndexGeneration.model_version_pk).where(
        IndexGeneration.number == number, IndexGeneration.removed_at.is_(None)
    )
    model_version_pk = session.execute(kept_one).scalar_one_or_none()
    if model_version_pk is None:
        return False
    revisions.lock(session)
    if models.is_retired(session, model_version_pk):
        return False
    models.activate(session, model_version_pk)
    _move(session, number, lease_token, pinned=True)
    return True


def mark_removed(session: Session, number: int, *, at: datetime | None = None) -> bool:
    """Note that the files are about to be deleted; False for the current one, which must stay."""
    session.execute(_POINTER.with_for_update())
    pointed_at = select(IndexPointer.generation).where(
        IndexPointer.pk == 1, IndexPointer.generation.is_not(None)
    )
    statement = (
        update(IndexGeneration)
        .where(IndexGeneration.number == number, IndexGeneration.number.not_in(pointed_at))
        .where(IndexGeneration.removed_at.is_(None))
        .values(removed_at=at or datetime.now(UTC))
        .returning(IndexGeneration.number)
    )
    return (
        session.execute(statement, execution_options={"synchronize_session": False}).first()
        is not None
    )


def _lock_pointer(session: Session, expected: int | None, token: int, lease: str) -> Pointer | None:
    """The pointer, locked, if it may be moved; None if it names another, or another may move it."""
    # Both rows stay locked until commit: what is checked here still holds when it is written.
    held = select(Lease.token).where(
        Lease.name == lease, Lease.token == token, Lease.holder.is_not(None)
    )
    if session.execute(held.with_for_update()).first() is None:
        return None
    now = Pointer(*session.execute(_POINTER.with_for_update()).one())
    return now if now.generation == expected and now.token <= token else None


def _adopt(session: Session, model_version_pk: int) -> bool:
    """Make the model of a new generation the active one, if it is to be; whether it is."""
    # Under the lock, so that whoever commits a vector under it knows whether lookups are waiting for that.
    revisions.lock(session)
    serving = models.serving(session)
    if serving.incoming is not None and serving.incoming.pk == model_version_pk:
        models.activate(session, model_version_pk)
        return True
    return serving.active is not None and serving.active.pk == model_version_pk


def _move(session: Session, number: int, token: int, *, pinned: bool) -> None:
    session.execute(
        update(IndexPointer)
        .where(IndexPointer.pk == 1)
        .values(generation=number, token=token, pinned=pinned)
    )


def _one(session: Session, statement: Any) -> Generation | None:
    row = session.execute(statement).first()
    return Generation(*row) if row else None
