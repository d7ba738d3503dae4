"""Back-pressure: how many more jobs the service may be given, and what to do when there are none."""

from __future__ import annotations

import time
from typing import Literal

from producer import checks
from producer.errors import QueueFull
from producer.transport import Transport

WhenFull = Literal["wait", "raise"]
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5


class Room:
    """How many more jobs the service may be given, and what to do when there are none."""

    def __init__(
        self, transport: Transport, most: int, when_full: WhenFull, timeout: float | None
    ) -> None:
        checks.one_of("when_full", when_full, ("wait", "raise"))
        self._transport = transport
        self._most = most
        self._raise = when_full == "raise"
        self._timeout = timeout
        self._deadline = float("inf") if timeout is None else time.monotonic() + timeout
        self._backlog: int | None = None

    @property
    def unknown(self) -> bool:
        """Whether nobody has looked yet."""
        return self._backlog is None

    def taken(self, backlog: int) -> None:
        """Remember the backlog that the last jobs met."""
        self._backlog = backlog

    def wait_for_one(self) -> int:
        """The number of jobs there is room for, at least one; QueueFull if there is none in time."""
        pause = _FIRST_PAUSE
        if self._backlog is None:
            self._backlog = self._transport.backlog()
        while self._backlog >= self._most:
            left = self._deadline - time.monotonic()
            if self._raise or left <= 0:
                raise QueueFull(self._complaint())
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, _LONGEST_PAUSE)
            self._backlog = self._transport.backlog()
        return self._most - self._backlog

    def _complaint(self) -> str:
        waited = "" if self._raise else f" after {self._timeout:g} s"
        return (
            f"{self._backlog} jobs are waiting to be applied, {self._most} are allowed{waited}: try later, "
            "start more workers, or raise LOOKALIKE_MAX_BACKLOG"
        )
