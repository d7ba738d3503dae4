"""Dead letters: items given up on, with their reason, kept until requeued or discarded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session

from db.models import DeadLetter as Table
from db.queries.read import Read, among
from db.queries.upsert import insert_new

_ROW = select(
    Table.job_id,
    Table.product_id,
    Table.name,
    Table.reason,
    Table.detail,
    Table.attempts,
    Table.message,
    Table.created_at,
    Table.pk,
)
_OF_JOBS = Read(
    select(Table.job_id, Table.product_id, Table.name).where(among(Table.job_id, "job_ids"))
)


@dataclass(frozen=True)
class NewDeadLetter:
    """An item about to be given up."""

    job_id: str
    product_id: str | None
    name: str | None
    reason: str
    detail: str
    attempts: int
    message: Mapping[str, Any]
    """The item's own message, as it would be sent again."""
    created_at: datetime


@dataclass(frozen=True)
class DeadLetter(NewDeadLetter):
    """An item given up on."""

    pk: int


@dataclass(frozen=True)
class Which:
    """Some of the dead letters: those for which everything that is given holds; all, if nothing is."""

    pks: tuple[int, ...] = ()
    reason: str | None = None
    product_id: str | None = None
    upto: int | None = None
    """The greatest key: what is given up later has a greater one."""


def add(session: Session, rows: Sequence[NewDeadLetter]) -> None:
    """Keep the rows; an item of a job that is there already is left as it is (a job may come twice)."""
    if not rows:
        return
    # The unique key does not stop a second row whose product or name is NULL: NULLs are distinct in it.
    seen: set[tuple[Any, ...]] = set(_OF_JOBS.rows(session, job_ids=[row.job_id for row in rows]))
    new = []
    for row in rows:
        key = (row.job_id, row.product_id, row.name)
        if key not in seen:
            seen.add(key)
            new.append({**asdict(row), "reason": str(row.reason), "message": dict(row.message)})
    new.sort(key=lambda each: (each["job_id"], each["product_id"] or "", each["name"] or ""))
    insert_new(session, Table, new)


def count_by_reason(session: Session) -> dict[str, int]:
    """How many there are of each reason."""
    rows = session.execute(select(Table.reason, func.count()).group_by(Table.reason))
    return dict(sorted((reason, count) for reason, count in rows))


def list_(session: Session, which: Which | None = None, *, limit: int = 100) -> list[DeadLetter]:
    """The newest first."""
    statement = _chosen(_ROW, which).order_by(Table.pk.desc()).limit(limit)
    return [DeadLetter(*row) for row in session.execute(statement)]


def page(session: Session, which: Which, after: int, limit: int) -> list[DeadLetter]:
    """The oldest first, from beyond the key `after`."""
    statement = _chosen(_ROW, which).where(Table.pk > after).order_by(Table.pk).limit(limit)
    return [DeadLetter(*row) for row in session.execute(statement)]


def count(session: Session, which: Which) -> int:
    """How many there are."""
    return int(session.execute(_chosen(select(func.count(Table.pk)), which)).scalar_one())


def last_key(session: Session) -> int:
    """The key of the newest; 0 when there is none."""
    return session.execute(select(func.max(Table.pk))).scalar_one() or 0


def delete_(session: Session, pks: Sequence[int]) -> int:
    """Forget these; how many of them were still there."""
    done = delete(Table).where(Table.pk.in_(pks)).returning(Table.pk)
    return len(session.execute(done).all())


def keep_newest(session: Session, reason: str, count: int) -> None:
    """Forget the older ones of a reason."""
    oldest = (
        select(Table.pk)
        .where(Table.reason == str(reason))
        .order_by(Table.pk.desc())
        .offset(count - 1)
        .limit(1)
        .scalar_subquery()
    )
    session.execute(delete(Table).where(Table.reason == str(reason), Table.pk < oldest))


def _chosen(statement: Select[Any], which: Which | None) -> Select[Any]:
    if which is None:
        return statement
    if which.pks:
        statement = statement.where(Table.pk.in_(which.pks))
    if which.reason is not None:
        statement = statement.where(Table.reason == which.reason)
    if which.product_id is not None:
        statement = statement.where(Table.product_id == which.product_id)
    if which.upto is not None:
        statement = statement.where(Table.pk <= which.upto)
    return statement
