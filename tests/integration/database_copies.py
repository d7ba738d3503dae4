"""Copies of a database that has been filled once, for tests that need a fresh one hundreds of times."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.engine import make_url

from tests.services import DatabaseFactory


@contextmanager
def copy_of(databases: DatabaseFactory, url: str) -> Iterator[str]:
    """URL of a copy of the database at `url`, which nobody may have open."""
    name = f"copy_{uuid.uuid4().hex}"
    source = make_url(url)
    assert source.database is not None
    if databases.postgres is not None:
        yield databases.postgres.create(name, source.database)
        databases.postgres.drop(name)
        return
    path = databases.folder / f"{name}.db"
    shutil.copy(source.database, path)
    yield source.set(database=str(path)).render_as_string()
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
