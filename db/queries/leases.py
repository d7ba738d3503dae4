"""Leases: who may do a long piece of work, with a token that grows with every holder.

Time is the application's UTC clock on both databases: SQLite has no server whose clock could be trusted,
and the same answers on both are worth more than the difference. A clock that is wrong can only hand the
lease over too early or too late; what a late holder writes is refused by its token, not by the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from db.models import Lease
from db.queries.upsert import insert_new


@dataclass(frozen=True)
class Holder:
    """Who has a lease."""

    name: str
    token: int
    expires_at: datetime
    """When it runs out, unless it is renewed."""


def acquire(
    session: Session, name: str, holder: str, ttl: float, *, now: datetime | None = None
) -> int | None:
    """Take the lease for `ttl` seconds unless somebody holds it; its fencing token, or None."""
    now = now or datetime.now(UTC)
    free = {"name": name, "holder": None, "token": 0, "expires_at": None}
    insert_new(session, Lease, [free])
    taken = (
        update(Lease)
        .where(Lease.name == name, or_(Lease.holder.is_(None), Lease.expires_at < now))
        .values(holder=holder, token=Lease.token + 1, expires_at=now + timedelta(seconds=ttl))
        .returning(Lease.token)
    )
    return session.execute(taken).scalar_one_or_none()


def holder(session: Session, name: str, *, now: datetime | None = None) -> Holder | None:
    """Who holds the lease; None when nobody does, or it has run out."""
    now = now or datetime.now(UTC)
    held = select(Lease.holder, Lease.token, Lease.expires_at).where(
        Lease.name == name, Lease.holder.is_not(None), Lease.expires_at >= now
    )
    row = session.execute(held).first()
    return Holder(row.holder or "", row.token, row.expires_at or now) if row else None


def renew(
    session: Session, name: str, token: int, ttl: float, *, now: datetime | None = None
) -> bool:
    """Keep the lease for `ttl` seconds from now; False when another holder has it.

    A lease that has run out and that nobody took is kept: no one else can have worked meanwhile.
    """
    expires_at = (now or datetime.now(UTC)) + timedelta(seconds=ttl)
    return _update_held(session, name, token, expires_at=expires_at)


def release(session: Session, name: str, token: int) -> bool:
    """Give the lease back; False when it was another's already. The token stays, so that it only grows."""
    return _update_held(session, name, token, holder=None, expires_at=None)


def _update_held(session: Session, name: str, token: int, **values: object) -> bool:
    held = (
        update(Lease)
        .where(Lease.name == name, Lease.token == token, Lease.holder.is_not(None))
        .values(**values)
        .returning(Lease.token)
    )
    return session.execute(held).first() is not None
