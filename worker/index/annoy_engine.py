"""Annoy: the only module that touches it, and the pitfalls it knows about.

The file has no header, no checksum and no dimension: whoever opens one has checked its bytes before. Lists go in,
not arrays (8 µs against 27 µs for 512 numbers). A tree is never unloaded or loaded twice: a new object for every
file, dropped by its last user, because unloading under a query is a segmentation fault.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.index.errors import AnnoyBroken, BadVectors, GenerationDamaged
from worker.index.score import Vectors

Slots = NDArray[np.int32]

ADVICE = (
    "the compiled Annoy on this machine does not work: {problem}. It was probably compiled for another "
    "processor, or by a compiler that its default flags break. Compile it here, without them: "
    "ANNOY_COMPILER_ARGS=-O3,-std=c++14,-fpermissive,-DANNOYLIB_MULTITHREADED_BUILD "
    "pip install --force-reinstall --no-deps --no-cache-dir --no-binary annoy annoy==1.17.3"
)


def version() -> str:
    """Release of the installed Annoy."""
    return importlib.metadata.version("annoy")


def _index(width: int) -> Any:
    from annoy import AnnoyIndex

    return AnnoyIndex(width, "euclidean")


class TreeBuilder:
    """Takes the reduced vectors of slots 0…count-1 in blocks, then builds and saves the trees."""

    def __init__(self, count: int, width: int, seed: int) -> None:
        self._count = count
        self._index = _index(width)
        self._index.set_seed(seed)

    def reserve(self, last: Vectors) -> None:
        """Give the vector [r] of the highest slot first: memory is then taken once, not doubled over and over."""
        self._index.add_item(self._count - 1, last.tolist())

    def add(self, start: int, rows: Vectors) -> None:
        """Give the vectors [n, r] of the slots from `start` on; raises BadVectors for NaN, which Annoy takes."""
        if not np.isfinite(rows).all():
            raise BadVectors("a reduced vector is not finite")
        add_item = self._index.add_item
        for slot, row in enumerate(rows.tolist(), start):
            add_item(slot, row)

    def build(self, trees: int, jobs: int) -> None:
        """Build; the same seed and one job give the same bytes. Cannot be interrupted: Annoy asks nobody."""
        self._index.build(trees, n_jobs=jobs)

    def near(self, query: list[float], count: int) -> list[int]:
        """Slots of the nearest vectors among all, before anything is saved."""
        found: list[int] = self._index.get_nns_by_vector(query, count, self._count * 1000)
        return found

    def save(self, path: Path) -> None:
        """Write the file (not synced). Holds the interpreter while it writes."""
        self._index.save(str(path))


class Tree:
    """An opened file of trees; searched by any number of threads, closed by dropping the last reference."""

    def __init__(self, path: Path, width: int, count: int) -> None:
        self._width = width
        self._index = _index(width)
        try:
            self._index.load(str(path))
        except OSError as error:
            raise GenerationDamaged(f"{path.name} cannot be mapped: {error}") from error
        if self._index.get_n_items() != count:
            raise GenerationDamaged(f"{path.name} does not hold {count} vectors of width {width}")

    def search(self, queries: Vectors, count: int, search_k: int) -> Slots:
        """Slots [m, count] near each query [m, r], nearest first, -1 where fewer are found."""
        found = np.full((len(queries), count), -1, dtype=np.int32)
        near = self._index.get_nns_by_vector
        for row, query in zip(found, queries.tolist(), strict=True):
            slots = near(query, count, search_k)
            row[: len(slots)] = slots
        return found


def self_test() -> None:
    """Compare Annoy with brute force on a tiny set; raises AnnoyBroken with what to do when they disagree."""
    points = np.random.default_rng(7).standard_normal((64, 8)).astype(np.float32)
    try:
        builder = TreeBuilder(len(points), 8, seed=1)
        builder.reserve(points[-1])
        builder.add(0, points)
        builder.build(trees=4, jobs=1)
        found = [builder.near(point, 5) for point in points.tolist()]
    except ImportError as error:
        raise AnnoyBroken(ADVICE.format(problem=error)) from error
    verify_answers(points, found)


def verify_answers(points: Vectors, found: list[list[int]]) -> None:
    """Raise AnnoyBroken unless `found` holds the five nearest of each point."""
    distances = ((points[:, None, :] - points[None, :, :]) ** 2).sum(axis=2)
    truth = np.argsort(distances, axis=1)[:, :5].tolist()
    if any(len(slots) != 5 for slots in found):
        problem = f"asked for 5 neighbours, it returned {min(len(slots) for slots in found)}"
        raise AnnoyBroken(ADVICE.format(problem=problem))
    if found != truth:
        raise AnnoyBroken(ADVICE.format(problem="its neighbours are not the nearest ones"))
