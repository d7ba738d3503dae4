"""Comparing a generation's files with its manifest: all their bytes once on a host, a sample on every open.

Whoever has compared everything leaves a note with what the file system says of each file (inode, size, times of
change). While that is the same, nobody has written to the files since, and a sample of their blocks is enough:
10 GB are read in seconds once, not by every process. Without a note, or with one of other files, everything is
compared.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from worker.index import durable
from worker.index.errors import GenerationDamaged
from worker.index.manifest import Manifest, digest_of

SAMPLES, SAMPLE_BYTES = 64, 4096
"""Blocks of each file that are read on every open: its ends, and others evenly between."""
NOTE_BYTES = 1 << 20
TICK = 0.02
"""Seconds in which a file may change twice at the same time, by a clock that ticks 100 times a second."""


def verify(
    directory: Path, described: Manifest, check_sizes: Callable[[Path, Manifest], None]
) -> None:
    """Compare sizes and either all bytes or, where this host has done so before, a sample of them.

    Raises GenerationDamaged, or OSError when a file cannot be read.
    """
    check_sizes(directory, described)
    before = _look(directory, described)
    noted = _note(directory, described)
    if noted is not None and noted.get("files") == before:
        if noted.get("sample") != _sample(directory, described):
            raise GenerationDamaged(f"{directory.name} differs from what was written")
        return
    _settle(before)
    compare_digests(directory, described)
    sample = _sample(directory, described)
    if _look(directory, described) == before:
        _write_note(directory, described, {"files": before, "sample": sample})


def compare_digests(directory: Path, described: Manifest) -> None:
    """Compare every byte; raises GenerationDamaged."""
    for name, entry in described.files.items():
        if durable.sha256(directory / name) != entry.sha256:
            raise GenerationDamaged(f"{directory.name}/{name} differs from what was written")


def _look(directory: Path, described: Manifest) -> dict[str, list[int]]:
    """What changes when somebody writes to a file, or puts another one in its place."""
    found = {}
    for name in sorted(described.files):
        status = (directory / name).stat()
        found[name] = [
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        ]
    return found


def _settle(files: dict[str, list[int]]) -> None:
    """Let files that have just been written grow older than a tick, so that whoever writes later is noticed."""
    age = time.time() - max(times[-1] for times in files.values()) / 1e9
    if age < TICK:
        time.sleep(min(TICK - age, TICK))  # the file system's clock may be ahead of ours


def _sample(directory: Path, described: Manifest) -> str:
    digest = hashlib.sha256()
    for name in sorted(described.files):
        size = described.files[name].bytes
        last = max(0, size - SAMPLE_BYTES)
        with (directory / name).open("rb", buffering=0) as file:
            for place in sorted({last * i // (SAMPLES - 1) for i in range(SAMPLES)}):
                digest.update(os.pread(file.fileno(), SAMPLE_BYTES, place))
    return digest.hexdigest()


def _note_path(directory: Path) -> Path:
    host = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
    return directory / f"verified-{host}.json"


def _note(directory: Path, described: Manifest) -> dict[str, object] | None:
    try:
        noted = json.loads(durable.read(_note_path(directory), NOTE_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(noted, dict) or noted.get("manifest") != digest_of(described.encoded()):
        return None
    return noted


def _write_note(directory: Path, described: Manifest, noted: dict[str, object]) -> None:
    """Replace the note; a folder that cannot be written to goes without, and is compared whole each time."""
    path = _note_path(directory)
    part = path.with_suffix(f".{os.getpid()}.part")
    _tidy(path)
    try:
        part.write_text(json.dumps({"manifest": digest_of(described.encoded())} | noted), "utf-8")
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)  # on a full disk its beginning is there


def _tidy(path: Path) -> None:
    """Remove what processes of this host left that died while they wrote a note."""
    for part in path.parent.glob(f"{path.stem}.*.part"):
        pid = part.suffixes[-2][1:]
        if not Path(f"/proc/{pid}").exists():
            with contextlib.suppress(OSError):
                part.unlink()
