"""The last minute of a watch: how the queues went up and down, and how soon they will be empty."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from producer.messages import QueueStatus

SECONDS = 60.0
BARS = "▁▂▃▄▅▆▇█"
WIDTH = 12
"""Bars, each the most of so many seconds."""
LEAST = 3.0
"""Seconds that must have been seen before anything is said of a rate."""


@dataclass(frozen=True)
class _Look:
    at: float
    backlog: int
    waiting: dict[str, int]


class Trend:
    """What was seen in the last minute."""

    def __init__(self) -> None:
        self._looks: deque[_Look] = deque()

    def add(self, now: float, backlog: int, queues: Sequence[QueueStatus]) -> None:
        """Note what is seen now (epoch seconds)."""
        self._looks.append(_Look(now, backlog, {each.name: each.waiting for each in queues}))
        while self._looks[0].at < now - SECONDS:
            self._looks.popleft()

    def bars(self, queue: str) -> str:
        """How many messages waited in this queue, the newest last; nothing while none ever did."""
        most = max((look.waiting.get(queue, 0) for look in self._looks), default=0)
        if not most:
            return ""
        return "".join(_bar(each, max(most, len(BARS))) for each in self._parts(queue))

    @property
    def outlook(self) -> str:
        """How quickly the backlog gets smaller and when it will be empty, or that it grows, in words."""
        first, last = self._looks[0], self._looks[-1]
        seconds = last.at - first.at
        if seconds < LEAST or first.backlog == last.backlog:
            return ""
        rate = (first.backlog - last.backlog) / seconds
        if rate < 0:
            return f"grows by {-rate:,.1f}/s"
        return f"{rate:,.1f}/s, empty in {ago(last.backlog / rate)}" if last.backlog else ""

    def _parts(self, queue: str) -> Iterator[int]:
        end = self._looks[-1].at
        for part in range(WIDTH, 0, -1):
            begin, until = end - part * SECONDS / WIDTH, end - (part - 1) * SECONDS / WIDTH
            yield max(
                (look.waiting.get(queue, 0) for look in self._looks if begin < look.at <= until),
                default=-1,
            )


def _bar(value: int, most: int) -> str:
    if value < 0:
        return " "
    return BARS[round(value / most * (len(BARS) - 1))]


def ago(seconds: float) -> str:
    """A span of time in one unit."""
    for unit, size, until in (("s", 1, 100), ("min", 60, 6000), ("h", 3600, 172_800)):
        if seconds < until:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds / 86_400:,.0f} days"
