"""Measures how many of the true neighbours an index finds, and finds the cheapest way to the wanted share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worker.index.generation import Generation
from worker.index.score import Vectors
from worker.index.search import Indices, scan, walk

AT = 10
"""Recall is that of the ten nearest."""
QUERIES = 300
LADDER = (600, 1000, 1500, 2000, 3000, 4500, 6000, 9000, 13_000, 20_000, 30_000)
CONFIDENCE = 1.645
"""Standard errors below the mean of what is true with 95 %."""
SAME = 1e-5
"""Distances that differ by less are ties: either picture is a true neighbour."""


@dataclass(frozen=True)
class Measured:
    """Recall with some parameters, over `queries` pictures that are left out of their own answers."""

    search_k: int
    rerank: int
    recall: float
    at_least: float
    """Lower bound of the recall, with 95 % confidence."""
    queries: int


@dataclass(frozen=True)
class _Truth:
    slots: Indices
    vectors: Vectors
    limits: Vectors
    """Distance of each query's last true neighbour."""
    count: int


def tune(
    base: Generation,
    target: float,
    *,
    search_k: int,
    rerank: int,
    seed: int,
    queries: int = QUERIES,
) -> Measured:
    """The first step of the ladder whose lower bound reaches `target`, or the best one.

    A `search_k` above 0 is taken as it is. Then fewer candidates than `rerank` are taken if they do as well.
    """
    truth = _truth(base, queries, seed)
    if not truth.count:
        return Measured(search_k or LADDER[0], rerank, 1.0, 1.0, 0)
    best = _climb(base, truth, target, (search_k,) if search_k else LADDER, rerank)
    if search_k:
        return best
    for fewer in (50, 100):
        if fewer < rerank:
            measured = _measure(base, truth, best.search_k, fewer)
            if measured.at_least >= min(target, best.at_least):
                return measured
    return best


def _climb(
    base: Generation, truth: _Truth, target: float, ladder: tuple[int, ...], rerank: int
) -> Measured:
    best: Measured | None = None
    for search_k in ladder:
        measured = _measure(base, truth, search_k, rerank)
        if best is None or measured.recall > best.recall + 0.001:
            best = measured
        if measured.at_least >= target:
            return measured
        if search_k >= 4 * len(base):
            break
    assert best is not None
    return best


def _truth(base: Generation, queries: int, seed: int) -> _Truth:
    chosen = np.random.default_rng(seed).permutation(len(base))[:queries]
    slots = np.sort(chosen).astype(np.int64)
    count = min(AT, len(base) - 1)
    vectors = base.vectors_at(slots) if len(slots) else np.empty((0, 0), dtype=np.float32)
    if count < 1:
        return _Truth(slots, vectors, np.empty(0, dtype=np.float32), 0)
    near, squared = scan(base, vectors, count + 1, base.slots.slices(None))
    squared[near == slots[:, None]] = np.inf
    limits = np.sqrt(np.partition(squared, count - 1, axis=1)[:, count - 1])
    return _Truth(slots, vectors, limits, count)


def _measure(base: Generation, truth: _Truth, search_k: int, rerank: int) -> Measured:
    slots, squared = walk(base, truth.vectors, min(rerank, len(base)), search_k)
    squared[slots == truth.slots[:, None]] = np.inf
    hits = (np.sqrt(squared) <= truth.limits[:, None] + SAME).sum(axis=1)
    shares = np.minimum(hits, truth.count) / truth.count
    mean = float(shares.mean())
    error = float(shares.std()) / max(1.0, len(shares)) ** 0.5
    return Measured(search_k, rerank, mean, mean - CONFIDENCE * error, len(shares))
