"""Recall against time of one system at several settings, and the comparison of two at the same recall."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """A system at one setting."""

    setting: str
    recall: float
    ms: float
    """Median milliseconds of a query."""
    slow: float
    """Milliseconds that 95 % of the queries stay below."""
    default: bool = False
    """Whether this is what a user gets who sets nothing."""


@dataclass(frozen=True)
class Curve:
    """A system at several settings."""

    system: str
    points: tuple[Point, ...]

    @property
    def default(self) -> Point:
        """The setting that a user gets who sets nothing; the first where none is such."""
        return next((point for point in self.points if point.default), self.points[0])

    @property
    def best(self) -> list[Point]:
        """The settings that no other one beats in both, by recall."""
        best: list[Point] = []
        for point in sorted(self.points, key=lambda each: (-each.recall, each.ms)):
            if not best or point.ms < best[-1].ms:
                best.append(point)
        return best[::-1]

    @property
    def reach(self) -> float:
        """The greatest recall."""
        return max(point.recall for point in self.points)

    def ms_at(self, recall: float) -> float:
        """Milliseconds of a query at a recall: between two settings the logarithm of the time is interpolated.

        Below the least recall it is the time of the fastest setting, above the greatest that of the best one: a
        lower bound, which favours this system.
        """
        best = self.best
        if recall <= best[0].recall:
            return best[0].ms
        for low, high in itertools.pairwise(best):
            if recall <= high.recall:
                share = (recall - low.recall) / (high.recall - low.recall)
                return math.exp((1 - share) * math.log(low.ms) + share * math.log(high.ms))
        return best[-1].ms


def named(curves: Sequence[Curve], system: str) -> Curve | None:
    """The curve of a system, if it was measured."""
    return next((curve for curve in curves if curve.system == system), None)
