"""One direction for several liked and disliked products and pictures. Pure."""

from __future__ import annotations

import numpy as np

from worker.index.score import Vectors

STEP = 0.5
"""How far to go away from what is disliked, as a share of the way from it to what is liked.

Rocchio's feedback (Manning, Raghavan, Schütze: Introduction to Information Retrieval, 9.1.1), with the step taken
along the difference: what all pictures have in common cancels out of it.
"""


def blend(liked: list[Vectors], disliked: list[Vectors]) -> Vectors:
    """The unit vector [d] of several things, each given by its pictures [p, d]; every thing counts the same.

    Falls back to what is liked, and to its first picture, where the result would have no direction.
    """
    wanted = _centre(liked)
    if disliked:
        moved = wanted + np.float32(STEP) * (wanted - _centre(disliked))
        if _length(moved) > 0:
            wanted = moved
    length = _length(wanted)
    return liked[0][0] if length == 0 else wanted / np.float32(length)


def _centre(things: list[Vectors]) -> Vectors:
    centre: Vectors = np.mean(
        [pictures.mean(axis=0) for pictures in things], axis=0, dtype=np.float32
    )
    return centre


def _length(vector: Vectors) -> float:
    return float(np.linalg.norm(vector))
