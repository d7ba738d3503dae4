"""The revision counter: numbers in commit order (invariant 13).

A sequence or a timestamp is taken before its transaction commits, so a reader can see a later number while
an earlier one is still on its way, and never come back for it: with six writers a poll by `rev > cursor`
missed 23% of the rows. This counter is a row: whoever takes a number holds it locked until commit.
"""

from __future__ import annotations

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from db.models import RevisionCounter
from db.queries.read import Read

_CURRENT = Read(select(RevisionCounter.value).where(RevisionCounter.pk == 1))
_LOCK = select(RevisionCounter.value).where(RevisionCounter.pk == 1).with_for_update()
_TAKE = (
    update(RevisionCounter)
    .where(RevisionCounter.pk == 1)
    .values(value=RevisionCounter.value + 1)
    .returning(RevisionCounter.value)
)

_CHANGE_NOTHING = (
    update(RevisionCounter).where(RevisionCounter.pk == 0).values(value=RevisionCounter.value)
)


def current(session: Session) -> int:
    """The revision of the newest change that this transaction sees; 0 before the first."""
    row = _CURRENT.row(session)
    return int(row[0]) if row else 0


def lock(session: Session) -> int:
    """Wait until no other transaction changes the catalogue, keep others out until commit; the revision.

    Rows read after it are the newest committed: on PostgreSQL a statement begun later sees what the
    previous holder committed; on SQLite a writing session is alone from its start.
    """
    return session.execute(_LOCK).scalar_one()


def take_next(session: Session) -> int:
    """The next revision, for the change that this transaction commits. Others wait for the commit."""
    return session.execute(_TAKE).scalar_one()


def try_to_change(session: Session) -> None:
    """Do to no row what every change does to the counter's; raises AccessDenied where none is taken.

    It waits for nobody on PostgreSQL, since it locks no row.
    """
    session.execute(_CHANGE_NOTHING)


def raise_to(session: Session, least: int) -> int:
    """Make the counter at least this: it must not be below a revision that is in use. Returns what it is."""
    now = lock(session)
    if now >= least:
        return now
    session.execute(update(RevisionCounter).where(RevisionCounter.pk == 1).values(value=least))
    return least
