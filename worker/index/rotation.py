"""Principal components: fewer numbers for the trees to walk, with the most of the distance kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.index.errors import GenerationDamaged
from worker.index.score import Vectors


@dataclass(frozen=True)
class Rotation:
    """Mean [d] and axes [d, r] to reduce vectors with; `kept` is the share of the variance that stays."""

    mean: Vectors
    axes: Vectors
    kept: float

    @property
    def width(self) -> int:
        """Width of what comes out."""
        return int(self.axes.shape[1])

    def reduce(self, vectors: Vectors) -> Vectors:
        """Reduce vectors [n, d] to [n, r]."""
        if self.axes.shape[0] == self.axes.shape[1]:
            return vectors
        reduced: Vectors = np.matmul(vectors - self.mean, self.axes, dtype=np.float32)
        return reduced

    def save(self, path: Path) -> None:
        """Write mean and axes as one array [d, 1 + r] (not synced)."""
        with path.open("wb") as file:
            np.save(file, np.column_stack([self.mean, self.axes]), allow_pickle=False)

    @classmethod
    def load(cls, path: Path, dimension: int, width: int) -> Rotation:
        """Read what `save` wrote; raises GenerationDamaged on another shape."""
        try:
            stored = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise GenerationDamaged(f"{path.name} cannot be read") from error
        if stored.shape != (dimension, 1 + width) or stored.dtype != np.float32:
            raise GenerationDamaged(
                f"{path.name} is not of {dimension} rows and {1 + width} columns"
            )
        return cls(stored[:, 0].copy(), np.ascontiguousarray(stored[:, 1:]), kept=1.0)


class Moments:
    """Gathers mean and covariance of vectors in blocks, in the memory of a d by d matrix or two."""

    def __init__(self, dimension: int) -> None:
        self._count = 0
        self._sum: NDArray[np.float64] = np.zeros(dimension)
        self._products: NDArray[np.float64] = np.zeros((dimension, dimension))
        self._decomposed: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    def add(self, rows: Vectors) -> None:
        """Take in rows [n, d]."""
        self._count += len(rows)
        self._sum += rows.sum(axis=0, dtype=np.float64)
        self._products += rows.T @ rows
        self._decomposed = None

    def rotation(self, width: int) -> Rotation:
        """The `width` axes of the greatest variance; all of space (unrotated) when `width` reaches it."""
        dimension = len(self._sum)
        mean = self._sum / max(self._count, 1)
        if width >= dimension:
            return Rotation(
                np.zeros(dimension, np.float32), np.eye(dimension, dtype=np.float32), 1.0
            )
        if self._decomposed is None:
            # Once for all widths that are tried: of 2,048 dimensions it takes seconds.
            covariance = self._products / max(self._count, 1) - np.outer(mean, mean)
            self._decomposed = np.linalg.eigh(covariance)
        values, axes = self._decomposed
        values = np.clip(values[::-1], 0.0, None)
        total = float(values.sum())
        kept = float(values[:width].sum()) / total if total > 0 else 1.0
        widest = np.ascontiguousarray(axes[:, ::-1][:, :width].astype(np.float32))
        return Rotation(mean.astype(np.float32), widest, min(kept, 1.0))
