"""Which embeddings of a block of pictures can be searched, and what is wrong with the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from db.queries.audit import AuditedImage
from worker.audit.findings import Flaw, Kind
from worker.index.score import Vectors

UNIT_TOLERANCE = 1e-3
"""How far from 1 the length of a vector may be: the float32 of a network's own is within 1e-6."""
_FLOAT32 = 4


@dataclass(frozen=True)
class Vetted:
    """A block of pictures, live or removed, whose embeddings were looked at."""

    usable: list[AuditedImage]
    """Those whose vector can be compared."""
    vectors: Vectors
    """float32 [len(usable), d]."""
    flaws: list[Flaw]


def vet(rows: Sequence[AuditedImage], dimension: int) -> Vetted:
    """Look at the embeddings of pictures. Removed ones need none; one that is there must be good all the same."""
    flaws: list[Flaw] = []
    sized: list[AuditedImage] = []
    for row in rows:
        if row.vector is None:
            if not row.removed:
                flaws.append(Flaw(row.image_pk, Kind.MISSING_EMBEDDING))
        elif row.dimension != dimension or len(row.vector) != dimension * _FLOAT32:
            detail = f"{len(row.vector)} bytes, for {dimension} numbers"
            flaws.append(Flaw(row.image_pk, Kind.BAD_EMBEDDING, detail))
        else:
            sized.append(row)
    joined = b"".join(row.vector for row in sized if row.vector is not None)
    vectors = np.frombuffer(joined, "<f4").reshape(len(sized), dimension)
    good = np.zeros(len(sized), np.bool_)
    for i, (finite, length) in enumerate(zip(*_measured(vectors), strict=True)):
        good[i] = finite and abs(length - 1.0) <= UNIT_TOLERANCE
        if not good[i]:
            detail = f"of length {length:.4g}" if finite else "not finite"
            flaws.append(Flaw(sized[i].image_pk, Kind.BAD_EMBEDDING, detail))
    usable = [row for row, is_good in zip(sized, good.tolist(), strict=True) if is_good]
    return Vetted(usable, vectors[good], flaws)


def _measured(vectors: Vectors) -> tuple[list[bool], list[float]]:
    """Of each vector, whether it is finite, and its length."""
    finite = np.asarray(np.isfinite(vectors).all(axis=1), np.bool_)
    squares = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
    return list(map(bool, finite)), list(map(float, np.sqrt(squares)))
