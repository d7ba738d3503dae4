"""Resident memory of processes, each page divided among those that have it mapped."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path


def proportional(pid: int | str = "self") -> int:
    """Proportional set size of a process in bytes; 0 where /proc does not say, or when it has ended."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    found = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def total(pids: Iterable[int]) -> int:
    """That of several processes together: what they share counts once."""
    return sum(map(proportional, pids))


def family(pid: int) -> list[int]:
    """A process and its children."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        children = ""
    return [pid, *map(int, children.split())]
