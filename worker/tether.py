"""Ends a child process together with the one that started it, even when that one is killed.

`python -m worker.tether COMMAND…` does it for a program that is not ours, by becoming that program.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PARENT = "LOOKALIKE_PARENT_PID"
_PR_SET_PDEATHSIG = 1


def tether() -> None:
    """Ask Linux for a SIGTERM when the process named by LOOKALIKE_PARENT_PID ends; nothing elsewhere."""
    parent = os.environ.get(PARENT)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it ended before we asked
        raise SystemExit(1)


if __name__ == "__main__":
    tether()
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - the command is our own, no shell is wanted
