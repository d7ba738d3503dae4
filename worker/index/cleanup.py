"""Deletes generations that nobody needs: not the newest ones, and none that a process holds (invariant 12).

What SQL does not name is deleted only if its name says that it is of this catalogue: several catalogues may keep
their generations in one folder, and none may take another's for its own litter.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from db.queries import catalogue, generations
from db.session import Database
from worker.index import identity
from worker.index.builder import BUILDING
from worker.index.hold import LOCK

log = logging.getLogger(__name__)

LEAST_KEPT = 2


def clean(database: Database, data_dir: Path, keep: int, token: int) -> list[str]:
    """Delete what is left of unfinished builds, and generations beyond the newest `keep`; their names.

    Only whoever holds the lease with `token` may call it. A generation that some process has open stays until
    a later call.
    """
    own = identity.of(database)
    leftovers = (
        [*_unfinished(data_dir, own, token), *_unknown(database, data_dir, own)] if own else []
    )
    removed = [directory.name for directory in leftovers if _delete(directory)]
    return [*removed, *_surplus(database, data_dir, keep)]


def _unfinished(data_dir: Path, own: str, token: int) -> list[Path]:
    """Directories of builds that crashed; builders before us have lost their lease."""
    return [
        path
        for path in sorted(data_dir.glob(f"{BUILDING}{own}-*"))
        if path.name != f"{BUILDING}{own}-{token}"
    ]


def _unknown(database: Database, data_dir: Path, own: str) -> list[Path]:
    """Directories that SQL does not name: never published, or noted as deleted before they were."""
    with database.reading() as session:
        named = {row.directory for row in generations.kept(session)}
    return [
        path for path in sorted(data_dir.glob(f"generation-*-{own}-*")) if path.name not in named
    ]


def _surplus(database: Database, data_dir: Path, keep: int) -> Iterator[str]:
    with database.reading() as session:
        rows = generations.kept(session)
        current = catalogue.head(session).generation
    for row in rows[max(keep, LEAST_KEPT) :]:
        if row.number == current:
            continue
        directory = data_dir / row.directory
        with _alone(directory) as free:
            if not free:
                continue
            with database.writing() as session:
                marked = generations.mark_removed(session, row.number)
            if marked:
                shutil.rmtree(directory, ignore_errors=True)
                yield row.directory


def _delete(directory: Path) -> bool:
    with _alone(directory) as free:
        if free:
            shutil.rmtree(directory, ignore_errors=True)
            log.info("removed %s", directory.name)
        return free


@contextmanager
def _alone(directory: Path) -> Iterator[bool]:
    """Whether no process has the generation open; none can open it until the block ends."""
    try:
        file = (directory / LOCK).open("rb")
    except OSError:
        yield True  # without a lock file nobody could have opened it
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
