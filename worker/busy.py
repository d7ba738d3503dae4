"""What this process works on at the moment: to notice what does not end, and to give back what cannot be ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from producer.messages import Message


@dataclass(frozen=True, eq=False)
class Task:
    """A message that is being worked on."""

    message: Message
    since: float
    """When it was begun, by the clock of `Busy`."""


class Busy:
    """The messages that are being worked on, by any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tasks: set[Task] = set()
        self._lock = threading.Lock()

    @contextmanager
    def working(self, message: Message) -> Iterator[None]:
        """Count the message while the block runs."""
        task = Task(message, self._clock())
        with self._lock:
            self._tasks.add(task)
        try:
            yield
        finally:
            with self._lock:
                self._tasks.discard(task)

    @property
    def messages(self) -> list[Message]:
        """All of them, the oldest first."""
        return [task.message for task in self._sorted()]

    @property
    def ages(self) -> list[tuple[Message, float]]:
        """All of them and the seconds since they were begun, the oldest first."""
        now = self._clock()
        return [(task.message, now - task.since) for task in self._sorted()]

    def longer_than(self, seconds: float) -> list[Message]:
        """Those that were begun more than so long ago, the oldest first."""
        now = self._clock()
        return [task.message for task in self._sorted() if now - task.since > seconds]

    def _sorted(self) -> list[Task]:
        with self._lock:
            return sorted(self._tasks, key=lambda task: task.since)
