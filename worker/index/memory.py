"""How much memory a piece of work took."""

from __future__ import annotations

import resource
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def reset_peak() -> None:
    """Count the peak from here on, where the system lets us; else it is that of the process's whole life."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return


def peak() -> int:
    """Greatest resident memory since `reset_peak`, in bytes."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
