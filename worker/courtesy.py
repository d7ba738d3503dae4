"""Leaves the processors to whoever is waited for: what may take its time runs at a lower priority.

A lower priority cannot be taken back without privileges, so it is for whole processes, or for threads that
end with their work. What is started from there inherits it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

NICENESS = 10


def step_back() -> None:
    """Lower the priority of this thread for good; of the process, when called before it has others."""
    if sys.platform != "linux":
        return  # a priority is the whole process's there, and so of what must be quick, too
    with contextlib.suppress(OSError):  # a container may forbid it
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def aside(work: Callable[[], T]) -> T:
    """Do the work in a thread of lower priority, and wait for it: its result, or what it raises."""
    done: Future[T] = Future()

    def run() -> None:
        step_back()
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    thread = threading.Thread(target=run, name="aside", daemon=True)
    thread.start()
    return done.result()
