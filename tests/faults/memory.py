"""What processes hold: memory, open files, and files that nobody cleans up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from tests.faults.hive import HiveWorker

MIB = 1 << 20


def resident(workers: Mapping[str, HiveWorker]) -> dict[str, float]:
    """MiB that each worker holds, and each of the processes that it has started.

    Without the files that it maps, which the kernel can drop. The sums of /proc/PID/smaps would be finer, but to
    make them stops the process: every tenth lookup of a flood waited for that.
    """
    found = {}
    for role, worker in workers.items():
        for name, process in _family(role, worker.pid):
            with suppress(FileNotFoundError, ProcessLookupError):
                found[name] = _held(process.pid)
    return found


def _held(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    sizes = [line.split()[1] for line in lines if line.startswith(("RssAnon:", "RssShmem:"))]
    return sum(map(int, sizes)) * 1024 / MIB


def _family(role: str, pid: int) -> list[tuple[str, psutil.Process]]:
    try:
        worker = psutil.Process(pid)
        children = [(f"{role}'s {each.pid}", each) for each in worker.children(True)]
    except psutil.NoSuchProcess:
        return []
    return [(role, worker), *children]


def open_files(workers: Mapping[str, HiveWorker]) -> dict[str, int]:
    """File descriptors of each worker that runs."""
    found = {}
    for role, worker in workers.items():
        try:
            found[role] = psutil.Process(worker.pid).num_fds()
        except psutil.NoSuchProcess:
            continue
    return found


def files(folders: Sequence[Path]) -> int:
    """How many files and folders lie in these."""
    return sum(1 for folder in folders for _ in folder.rglob("*"))
