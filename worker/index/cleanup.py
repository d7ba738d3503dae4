"""Deletes generations that nobody needs: not the newest ones, and none that a process holds (invariant 12).

What SQL does not name is deleted only if its name says that it is of this catalogue: several catalogues may keep
their generations in one folder, and none may take another's for its own litter.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from db.queries import catalogue, generations
from db.session import Database
from worker.index import durable, identity
from worker.index.builder import BUILDING
from worker.index.hold import LOCK

log = logging.getLogger(__name__)

LEAST_KEPT = 2


def clean(
    database: Database, data_dir: Path, keep: int, token: int, *, beginning: bool = False
) -> list[str]:
    """Delete what is left of unfinished builds, and generations beyond the newest `keep`; their names.

    Only whoever holds the lease with `token` may call it. A generation that some process has open stays until
    a later call. At the `beginning` no generation can have been built under the token: one that was is of a time
    which a restored backup has undone.
    """
    own = identity.of(database)
    with database.reading() as session:
        named = {row.directory for row in generations.kept(session)}
    leftovers = strays(data_dir, own, named, token) if own else []
    if own and beginning:
        undone = data_dir.glob(f"generation-*-{own}-{token}")
        leftovers += [path for path in undone if path.name not in named]
    removed = [directory.name for directory in leftovers if _delete(directory)]
    return [*removed, *_surplus(database, data_dir, keep)]


def strays(data_dir: Path, own: str, named: Collection[str], token: int | None) -> list[Path]:
    """Directories of the catalogue `own` that SQL does not name: of builds that crashed, or half deleted.

    What the holder of the lease with `token` is building is none; builders before it have lost their lease.
    """
    found = [*data_dir.glob(f"{BUILDING}{own}-*"), *data_dir.glob(f"generation-*-{own}-*")]
    return sorted(
        path
        for path in found
        if path.name not in named and path.name.rpartition("-")[2] != str(token)
    )


def discard(database: Database, data_dir: Path, number: int) -> bool:
    """Delete a generation that is kept, whatever is left of it; False if it is current, or a process has it open.

    Only whoever holds the lease may call it.
    """
    with database.reading() as session:
        row = generations.get(session, number)
    return row is not None and _remove(database, data_dir / row.directory, number)


def _surplus(database: Database, data_dir: Path, keep: int) -> Iterator[str]:
    with database.reading() as session:
        rows = generations.kept(session)
        current = catalogue.head(session).generation
    for row in rows[max(keep, LEAST_KEPT) :]:
        if row.number != current and _remove(database, data_dir / row.directory, row.number):
            yield row.directory


def _remove(database: Database, directory: Path, number: int) -> bool:
    """Note the generation as deleted and delete it, unless it is current or some process has it open."""
    with _alone(directory) as free:
        if not free:
            return False
        with database.writing() as session:
            marked = generations.mark_removed(session, number)
        if marked:
            shutil.rmtree(directory, ignore_errors=True)
        return marked


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
        # To write: a network file system gives nobody else the lock for himself.
        file = os.fdopen(durable.open_plain(directory / LOCK, os.O_RDWR), "rb")
    except OSError as error:
        # Without a lock file nobody could have opened it; with one that is another user's, nobody knows.
        yield error.errno not in {errno.EACCES, errno.EPERM, errno.EROFS}
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
