"""Fences: what a worker commits after its claim on a job ran out is refused, once another has begun the job.

A first claim writes nothing here; only whoever takes a job over raises its fence, before anything else. Both sides
hold the revision counter's lock, so that a late commit comes either before the fence or not at all.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.orm import Session

from db.models import JobFence
from db.queries import revisions
from db.queries.read import Read
from db.queries.upsert import insert_new

KEPT = timedelta(days=7)
"""How long a worker may sleep and still meet its fence."""
_TOKEN = Read(select(JobFence.token).where(JobFence.job_id == bindparam("job_id")))


class Fenced(Exception):
    """Another worker has taken the job over: nothing of this one's may be written."""


def raise_(session: Session, job_id: str, token: int, *, now: datetime | None = None) -> None:
    """Refuse every commit of the job with a lower token, from this transaction's commit on."""
    now = now or datetime.now(UTC)
    revisions.lock(session)
    session.execute(delete(JobFence).where(JobFence.raised_at < now - KEPT))
    insert_new(session, JobFence, [{"job_id": job_id, "token": token, "raised_at": now}])
    higher = update(JobFence).where(JobFence.job_id == job_id, JobFence.token < token)
    session.execute(higher.values(token=token, raised_at=now))


def check(session: Session, job_id: str, token: int) -> None:
    """Raise Fenced unless the job may be committed with this token. The last thing before a commit."""
    revisions.lock(session)
    row = _TOKEN.row(session, job_id=job_id)
    if row is not None and row[0] > token:
        raise Fenced(f"job {job_id} was taken over: claim {row[0]} is newer than {token}")
