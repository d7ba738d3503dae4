"""How long things took, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Spread:
    """Milliseconds of something done `count` times; the times are None when it never was."""

    count: int
    p50: float | None = None
    p95: float | None = None
    max: float | None = None

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Self:
        """Sum up measurements."""
        if not milliseconds:
            return cls(0)
        p50, p95, most = (round(percentile(milliseconds, share), 2) for share in (0.5, 0.95, 1.0))
        return cls(len(milliseconds), p50, p95, most)

    @property
    def words(self) -> str:
        """What to say beside the median."""
        return f"p50 of {self.count:,}; p95 {self.p95} ms"


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0…1) of the values do not exceed, interpolated. There must be one value."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
