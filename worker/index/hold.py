"""The lock by which a process keeps a generation's files from being deleted (invariant 12)."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from worker.index import durable
from worker.index.errors import GenerationMissing

LOCK = "lock"


class Hold:
    """A shared lock on a generation's directory, given back with its last reference.

    Not a file object: that would warn when it is dropped, and being dropped is how a generation is closed, because
    nobody else knows when the last query that uses it has ended.
    """

    def __init__(self, directory: Path) -> None:
        """Raises GenerationMissing when the directory is gone, or about to be."""
        self._descriptor = -1
        path = directory / LOCK
        try:
            self._descriptor = durable.open_plain(path)
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            # Deleted and made anew between the two calls: then the lock is on nothing.
            same = os.path.samestat(os.fstat(self._descriptor), path.stat())
        except OSError as error:
            raise GenerationMissing(f"{directory.name} is not there, or being removed") from error
        if not same:
            raise GenerationMissing(f"{directory.name} was replaced")

    def __del__(self) -> None:
        """Unlock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
