"""Takes the vectors out of SQL in the order they come, and lays them down in the order of slots.

Two passes over a file, so that memory does not grow with the catalogue but for a few numbers per picture.
Written with pwrite, not through a map: on a full disk that is an error, not a SIGBUS.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from db.queries.catalogue import VectorBlock
from worker.index import score
from worker.index.attributes import Attributes, Gatherer
from worker.index.blocks import AXES, blocks
from worker.index.errors import BadVectors
from worker.index.manifest import CategorySlice
from worker.index.rotation import Moments
from worker.index.score import Halves
from worker.index.slots import Keys, SlotTable

SAMPLE = 50_000
"""Vectors that the principal components are computed from."""
ROWS = 8192
SIDE_BY_SIDE = 64
"""Neighbours in space that get slots beside each other."""


@dataclass(frozen=True)
class Spooled:
    """What was read: the vectors in a file, in order of images, and the rest in memory."""

    path: Path
    dimension: int
    image_pks: Keys
    product_pks: Keys
    codes: NDArray[np.int32]
    """Category of each picture, as a place in `categories`."""
    categories: tuple[str | None, ...]
    attributes: Gatherer
    moments: Moments

    def __len__(self) -> int:
        return len(self.image_pks)


class Spool:
    """Writes blocks to a file and gathers what the index needs to know of them."""

    def __init__(self, path: Path, dimension: int, expected: int) -> None:
        self._path = path
        self._dimension = dimension
        self._stride = max(1, expected // SAMPLE)
        self._categories: dict[str | None, int] = {}
        self._blocks: list[tuple[Keys, Keys, NDArray[np.int32]]] = []
        self._attributes = Gatherer()
        self._moments = Moments(dimension)
        self._rows = 0

    def read(self, blocks: Iterator[VectorBlock], on_rows: Callable[[int], None]) -> Spooled:
        """Take in all blocks; raises BadVectors."""
        with self._path.open("wb") as file:
            for block in blocks:
                vectors = self._checked(block)
                file.write(score.narrow(vectors).tobytes())
                self._moments.add(vectors[-self._rows % self._stride :: self._stride])
                self._note(block)
                on_rows(self._rows)
        return self._spooled()

    def _checked(self, block: VectorBlock) -> score.Vectors:
        count = len(block.image_pks)
        if len(block.vectors) != count * self._dimension * 4:
            raise BadVectors(
                f"among the images {block.image_pks[0]} to {block.image_pks[-1]} (column pk) are vectors that are "
                f"not of {self._dimension} numbers: delete the rows of the table embedding with "
                f"length(vector) <> {4 * self._dimension}, then add those pictures again"
            )
        vectors = np.frombuffer(block.vectors, dtype="<f4").reshape(count, self._dimension)
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            bad = np.asarray(block.image_pks)[~finite][:10].tolist()
            raise BadVectors(
                f"the vectors of the images {bad} (column pk) are not finite: delete their rows of the table "
                "embedding (by content_sha256), then add those pictures again"
            )
        return vectors

    def _note(self, block: VectorBlock) -> None:
        codes = [self._categories.setdefault(c, len(self._categories)) for c in block.categories]
        self._blocks.append(
            (
                np.array(block.image_pks, dtype=np.int64),
                np.array(block.product_pks, dtype=np.int64),
                np.array(codes, dtype=np.int32),
            )
        )
        self._attributes.add(block.attributes)
        self._rows += len(codes)

    def _spooled(self) -> Spooled:
        nothing = np.empty(0, dtype=np.int64)
        images = np.concatenate([nothing, *(b[0] for b in self._blocks)])
        products = np.concatenate([nothing, *(b[1] for b in self._blocks)])
        codes = np.concatenate([nothing.astype(np.int32), *(b[2] for b in self._blocks)])
        names = sorted(self._categories, key=lambda name: (name is not None, name or ""))
        new_codes = np.empty(len(names), dtype=np.int32)
        new_codes[[self._categories[name] for name in names]] = np.arange(len(names))
        codes = new_codes[codes] if len(codes) else codes
        return Spooled(
            self._path,
            self._dimension,
            images,
            products,
            codes,
            tuple(names),
            self._attributes,
            self._moments,
        )


@dataclass(frozen=True)
class Sorted:
    """What the slots hold, beside the vectors that have been laid down."""

    slots: SlotTable
    attributes: Attributes


def sort(
    spooled: Spooled, target: Path, on_rows: Callable[[int], None] = lambda rows: None
) -> Sorted:
    """Write the vectors by category, in it neighbours in space near each other; what the slots hold."""
    order = _order(spooled)
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order))
    with target.open("wb") as sink:
        for start, halves in _rows(spooled):
            _lay_down(halves, places[start : start + ROWS], sink.fileno())
            on_rows(start + ROWS)
    slots = SlotTable.of(spooled.image_pks[order], spooled.product_pks[order], _slices(spooled))
    return Sorted(slots, spooled.attributes.by_slot(places))


def _rows(spooled: Spooled) -> Iterator[tuple[int, Halves]]:
    """The vectors as they came, a block at a time."""
    with spooled.path.open("rb") as source:
        for start in range(0, len(spooled), ROWS):
            halves = np.fromfile(source, dtype="<f2", count=ROWS * spooled.dimension)
            yield start, halves.reshape(-1, spooled.dimension)


def _order(spooled: Spooled) -> NDArray[np.int64]:
    """Places of what came, in the order of the slots."""
    rotation = spooled.moments.rotation(min(AXES, spooled.dimension))
    points = np.empty((len(spooled), rotation.width), dtype=np.float32)
    for start, halves in _rows(spooled):
        points[start : start + ROWS] = rotation.reduce(score.widen(halves))
    order = np.argsort(spooled.codes, kind="stable")
    starts = np.searchsorted(spooled.codes[order], np.arange(len(spooled.categories) + 1))
    chance = np.random.default_rng(0)
    for start, stop in itertools.pairwise(starts.tolist()):
        own = order[start:stop]
        parts = list(blocks(points[own], SIDE_BY_SIDE, chance))
        order[start:stop] = own[np.concatenate(parts)]
    return order


def _lay_down(rows: Halves, places: Keys, sink: int) -> None:
    """Write rows to their places, each run of places in one call."""
    order = np.argsort(places)
    places, rows = places[order], rows[order]
    starts = np.concatenate([[0], np.flatnonzero(np.diff(places) != 1) + 1, [len(places)]]).tolist()
    width = rows.shape[1] * rows.itemsize
    for start, stop in itertools.pairwise(starts):
        _write_at(sink, memoryview(rows[start:stop].tobytes()), int(places[start]) * width)


def _write_at(sink: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(sink, data, offset)
        data, offset = data[written:], offset + written


def _slices(spooled: Spooled) -> list[CategorySlice]:
    counts = np.bincount(spooled.codes, minlength=len(spooled.categories)).tolist()
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(int).tolist()
    return [
        CategorySlice(name=name, start=start, count=count)
        for name, start, count in zip(spooled.categories, starts, counts, strict=False)
    ]
