"""Index generations, and the pointer that says which one is current (invariant 7)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from db.models import IndexGeneration, IndexPointer, Lease, ModelVersion

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


def next_number(session: Session) -> int:
    """A number above every published generation's, deleted ones included."""
    return (
        session.execute(select(func.coalesce(func.max(IndexGeneration.number), 0))).scalar_one() + 1
    )


def current(session: Session) -> Generation | None:
    """The generation that the pointer names."""
    return _one(session, _ROW.join(IndexPointer, IndexPointer.generation == IndexGeneration.number))


def get(session: Session, number: int) -> Generation | None:
    """The generation of this number, kept or not."""
    return _one(session, _ROW.where(IndexGeneration.number == number))


def kept(session: Session) -> list[Generation]:
    """Generations whose files have not been deleted, newest first."""
    rows = session.execute(
        _ROW.where(IndexGeneration.removed_at.is_(None)).order_by(IndexGeneration.number.desc())
    )
    return [Generation(*row) for row in rows]


def publish(
    session: Session,
    generation: NewGeneration,
    *,
    expected_current: int | None,
    lease_token: int,
    lease: str = LEASE,
) -> bool:
    """Insert the generation and make it current, if nothing has happened since the build began.

    False, and nothing is written, when the pointer no longer names `expected_current`, when somebody with
    a greater token has moved it, when the lease is not held with `lease_token` any more, or when the number
    is taken.
    """
    if not _may_move(session, expected_current, lease_token, lease):
        return False
    if get(session, generation.number) is not None:
        return False
    session.execute(insert(IndexGeneration).values(**asdict(generation)))
    _move(session, generation.number, lease_token)
    return True


def mark_removed(session: Session, number: int, *, at: datetime | None = None) -> bool:
    """Note that the files are about to be deleted; False for the current one, which must stay."""
    _lock_pointer(session)
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


def _may_move(session: Session, expected: int | None, token: int, lease: str) -> bool:
    # Both rows stay locked until commit: what is checked here still holds when it is written.
    held = select(Lease.token).where(
        Lease.name == lease, Lease.token == token, Lease.holder.is_not(None)
    )
    if session.execute(held.with_for_update()).first() is None:
        return False
    generation, newest_token = _lock_pointer(session)
    return bool(generation == expected and newest_token <= token)


def _lock_pointer(session: Session) -> tuple[int | None, int]:
    row = select(IndexPointer.generation, IndexPointer.token).where(IndexPointer.pk == 1)
    generation, token = session.execute(row.with_for_update()).one()
    return generation, token


def _move(session: Session, number: int, token: int) -> None:
    session.execute(
        update(IndexPointer).where(IndexPointer.pk == 1).values(generation=number, token=token)
    )


def _one(session: Session, statement: Any) -> Generation | None:
    row = session.execute(statement).first()
    return Generation(*row) if row else None
