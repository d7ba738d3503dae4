"""What finds candidates: the interface of the engines, and the engines by their names.

An engine sees reduced vectors and dense slots, and gives slots that are probably near. Scoring them exactly,
leaving out what changed since, and turning slots into products is done above it, in the same way for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from worker.index import score
from worker.index.rotation import Rotation
from worker.index.score import Halves, Vectors

if TYPE_CHECKING:
    from worker.index.manifest import Manifest

EngineName = Literal["annoy", "exact", "faiss"]
Slots = NDArray[np.int32]
Eligible = Callable[[NDArray[np.integer]], NDArray[np.bool_]]
"""Which of these slots (of any shape) a search may answer with."""


@dataclass(frozen=True)
class Source:
    """The vectors to build from, by slot."""

    vectors: Halves
    rotation: Rotation

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def width(self) -> int:
        """Width of the reduced vectors."""
        return self.rotation.width

    def reduced(self, start: int, stop: int) -> Vectors:
        """Reduced vectors [stop - start, width] of some slots."""
        return self.rotation.reduce(score.widen(self.vectors[start:stop]))


@dataclass(frozen=True)
class Recipe:
    """How to build: `size` is the number of trees or lists (0: the engine's choice), `jobs` that of threads."""

    size: int
    seed: int
    jobs: int
    on_progress: Callable[[float], None]


@dataclass(frozen=True)
class Found:
    """Candidates of some queries.

    `slots` [m, count], -1 where there are fewer. `certain` [m]: how many eligible ones lie within the distance up
    to which the search saw nearly everything; beyond it, it saw some by chance.
    """

    slots: Slots
    certain: NDArray[np.int64]


class Searcher(Protocol):
    """An opened index. Any number of threads search it; the last one to drop it closes it."""

    def search(
        self,
        queries: Vectors,
        count: int,
        effort: int,
        eligible: Eligible | None = None,
        without: Slots | None = None,
    ) -> Found:
        """The `count` nearest slots that it comes across of each reduced query [m, width].

        `effort` is how much it looks at, in the engine's own unit. `without` [m] is a slot that each query must
        leave out and learn nothing from.
        """
        ...


class Engine(Protocol):
    """Builds, validates, opens and so searches one kind of index."""

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files it writes into a generation."""
        ...

    def version(self) -> str:
        """Release of the library."""
        ...

    def self_test(self) -> None:
        """Compare the library with brute force on a tiny set; raises EngineBroken with what to do."""
        ...

    def build(self, source: Source, directory: Path, recipe: Recipe) -> int:
        """Write the files, not synced; returns the size (trees, lists) it chose or was given."""
        ...

    def validate(self, described: Manifest) -> None:
        """Refuse, by raising GenerationDamaged, a manifest whose numbers cannot be those of its files."""
        ...

    def open(self, directory: Path, described: Manifest) -> Searcher:
        """Map files whose digests have been checked; raises GenerationDamaged."""
        ...

    def efforts(self, images: int) -> tuple[int, ...]:
        """Efforts to try while tuning, cheapest first."""
        ...

    def read_alike(self, effort: int, dimension: int) -> float:
        """How many stored vectors [dimension] could be read and scored in the time of a search of this effort."""
        ...


def engine(name: EngineName) -> Engine:
    """The engine of this name; its library is imported when it is first used."""
    if name == "annoy":
        from worker.index.annoy_engine import AnnoyEngine

        return AnnoyEngine()
    if name == "faiss":
        from worker.index.faiss_engine import FaissEngine

        return FaissEngine()
    return ExactEngine()


class ExactEngine:
    """No index at all: every search reads the stored vectors, as the truth for measurements does."""

    files: tuple[str, ...] = ()

    def version(self) -> str:
        """Release of numpy, whose BLAS does it."""
        return np.__version__

    def self_test(self) -> None:
        """Nothing that could be broken."""

    def build(self, source: Source, directory: Path, recipe: Recipe) -> int:
        """Write nothing."""
        del source, directory, recipe
        return 0

    def validate(self, described: Manifest) -> None:
        """Nothing to compare."""

    def open(self, directory: Path, described: Manifest) -> Searcher:
        """Give a searcher that finds nothing: the planner never asks it, because reading is cheaper."""
        del directory, described
        return _Nothing()

    def efforts(self, images: int) -> tuple[int, ...]:
        """One: all of it."""
        return (max(images, 1),)

    def read_alike(self, effort: int, dimension: int) -> float:
        """Any number: reading is all there is."""
        del effort, dimension
        return float("inf")


class _Nothing:
    def search(
        self,
        queries: Vectors,
        count: int,
        effort: int,
        eligible: Eligible | None = None,
        without: Slots | None = None,
    ) -> Found:
        del effort, eligible, without
        nothing = np.full((len(queries), count), -1, dtype=np.int32)
        return Found(nothing, np.zeros(len(queries), dtype=np.int64))
