"""Model versions: which networks have made vectors, and which one makes them now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import exists, insert, select
from sqlalchemy.orm import Session

from db import models as tables
from db.queries import revisions

_ROW = select(
    tables.ModelVersion.pk,
    tables.ModelVersion.digest,
    tables.ModelVersion.name,
    tables.ModelVersion.dimension,
)


@dataclass(frozen=True)
class ModelVersion:
    """A registered model."""

    pk: int
    digest: str
    name: str
    dimension: int


def register(
    session: Session, digest: str, name: str, dimension: int, config: Mapping[str, Any]
) -> ModelVersion:
    """The row of the model with this digest, made if new, and active if no model is.

    Two workers that start at the same time agree: the second waits for the first one's commit.
    """
    known = by_digest(session, digest)
    if known is not None:
        return known
    revisions.lock(session)
    return by_digest(session, digest) or _insert(session, digest, name, dimension, config)


def active(session: Session) -> ModelVersion | None:
    """The model under which new pictures are embedded and generations built."""
    row = session.execute(_ROW.where(tables.ModelVersion.active)).first()
    return ModelVersion(*row) if row else None


def first_registered(session: Session) -> tuple[str, datetime] | None:
    """Digest of the catalogue's first model, and when it was registered: what no other catalogue has."""
    table = tables.ModelVersion
    row = session.execute(
        select(table.digest, table.created_at).order_by(table.pk).limit(1)
    ).first()
    return (row.digest, row.created_at) if row else None


def by_digest(session: Session, digest: str) -> ModelVersion | None:
    """The model with this digest."""
    row = session.execute(_ROW.where(tables.ModelVersion.digest == digest)).first()
    return ModelVersion(*row) if row else None


def by_pk(session: Session, pk: int) -> ModelVersion | None:
    """The model with this key."""
    row = session.execute(_ROW.where(tables.ModelVersion.pk == pk)).first()
    return ModelVersion(*row) if row else None


def _insert(
    session: Session, digest: str, name: str, dimension: int, config: Mapping[str, Any]
) -> ModelVersion:
    some_active = session.execute(select(exists().where(tables.ModelVersion.active))).scalar_one()
    statement = (
        insert(tables.ModelVersion)
        .values(
            digest=digest,
            name=name,
            dimension=dimension,
            config=dict(config),
            active=not some_active,
            created_at=datetime.now(UTC),
        )
        .returning(tables.ModelVersion.pk)
    )
    return ModelVersion(session.execute(statement).scalar_one(), digest, name, dimension)
