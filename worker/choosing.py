"""Which of the nearest products make the answer: not too alike, not too many of a kind, and near enough.

Pure. Products are chosen one after the other; each choice may rule others out.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from producer.messages import Selection

Vectors = NDArray[np.float32]
Flags = NDArray[np.bool_]

POOL_PER_MATCH, LEAST_POOL = 5, 50
"""Products to choose from for each one wanted, where diversity decides."""
LARGEST_POOL = 2000
"""Nearest products among which `collapse` and `at_most` look for others, however few they leave."""


@dataclass(frozen=True)
class Pool:
    """Products to choose from, nearest first.

    `distances` [n] to the question, `vectors` [n, d] of unit length, `contents` [n] digests of the pictures'
    bytes, `values` [n] the values of each attribute that is limited, by its name.
    """

    distances: Vectors
    vectors: Vectors
    contents: Sequence[bytes]
    values: Sequence[dict[str, tuple[Hashable, ...]]]


def needs_choice(selection: Selection) -> bool:
    """Whether the answer is anything else than the nearest ones."""
    return bool(selection.at_most or selection.diversity or selection.collapse is not None)


def pool_size(selection: Selection) -> int:
    """Products to choose from, if so many there are."""
    if selection.diversity:
        return max(POOL_PER_MATCH * selection.limit, LEAST_POOL)
    return selection.limit


def too_few(selection: Selection, looked_at: int, usable: int, chosen: int) -> bool:
    """Whether more products have to be looked at.

    Until enough are usable, always; but what usable ones rule each other out is not followed for ever: of a shop
    with one brand, no search finds three.
    """
    if usable < pool_size(selection):
        return True
    return chosen < selection.limit and looked_at < LARGEST_POOL


def farthest(selection: Selection) -> float:
    """The distance of the least similarity that is asked for: of unit vectors, √(2 - 2 · cosine)."""
    if selection.min_similarity is None:
        return float("inf")
    return float(np.sqrt(max(0.0, 2.0 - 2.0 * selection.min_similarity)))


def choose(pool: Pool, selection: Selection) -> list[int]:
    """Places in the pool, in the order of the answer.

    With a diversity of w, each choice has the greatest (1 - w) · likeness to the question - w · likeness to the
    most alike one chosen before (maximal marginal relevance).
    """
    count, weight = len(pool.distances), np.float32(selection.diversity)
    likeness = 1.0 - pool.distances * pool.distances / 2.0
    nearest_chosen = np.full(count, -1.0, dtype=np.float32)
    free = np.ones(count, dtype=np.bool_)
    kinds = _Kinds(pool, selection)
    chosen: list[int] = []
    while len(chosen) < selection.limit and free.any():
        marginal = (1 - weight) * likeness - weight * (nearest_chosen if chosen else 0.0)
        place = int(np.argmax(np.where(free, marginal, -np.inf)))
        chosen.append(place)
        free[place] = False
        alike = pool.vectors @ pool.vectors[place] if selection.diversity else None
        if alike is not None:
            np.maximum(nearest_chosen, alike, out=nearest_chosen)
        if selection.collapse is not None:
            free &= ~_same(pool, place, selection.collapse)
        free &= ~kinds.full_after(place)
    return chosen


def _same(pool: Pool, place: int, distance: float) -> Flags:
    """Which products show the same picture as the chosen one: the same bytes, or vectors as near as that."""
    apart = pool.vectors - pool.vectors[place]
    near: Flags = np.einsum("nd,nd->n", apart, apart) <= distance * distance
    content = pool.contents[place]
    return near | np.fromiter((each == content for each in pool.contents), np.bool_, len(near))


class _Kinds:
    """Counts the chosen by their values of the limited attributes."""

    def __init__(self, pool: Pool, selection: Selection) -> None:
        self._limits = selection.at_most
        self._pool = pool
        self._places: dict[tuple[str, Hashable], list[int]] = {}
        self._counts: dict[tuple[str, Hashable], int] = {}
        for place, values in enumerate(pool.values if self._limits else ()):
            for name in self._limits:
                for value in values[name]:
                    self._places.setdefault((name, value), []).append(place)

    def full_after(self, place: int) -> Flags:
        """Which products cannot be chosen any more, now that this one is."""
        full = np.zeros(len(self._pool.distances), dtype=np.bool_)
        for name, limit in self._limits.items():
            for value in self._pool.values[place][name]:
                kind = (name, value)
                self._counts[kind] = self._counts.get(kind, 0) + 1
                if self._counts[kind] >= limit:
                    full[self._places[kind]] = True
        return full
