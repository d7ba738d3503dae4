"""Go back to a generation that is kept: verified whole, moved by compare-and-set, and pinned.

Whoever rolls back holds the lease of the builds, so that none of them can publish over it. The pin keeps the
service from building over it a few seconds later; `lookalike-worker reindex` takes it off.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from db.queries import catalogue, generations, models
from db.queries.generations import LEASE, Generation
from db.queries.models import ModelVersion
from db.session import Database
from worker.index import builder
from worker.index import generation as opened
from worker.index import manifest as manifests
from worker.index.errors import CheckFailed, GenerationRefused, IndexError_
from worker.index.hold import Hold
from worker.lease import TTL, Lease, LeaseHeld, LeaseLost

log = logging.getLogger(__name__)


class RollbackRefused(IndexError_):
    """The pointer stays where it is."""


@dataclass(frozen=True)
class RolledBack:
    """A generation that is current again."""

    number: int
    replaced: int
    revision: int
    images: int
    recall: float
    built_at: datetime
    pending: int
    """Changes since its revision, which lookups take from the overlay."""
    model_digest: str
    other_model: bool
    """Whether that is another model than before."""
    ended_rollout: str | None
    """Name of the model that was being rolled out, which is over."""


@dataclass(frozen=True)
class _Choice:
    current: Generation
    target: Generation


def rollback(
    database: Database, data_dir: Path, number: int | None = None, *, lease_ttl: float = TTL
) -> RolledBack:
    """Make a kept generation current again, the newest one below the current if no number is given, and pin it.

    If it is of another model, that is the active one from then on; a rollout that is under way is over. It is
    read in full and tried in a child process before. Raises RollbackRefused, which says why and what there is
    instead; DatabaseUnavailable. The pointer then names what it named.
    """
    try:
        with Lease(database, LEASE, ttl=lease_ttl) as lease:
            choice = _choose(database, number)
            directory = data_dir / choice.target.directory
            hold = _verified(directory, choice.target)
            _check(lease)
            incoming = _move(database, choice, lease.token)
            del hold  # until here, nobody could delete it
    except LeaseHeld as held:
        raise RollbackRefused(
            f"not rolled back: a build, or another rollback, is running: {held}; wait for it or stop it, "
            "then try again"
        ) from held
    log.info("rolled back from generation %s to %s", choice.current.number, choice.target.number)
    return _described(database, choice, incoming)


# -- which one ------------------------------------------------------------------------------------


def _choose(database: Database, number: int | None) -> _Choice:
    with database.reading() as session:
        current = generations.current(session)
        if current is None:
            raise RollbackRefused("there is no index yet: nothing to roll back to")
        kept = generations.kept(session)
        retired = {each.model.pk for each in models.listed(session) if each.retired_at}
        if number is None:
            return _Choice(current, _newest_below(current, retired, kept))
        target = generations.get(session, number)
        removed_at = generations.removed_at(session, number)
    if target is None:
        raise RollbackRefused(f"there is no generation {number}: {_there_are(kept, current)}")
    if target.number == current.number:
        raise RollbackRefused(f"generation {number} is current already")
    if removed_at is not None:
        raise RollbackRefused(
            f"generation {number} was deleted at {removed_at:%Y-%m-%d %H:%M} UTC "
            f"(LOOKALIKE_KEEP_GENERATIONS says how many are kept): {_there_are(kept, current)}"
        )
    if target.model_version_pk in retired:
        raise RollbackRefused(
            f"generation {number} is of a model that was retired ({target.model_digest[:12]}): its vectors "
            "are gone"
        )
    return _Choice(current, target)


def _newest_below(
    current: Generation, retired: Collection[int], kept: Sequence[Generation]
) -> Generation:
    earlier = [row for row in kept if row.number < current.number]
    if not earlier:
        raise RollbackRefused(
            f"no generation below the current one, {current.number}, is kept "
            "(LOOKALIKE_KEEP_GENERATIONS says how many are)"
        )
    usable = [row for row in earlier if row.model_version_pk not in retired]
    if not usable:
        raise RollbackRefused(
            f"every generation that is kept below the current one, {current.number}, is of a model that "
            "was retired"
        )
    return usable[0]


def _there_are(kept: Sequence[Generation], current: Generation) -> str:
    others = [str(row.number) for row in kept if row.number != current.number]
    return f"kept are {', '.join(others)}" if others else "no other one is kept"


# -- whether it can be used -----------------------------------------------------------------------


def _verified(directory: Path, row: Generation) -> Hold:
    """Read every byte, then try it in a process that may die of it; what keeps it from being deleted."""
    try:
        hold = Hold(directory)
        described = manifests.read(directory, row.manifest_sha256)
        opened.verify_files(directory, described)
        builder.check_in_child(directory, row.manifest_sha256)
    except (GenerationRefused, CheckFailed, OSError) as error:
        raise RollbackRefused(
            f"generation {row.number} cannot be used: {error}; name another one, or build a new one with "
            "`lookalike-worker reindex`"
        ) from error
    return hold


# -- moving the pointer ---------------------------------------------------------------------------


def _check(lease: Lease) -> None:
    try:
        lease.check()
    except LeaseLost as error:
        raise RollbackRefused(f"not rolled back: {error}; try again") from error


def _move(database: Database, choice: _Choice, token: int) -> ModelVersion | None:
    """Move the pointer; the model whose rollout that ends, if one was under way."""
    with database.writing() as session:
        incoming = models.serving(session).incoming
        moved = generations.roll_back(
            session,
            choice.target.number,
            expected_current=choice.current.number,
            lease_token=token,
        )
    if not moved:
        raise RollbackRefused(
            "not rolled back: another generation became current meanwhile, the lease was lost, or the model was "
            "retired; look at `lookalike status`, then try again"
        )
    return incoming


def _described(database: Database, choice: _Choice, incoming: ModelVersion | None) -> RolledBack:
    row = choice.target
    with database.reading() as session:
        pending = catalogue.count_changes_since(session, row.revision)
    return RolledBack(
        number=row.number,
        replaced=choice.current.number,
        revision=row.revision,
        images=row.images,
        recall=row.recall,
        built_at=row.created_at,
        pending=pending,
        model_digest=row.model_digest,
        other_model=row.model_version_pk != choice.current.model_version_pk,
        ended_rollout=incoming.name if incoming is not None else None,
    )
