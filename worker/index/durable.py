"""Writing files so that they survive a power cut, and telling whether they did."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path

CHUNK = 1 << 22
PLAIN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""How to open what may be a link, or a pipe, which would wait for a writer."""


def write(path: Path, data: bytes) -> None:
    """Write a file and fsync it."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    """Put a written file on the disk."""
    _sync(path, os.O_RDONLY)


def sync_folder(path: Path) -> None:
    """Put the names in a folder on the disk: a rename lasts only after this."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_plain(path: Path, access: int = os.O_RDONLY) -> int:
    """A descriptor of a file; raises OSError when there is anything else under its name."""
    descriptor = os.open(path, PLAIN | access)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a plain file", str(path))
    return descriptor


def read(path: Path, most: int) -> bytes:
    """At most so many bytes of a file; raises OSError when there is anything else under its name."""
    with os.fdopen(open_plain(path), "rb") as file:
        return file.read(most)


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes; lets other threads run."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
