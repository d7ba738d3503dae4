"""What one lookup is answered from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from worker.index import score
from worker.index.generation import Generation
from worker.index.overlay import GONE, OverlayView
from worker.index.score import Vectors


@dataclass(frozen=True)
class View:
    """One generation and its own overlay, published together and never changed (invariant 6).

    Everything up to `revision` is in it, and nothing else; no later change had been committed at `at`.
    """

    revision: int
    at: datetime
    model_version_pk: int | None
    model_digest: str | None
    dimension: int
    generation: Generation | None
    overlay: OverlayView

    @property
    def number(self) -> int | None:
        """Number of the generation; None while there is none."""
        return self.generation.manifest.number if self.generation else None

    @property
    def pending(self) -> int:
        """Pictures that changed since the generation."""
        return self.overlay.changes

    @property
    def images(self) -> int:
        """Upper bound of the pictures that can be found."""
        return (len(self.generation) if self.generation else 0) + self.overlay.alive

    def vectors_of(self, image_pks: Sequence[int]) -> tuple[Vectors, NDArray[np.bool_]]:
        """Vectors [n, d] of pictures, and which of them this view has; the others' rows are 0."""
        rows = [self.overlay.row_of(pk) for pk in image_pks]
        found = np.zeros(len(rows), dtype=np.bool_)
        vectors = np.zeros((len(rows), self.dimension), dtype=np.float32)
        for i, row in enumerate(rows):
            if row is not None and row != GONE:
                vectors[i], found[i] = self.overlay.vectors[row], True
        unchanged = np.array([i for i, row in enumerate(rows) if row is None], dtype=np.int64)
        if self.generation is not None and len(unchanged):
            slots = self.generation.slots.slots_of(np.asarray(image_pks, np.int64)[unchanged])
            there = unchanged[slots >= 0]
            vectors[there] = score.widen(self.generation.vectors[slots[slots >= 0]])
            found[there] = True
        return vectors, found
