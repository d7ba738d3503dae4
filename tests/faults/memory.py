"""What processes hold: memory, open files, and files that nobody cleans up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from tests.faults.hive import HiveWorker

MIB = 1 << 20


def resident(workers: Mapping[str, HiveWorker]) -> dict[str, float]:
    """MiB of each worker that runs, with its children."""
    return {
        role: found for role, worker in workers.items() if (found := of(worker.pid)) is not None
    }


def of(pid: int) -> float | None:
    """MiB that only this process and its children hold (USS); None when it has ended."""
    try:
        process = psutil.Process(pid)
        return sum(each.memory_full_info().uss for each in [process, *process.children(True)]) / MIB
    except psutil.NoSuchProcess:
        return None


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
