"""Measures how many of the true neighbours an index finds, and finds the quickest way to the wanted share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from worker.index.engines import Slots, engine
from worker.index.generation import Generation
from worker.index.score import Vectors
from worker.index.search import Indices, scan, walk

AT = 10
"""Recall is that of the ten nearest."""
QUERIES = 1000
RERANKS = (60, 100)
"""Candidates to score exactly that are tried before the most that is allowed."""
CONFIDENCE = 1.645
"""Standard errors below the mean of what is true with 95 %."""
SAME = 1e-5
"""Distances that differ by less are ties: either picture is a true neighbour."""
TIMED = 100


@dataclass(frozen=True)
class Measured:
    """Recall with some parameters, over `queries` pictures that are left out of their own answers."""

    effort: int
    rerank: int
    recall: float
    at_least: float
    """Lower bound of the recall, with 95 % confidence."""
    queries: int
    latency_ms: float
    """Of a query in a batch while tuning; of a single one, the median, in what `tune` returns."""


@dataclass(frozen=True)
class Truth:
    """Queries, and how far their true neighbours are."""

    slots: Indices
    vectors: Vectors
    limits: Vectors
    """Distance of each query's last true neighbour."""
    count: int


def tune(
    base: Generation, target: float, *, effort: int, rerank: int, seed: int, queries: int = QUERIES
) -> Measured:
    """The quickest parameters whose lower bound reaches `target`, or those of the best recall.

    An `effort` above 0 is taken as it is, with `rerank`; else fewer candidates are scored where they do as well.
    """
    truth = truth_of(base, queries, seed)
    efforts = (effort,) if effort else engine(base.manifest.engine).efforts(len(base))
    if not truth.count:
        return Measured(efforts[0], rerank, 1.0, 1.0, 0, 0.0)
    reranks = (rerank,) if effort else (*(each for each in RERANKS if each < rerank), rerank)
    tried = [_cheapest(base, truth, target, efforts, each) for each in reranks]
    good = [each for each in tried if each.at_least >= target]
    best = min(good, key=lambda m: m.latency_ms) if good else max(tried, key=lambda m: m.recall)
    return replace(best, latency_ms=_alone(base, truth, best))


def _cheapest(
    base: Generation, truth: Truth, target: float, efforts: Sequence[int], rerank: int
) -> Measured:
    """The least effort that reaches the target, or the greatest: recall grows with effort.

    A few great steps up find one that does, halving the last step finds the least; great efforts are seldom tried.
    """
    low, stride = 0, max(1, len(efforts) // 4)
    for high in [*range(stride, len(efforts) - 1, stride), len(efforts) - 1]:
        best = measure(base, truth, efforts[high], rerank)
        if best.at_least >= target:
            break
        low = high + 1
    while low < high:
        middle = (low + high) // 2
        measured = measure(base, truth, efforts[middle], rerank)
        if measured.at_least >= target:
            best, high = measured, middle
        else:
            low = middle + 1
    return best


def truth_of(base: Generation, queries: int, seed: int) -> Truth:
    """Find the true neighbours of some pictures by reading everything."""
    chosen = np.random.default_rng(seed).permutation(len(base))[:queries]
    slots = np.sort(chosen).astype(np.int64)
    count = min(AT, len(base) - 1)
    vectors = base.vectors_at(slots) if len(slots) else np.empty((0, 0), dtype=np.float32)
    if count < 1:
        return Truth(slots, vectors, np.empty(0, dtype=np.float32), 0)
    near, squared = scan(base, vectors, count + 1)
    squared[near == slots[:, None]] = np.inf
    limits = np.sqrt(np.partition(squared, count - 1, axis=1)[:, count - 1])
    return Truth(slots, vectors, limits, count)


def measure(base: Generation, truth: Truth, effort: int, rerank: int) -> Measured:
    """Recall with these parameters. A query learns nothing from its own place in the index."""
    began = time.perf_counter()
    slots, squared = _searched(base, truth, effort, rerank)
    taken = time.perf_counter() - began
    squared[slots == truth.slots[:, None]] = np.inf
    hits = (np.sqrt(squared) <= truth.limits[:, None] + SAME).sum(axis=1)
    shares = np.minimum(hits, truth.count) / truth.count
    mean = float(shares.mean())
    error = float(shares.std()) / max(1.0, len(shares)) ** 0.5
    count = len(shares)
    return Measured(
        effort, rerank, mean, mean - CONFIDENCE * error, count, 1000 * taken / max(count, 1)
    )


def _searched(
    base: Generation, truth: Truth, effort: int, rerank: int
) -> tuple[Slots | Indices, Vectors]:
    if base.manifest.engine == "exact":
        return scan(base, truth.vectors, truth.count + 1)
    without = truth.slots.astype(np.int32)
    return walk(base, truth.vectors, min(rerank, len(base)), effort, without)


def _alone(base: Generation, truth: Truth, measured: Measured) -> float:
    """Median milliseconds of a search for one query."""
    times = []
    for place in range(min(TIMED, len(truth.slots))):
        one = replace(
            truth, slots=truth.slots[place : place + 1], vectors=truth.vectors[place : place + 1]
        )
        began = time.perf_counter()
        _searched(base, one, measured.effort, measured.rerank)
        times.append(1000 * (time.perf_counter() - began))
    return median(times) if times else 0.0
