"""Dead letters: items given up on, with their reason, kept until requeued or discarded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
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


def list_(session: Session, *, reason: str | None = None, limit: int = 100) -> list[DeadLetter]:
    """The newest first, of one reason or of all."""
    statement = _ROW.order_by(Table.pk.desc()).limit(limit)
    if reason is not None:
        statement = statement.where(Table.reason == reason)
    return [DeadLetter(*row) for row in session.execute(statement)]
