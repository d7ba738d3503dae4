"""What a fault scenario shows: a promise, whether it was kept, and by what figures."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Scale:
    """How much of a scenario is run, and the seed of everything random in it."""

    short: bool
    seed: int = 1

    def of(self, long: int, short: int) -> int:
        """The one of the two counts (or seconds) that this scale asks for."""
        return short if self.short else long

    def chance(self, *what: object) -> random.Random:
        """A source of randomness of its own for `what`, the same in every run with this seed."""
        return random.Random(f"{self.seed} {what}")


@dataclass(frozen=True)
class Shown:
    """What a scenario saw."""

    figure: str
    """One line: counts that a reader can compare with the promise."""
    broken: tuple[str, ...] = ()
    """What contradicts the promise; none where it was kept."""
    details: dict[str, object] = field(default_factory=dict)
    """The same figures and more, as JSON values."""


@dataclass(frozen=True)
class Promise:
    """A promise of the service, and the scenario that tries to break it."""

    name: str
    """Short and unique: `make faults ARGS=NAME` runs it alone."""
    text: str
    """The promise, as the table says it."""
    show: Callable[[Scale, Path], Shown]
    """Runs the scenario in an empty folder."""
