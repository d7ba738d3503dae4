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
from worker.index.errors import BadVectors
from worker.index.manifest import CategorySlice
from worker.index.rotation import Moments
from worker.index.slots import Keys, SlotTable

SAMPLE = 50_000
"""Vectors that the principal components are computed from."""
ROWS = 8192


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
            self._path, self._dimension, images, products, codes, tuple(names), self._moments
        )


def sort(
    spooled: Spooled, target: Path, on_rows: Callable[[int], None] = lambda rows: None
) -> SlotTable:
    """Write the vectors in order of (category, image) and return the table of their slots."""
    order = np.argsort(spooled.codes, kind="stable")
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order))
    with spooled.path.open("rb") as source, target.open("wb") as sink:
        for start in range(0, len(order), ROWS):
            _lay_down(
                np.fromfile(source, dtype="<f2", count=ROWS * spooled.dimension),
                places[start : start + ROWS],
                sink.fileno(),
            )
            on_rows(start + ROWS)
    return SlotTable.of(spooled.image_pks[order], spooled.product_pks[order], _slices(spooled))


def _lay_down(halves: NDArray[np.float16], places: Keys, sink: int) -> None:
    """Write rows to their places, each run of places in one call."""
    rows = halves.reshape(len(places), -1)
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
