"""What processes hold: memory, open files, and files that nobody cleans up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from tests.faults.hive import HiveWorker

MIB = 1 << 20


def resident(workers: Mapping[str, HiveWorker]) -> dict[str, float]:
    """MiB that each worker alone holds (USS), and each of the processes that it has started."""
    found = {}
    for role, worker in workers.items():
        for name, process in _family(role, worker.pid):
            try:
                found[name] = process.memory_full_info().uss / MIB
            except psutil.NoSuchProcess:
                continue
    return found


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
