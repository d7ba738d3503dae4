"""Leaves the processors to whoever is waited for: what may take its time steps back while others ask.

On a small machine a flood of pictures takes the processors' caches and memory from lookups, and a lower priority
gives nothing of that back: measured on two cores, the slowest lookups took two and a half times as long. So while
somebody asks, what floods leaves one processor alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from contextvars import copy_context
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from redis import Redis
from redis.exceptions import RedisError

from producer import keys

log = logging.getLogger(__name__)

T = TypeVar("T")

NICENESS = 10
STAYS = 3.0
"""Seconds after a lookup in which more are expected."""
EVERY = 0.5
"""Seconds between two looks for whoever asks; a lookup is noted at most so often."""


# -- priority -------------------------------------------------------------------------------------


def step_back() -> None:
    """Lower the priority of this thread, and of what it starts, for good.

    It cannot be taken back without privileges: it is for whole processes, or for threads that end with their work.
    """
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

    thread = threading.Thread(target=copy_context().run, args=[run], name="aside", daemon=True)
    thread.start()
    return done.result()


# -- room -----------------------------------------------------------------------------------------


class Visitors:
    """Whether anybody asks, of any process of the service."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._noted = -EVERY

    def note(self) -> None:
        """Somebody does."""
        now = time.monotonic()
        if now - self._noted >= EVERY:
            self._noted = now
            with contextlib.suppress(RedisError):  # who asks must not suffer for it
                self._redis.set(keys.ASKED, b"", px=round(1000 * STAYS))

    def present(self) -> bool:
        """Whether somebody did a moment ago. Raises RedisError."""
        return bool(self._redis.exists(keys.ASKED))


class Courtesy:
    """Keeps this process, and all that it has started, off one processor while anybody asks."""

    def __init__(self, visitors: Visitors) -> None:
        self._visitors = visitors
        self._all = processors()
        self._confined = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="courtesy", daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(EVERY):
            try:
                present = self._visitors.present()
            except RedisError:
                continue
            if present != self._confined:
                self._confined = present
                keep_to(self._all - {min(self._all)} if present else self._all)

    def __enter__(self) -> Self:
        if len(self._all) > 1:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()


def processors() -> frozenset[int]:
    """Those that this process may use; none where nobody can say."""
    return frozenset(os.sched_getaffinity(0)) if sys.platform == "linux" else frozenset()


def keep_to(these: Collection[int]) -> None:
    """Have all threads of this process, and of what it has started, use these processors only."""
    if sys.platform == "linux":
        for thread in _threads(os.getpid()):
            with contextlib.suppress(OSError):  # it has ended
                os.sched_setaffinity(thread, these)


def _threads(process: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{process}/task").iterdir():
            yield int(task.name)
            children = task / "children"  # not every kernel has it
            for child in children.read_text().split() if children.exists() else ():
                yield from _threads(int(child))
