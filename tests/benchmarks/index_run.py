"""One run of the index benchmark: how large it is, and where its sections put what they find."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.benchmarks.report import Report, Row

LIMIT = 10
"""Neighbours that are asked for, and that recall is of."""
MIB = 2**20


@dataclass(frozen=True)
class Scale:
    """How large a run is."""

    size: int = 250_000
    """Vectors."""
    dimension: int = 512
    """Numbers of each."""
    large: int = 1_000_000
    """Vectors of the large index."""
    queries: int = 2000
    """Vectors that are asked about: recall is then known to a quarter of a percent."""
    filtered_queries: int = 200
    """Products that are asked about with each filter."""
    repeats: int = 3
    """Turns that each system gets, of builds and of questions."""
    residents: int = 200
    """Questions of a process before its memory is measured."""
    changes: int = 300
    """Changes of each kind whose way into the answers is timed."""
    overlay: int = 20_000
    """Products in the overlay whose cost is measured."""
    real: bool = True
    """Whether the vectors are a real network's."""


QUICK = Scale(
    size=4000,
    large=12_000,
    queries=60,
    filtered_queries=20,
    repeats=1,
    residents=20,
    changes=8,
    overlay=1000,
    real=False,
)


@dataclass(frozen=True)
class Run:
    """What a section is given."""

    report: Report
    scale: Scale

    @property
    def out(self) -> Path:
        """Folder of the results."""
        return self.report.out

    @property
    def cache(self) -> Path:
        """Folder of what takes long to make and never changes."""
        return self.report.out / "cache"

    def picture(self, name: str) -> Path:
        """Where a plot goes."""
        return self.out / f"{name}{'-quick' if self.report.quick else ''}.png"


class Section:
    """The part of a report that one section fills: its figures and tables begin with its name."""

    def __init__(self, run: Run, name: str) -> None:
        self._report = run.report
        self._name = name

    def add(
        self,
        name: str,
        value: float,
        unit: str = "",
        *,
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> None:
        """Record a figure."""
        title = f"{self._name}: {name}"
        self._report.add(title, value, unit, at_most=at_most, at_least=at_least)

    def table(self, name: str, rows: list[Row]) -> None:
        """Record rows of the same keys."""
        self._report.table(f"{self._name}: {name}", rows)

    def note(self, text: str) -> None:
        """Record what a reader has to know."""
        self._report.note(f"{self._name}: {text}")

    def say(self, text: str) -> None:
        """Tell whoever waits how far it is: a whole run takes most of an hour."""
        print(f"{self._name}: {text}", file=sys.stderr, flush=True)
