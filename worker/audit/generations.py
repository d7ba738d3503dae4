"""Whether the generations that SQL keeps are what it says of them, whole, and nothing else lies beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session

from db.queries import generations, leases, revisions
from db.queries.generations import LEASE, Generation, Pointer
from db.session import Database
from worker.audit import sight
from worker.audit.findings import EXAMPLES, Flaw, Kind, Tally
from worker.index import cleanup, identity
from worker.index import generation as files
from worker.index import manifest as manifests
from worker.index.errors import (
    GenerationDamaged,
    GenerationMismatch,
    GenerationMissing,
    GenerationRefused,
)
from worker.index.generation import Expected
from worker.index.hold import Hold

TRIES, PAUSE = 5, 0.1
"""Looks at a generation that is missing, and seconds between them."""
_KINDS: dict[type[GenerationRefused], Kind] = {
    GenerationMissing: Kind.GENERATION_MISSING,
    GenerationDamaged: Kind.GENERATION_DAMAGED,
    GenerationMismatch: Kind.GENERATION_MISMATCH,
}


@dataclass(frozen=True)
class Doubles:
    """Pictures of one generation that have several slots."""

    count: int
    first: tuple[Flaw, ...]


@dataclass(frozen=True)
class Kept:
    """What was found of the generations."""

    pointer: Pointer
    points_at_nothing: bool
    """Whether the pointer names one that was deleted."""
    unusable: Mapping[int, tuple[Kind, str]]
    """By generation, what is wrong with it."""
    doubled: Mapping[int, Doubles]
    ahead: Mapping[int, int]
    """Revisions of those that claim to hold changes which there have not been."""
    litter: tuple[str, ...]
    """Names of directories that SQL does not know."""
    serving: int | None
    """What a follower answers from: the current one or, where that cannot be used, an earlier one of its model."""

    @property
    def unfit(self) -> frozenset[int]:
        """Generations that should not be kept."""
        return frozenset({*self.unusable, *self.doubled, *self.ahead})

    def tell(self, tally: Tally) -> None:
        """Count it all."""
        for kind, detail in self.unusable.values():
            tally.add(kind, detail)
        for doubles in self.doubled.values():
            for flaw in doubles.first:
                tally.picture(flaw)
            tally.add(Kind.DOUBLED, count=doubles.count - len(doubles.first))
        tally.add(Kind.REVISION_AHEAD, *(f"generation {number}" for number in self.ahead))
        if self.points_at_nothing:
            tally.add(Kind.POINTER_REMOVED, f"generation {self.pointer.generation}")
        tally.add(Kind.LITTER, *self.litter)


def check(database: Database, data_dir: Path, on_share: Callable[[float], None]) -> Kept:
    """Read every kept generation in full. What is being built, or deleted, meanwhile is left out."""
    strays = _strays(database, data_dir)
    rows = _kept(database)
    unusable: dict[int, tuple[Kind, str]] = {}
    doubled: dict[int, Doubles] = {}
    for done, row in enumerate(rows):
        on_share(done / len(rows))
        try:
            opened = _opened(database, data_dir / row.directory, row)
        except GenerationRefused as error:
            unusable[row.number] = (_kind_of(error), f"generation {row.number}: {error}")
            continue
        if opened is not None and (doubles := _doubles(opened, row.number)):
            doubled[row.number] = doubles
    on_share(1.0)
    # What looked wrong may have been deleted, or published, while the others were read.
    still = {row.number for row in _kept(database)}
    now = _strays(database, data_dir)
    with database.reading() as session:
        pointer = generations.pointer(session)
        counter = revisions.current(session)
        return Kept(
            pointer=pointer,
            points_at_nothing=_is_deleted(session, pointer.generation),
            unusable={number: why for number, why in unusable.items() if number in still},
            doubled={number: each for number, each in doubled.items() if number in still},
            ahead={row.number: row.revision for row in rows if row.revision > counter},
            litter=tuple(path.name for path in strays if path in now and path.exists()),
            serving=_serving(session, unusable),
        )


def _serving(session: Session, unusable: Collection[int]) -> int | None:
    current = generations.current(session)
    if current is None:
        return None
    for row in generations.kept(session):
        earlier = row.number <= current.number and row.model_version_pk == current.model_version_pk
        if earlier and row.number not in unusable:
            return row.number
    return None


def _kind_of(error: GenerationRefused) -> Kind:
    return next(kind for refusal, kind in _KINDS.items() if isinstance(error, refusal))


def _doubles(opened: files.Generation, number: int) -> Doubles | None:
    count = 0
    first: list[Flaw] = []
    for block in sight.doubled(opened):
        count += len(block)
        detail = f"in generation {number}"
        first += [Flaw(pk, Kind.DOUBLED, detail) for pk in block[: EXAMPLES - len(first)]]
    return Doubles(count, tuple(first)) if count else None


def _opened(database: Database, directory: Path, row: Generation) -> files.Generation | None:
    """Read all of it and open it; None if it was deleted meanwhile. Raises GenerationRefused.

    Clean-up locks a generation before it says in SQL that it deletes it: one that is missing is looked at again.
    """
    for tried in range(TRIES):
        try:
            return _read(directory, row)
        except GenerationMissing:
            if row.number not in {each.number for each in _kept(database)}:
                return None
            if tried == TRIES - 1:
                raise
            time.sleep(PAUSE)
    return None


def _read(directory: Path, row: Generation) -> files.Generation:
    """Read all of it, whatever was read of it before, then open it; raises GenerationRefused."""
    try:
        hold = Hold(directory)
        described = manifests.read(directory, row.manifest_sha256)
        files.verify_files(directory, described)
    except OSError as error:
        raise GenerationDamaged(f"{directory.name} cannot be read: {error}") from error
    if (described.revision, described.images) != (row.revision, row.images):
        raise GenerationMismatch(
            f"{directory.name} has {described.images} pictures up to revision {described.revision}, the "
            f"catalogue says {row.images} up to {row.revision}"
        )
    opened = files.Generation.open(
        directory, Expected(row.number, row.model_digest, row.manifest_sha256)
    )
    del hold
    return opened


def _strays(database: Database, data_dir: Path) -> list[Path]:
    """Directories first, then what SQL says: one that is published in between is known by then."""
    own = identity.of(database)
    if own is None:
        return []
    there = {path.name for path in cleanup.strays(data_dir, own, (), None)}
    with database.reading() as session:
        known = {row.directory for row in generations.kept(session)}
        holder = leases.holder(session, LEASE)
        if holder is not None:  # what it noted as deleted, it is deleting
            known |= generations.deleted_among(session, there)
    token = holder.token if holder else None
    return [path for path in cleanup.strays(data_dir, own, known, token) if path.name in there]


def _kept(database: Database) -> list[Generation]:
    with database.reading() as session:
        return generations.kept(session)


def _is_deleted(session: Session, number: int | None) -> bool:
    return number is not None and generations.removed_at(session, number) is not None
