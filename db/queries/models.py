"""Model versions: which networks have made vectors, which one makes them now, and which one is to be the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import exists, insert, null, or_, select, update
from sqlalchemy.orm import Session

from db import models as tables
from db.queries import revisions
from db.queries.read import Read

_Table = tables.ModelVersion
_COLUMNS = (_Table.pk, _Table.digest, _Table.name, _Table.dimension, _Table.source)
_ROW = select(*_COLUMNS)
_SERVING = Read(
    select(*_COLUMNS, _Table.active, _Table.incoming, _Table.without_missing)
    .where(or_(_Table.active, _Table.incoming))
    .order_by(_Table.pk)
)


@dataclass(frozen=True)
class ModelVersion:
    """A registered model."""

    pk: int
    digest: str
    name: str
    dimension: int
    source: str | None = None
    """How it was named when it was added: where a host that has no copy may find it."""


@dataclass(frozen=True)
class Serving:
    """The models under which new pictures are embedded."""

    active: ModelVersion | None
    incoming: ModelVersion | None
    """What is being rolled out: the next active one."""
    without_missing: bool = False
    """Whether that may become active though pictures were given up under it."""


@dataclass(frozen=True)
class Registered:
    """A registered model, and what has become of it."""

    model: ModelVersion
    active: bool
    incoming: bool
    without_missing: bool
    comparison: dict[str, Any] | None
    """How the generation that it became active with compares with the one before."""
    created_at: datetime
    retired_at: datetime | None


def register(
    session: Session,
    digest: str,
    name: str,
    dimension: int,
    config: Mapping[str, Any],
    *,
    source: str | None = None,
) -> ModelVersion:
    """The row of the model with this digest, made if new, and active if no model is.

    Two workers that start at the same time agree: the second waits for the first one's commit.
    """
    known = by_digest(session, digest)
    if known is not None:
        return known
    revisions.lock(session)
    return by_digest(session, digest) or _insert(
        session,
        digest=digest,
        name=name,
        dimension=dimension,
        config=dict(config),
        source=source,
    )


def active(session: Session) -> ModelVersion | None:
    """The model under which new pictures are embedded and generations built."""
    return serving(session).active


def serving(session: Session) -> Serving:
    """The active model and the incoming one, in one short statement."""
    now, next_, without_missing = None, None, False
    for pk, digest, name, dimension, source, is_active, is_incoming, without in _SERVING.rows(
        session
    ):
        model = ModelVersion(pk, digest, name, dimension, source)
        now = model if is_active else now
        if is_incoming:
            next_, without_missing = model, bool(without)
    return Serving(now, next_, without_missing)


def first_registered(session: Session) -> tuple[str, datetime] | None:
    """Digest of the catalogue's first model, and when it was registered: what no other catalogue has."""
    row = session.execute(
        select(_Table.digest, _Table.created_at).order_by(_Table.pk).limit(1)
    ).first()
    return (row.digest, row.created_at) if row else None


def by_digest(session: Session, digest: str) -> ModelVersion | None:
    """The model with this digest."""
    row = session.execute(_ROW.where(_Table.digest == digest)).first()
    return ModelVersion(*row) if row else None


def by_pk(session: Session, pk: int) -> ModelVersion | None:
    """The model with this key."""
    row = session.execute(_ROW.where(_Table.pk == pk)).first()
    return ModelVersion(*row) if row else None


def listed(session: Session) -> list[Registered]:
    """All of them, in the order in which they were registered."""
    statement = select(
        *_COLUMNS,
        _Table.active,
        _Table.incoming,
        _Table.without_missing,
        _Table.comparison,
        _Table.created_at,
        _Table.retired_at,
    ).order_by(_Table.pk)
    return [Registered(ModelVersion(*row[:5]), *row[5:]) for row in session.execute(statement)]


def is_retired(session: Session, pk: int) -> bool:
    """Whether its vectors were given up."""
    statement = select(_Table.pk).where(_Table.pk == pk, _Table.retired_at.is_not(None))
    return session.execute(statement).first() is not None


# -- rolling out. Whoever calls these holds the catalogue's lock (`revisions.lock`) until commit. --


def begin_rollout(session: Session, pk: int, *, without_missing: bool) -> None:
    """Make it the incoming one, and no other."""
    end_rollout(session)
    _update(
        session,
        pk,
        incoming=True,
        without_missing=without_missing,
        retired_at=None,
        comparison=null(),
    )


def end_rollout(session: Session) -> None:
    """Have no incoming model."""
    session.execute(update(_Table).where(_Table.incoming).values(incoming=False))


def activate(session: Session, pk: int) -> None:
    """Make it the active one; none is incoming then."""
    end_rollout(session)
    session.execute(update(_Table).where(_Table.active).values(active=False))
    _update(session, pk, active=True)


def retire(session: Session, pk: int) -> None:
    """Note that its vectors are given up."""
    _update(session, pk, retired_at=datetime.now(UTC))


def add_again(session: Session, pk: int, source: str) -> None:
    """It was added, from there: it may be rolled out, also if it was retired."""
    _update(session, pk, retired_at=None, source=source)


def compared(session: Session, pk: int, comparison: Mapping[str, Any]) -> None:
    """Keep how it compares with the model before."""
    _update(session, pk, comparison=dict(comparison))


def _update(session: Session, pk: int, **values: Any) -> None:
    session.execute(update(_Table).where(_Table.pk == pk).values(**values))


def _insert(session: Session, **values: Any) -> ModelVersion:
    some_active = session.execute(select(exists().where(_Table.active))).scalar_one()
    statement = (
        insert(_Table)
        .values(**values, active=not some_active, created_at=datetime.now(UTC))
        .returning(*_COLUMNS)
    )
    return ModelVersion(*session.execute(statement).one())
