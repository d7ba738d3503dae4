"""For each slot, other slots near it: what a search looks at around the candidates that the trees gave.

The lists are approximate. In each of a few random partitions all pairs of a block are compared, and every slot
keeps the nearest it has met. Refining seeds from trees over such lists is EFANNA's idea (Fu and Cai,
arXiv:1609.07228); on 250,000 vectors one step halves the time that trees alone take to 98 % recall, for two
seconds of building.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from worker.index.blocks import Places, blocks
from worker.index.score import Vectors

WIDTH = 32
"""Neighbours kept for each slot."""
PARTITIONS = 8
BLOCK = 256
"""Largest block, whose pairs are all compared: a place in it fits into the low byte of a distance."""
BLOCKS_AT_ONCE = 32
ROWS = 8192

Lists = NDArray[np.int32]
_Packed = NDArray[np.int64]
"""Slot in the upper half, distance in the lower, as its bits: of floats ≥ 0 they are in the floats' order."""

_NONE = np.iinfo(np.int64).max
_PLACE = np.int32(BLOCK - 1)
_FAR = np.int32(0x7F00_0000)


def lists(points: Vectors, seed: int, on_progress: Callable[[float], None]) -> Lists:
    """Near slots [n, WIDTH] of each of the points [n, r], nearest first; -1 where there are fewer."""
    best = np.full((len(points), WIDTH), _NONE, dtype=np.int64)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    # Blocks are small: a BLAS thread for each pool thread, or they only get in each other's way.
    with ThreadPoolExecutor(threads) as pool, threadpool_limits(limits=1, user_api="blas"):
        for partition in range(PARTITIONS):
            chance = np.random.default_rng((seed, partition))
            # No slot is in two blocks of a partition, so threads never meet in a row.
            for done in [
                pool.submit(_compare, points, best, some)
                for some in _some(blocks(points, BLOCK, chance))
            ]:
                done.result()
            on_progress((partition + 1) / PARTITIONS)
    return _slots(best)


def _some(each: Iterator[Places]) -> Iterator[list[Places]]:
    """A few blocks at a time: enough work for a thread."""
    while some := list(islice(each, BLOCKS_AT_ONCE)):
        yield some


def _compare(points: Vectors, best: _Packed, some: list[Places]) -> None:
    for block in some:
        best[block] = _merged(best[block], _nearest_in(points[block], block))


def _nearest_in(points: Vectors, slots: NDArray[np.int32]) -> _Packed:
    """The nearest of each point of a block among the others, the distances to 16 bits: enough to choose by."""
    count = len(slots)
    norms = np.einsum("kd,kd->k", points, points)
    distances = points @ points.T
    distances *= -2.0
    distances += norms
    distances += norms[:, None]
    np.maximum(distances, 0.0, out=distances)
    bits = distances.view(np.int32)
    bits.ravel()[:: count + 1] = _FAR  # itself
    bits &= ~_PLACE
    bits |= np.arange(count, dtype=np.int32)
    kept = min(WIDTH, count)
    if count > kept:
        bits.partition(kept - 1, axis=1)
    nearest = bits[:, :kept]
    packed = np.full((count, WIDTH), _NONE, dtype=np.int64)
    packed[:, :kept] = slots[nearest & _PLACE].astype(np.int64) << 32 | nearest & ~_PLACE
    packed[:, :kept][nearest >= _FAR] = _NONE
    return packed


def _merged(known: _Packed, found: _Packed) -> _Packed:
    """The nearest of both, each slot once."""
    both = np.concatenate([known, found], axis=1)
    both.sort(axis=1)
    both[:, 1:][both[:, 1:] >> 32 == both[:, :-1] >> 32] = _NONE
    turned = _turned(both)
    turned.partition(WIDTH - 1, axis=1)
    return _turned(turned[:, :WIDTH])


def _turned(packed: _Packed) -> _Packed:
    """Distance in the upper half and slot in the lower, or back."""
    return np.where(packed == _NONE, _NONE, packed << 32 | packed >> 32)


def _slots(best: _Packed) -> Lists:
    found = np.empty(best.shape, dtype=np.int32)
    for start in range(0, len(best), ROWS):
        turned = np.sort(_turned(best[start : start + ROWS]), axis=1)
        slots = turned & 0xFFFF_FFFF
        found[start : start + ROWS] = np.where(turned == _NONE, -1, slots).astype(np.int32)
    return found
