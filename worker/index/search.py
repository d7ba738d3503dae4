"""The nearest products in a view: base and overlay, one score, each product by its nearest picture.

All work on candidates is on arrays, for many questions at once; no Python runs per candidate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from worker.index import score
from worker.index.engines import Eligible, Slots, engine
from worker.index.generation import Generation
from worker.index.overlay import OverlayView
from worker.index.score import Vectors
from worker.index.slots import Keys
from worker.index.subset import ANYTHING, Conditions, Subset, everything, subset
from worker.index.view import View

if TYPE_CHECKING:
    from producer.messages import BasePath, SearchPath

NO_PRODUCT = -1
GROUP_BYTES = 1 << 20
"""Candidate vectors that are scored at once: what stays in a core's cache."""
SCAN_CELLS = 1 << 22
FILTERED = 1.5
"""How many times as much the index looks at under conditions: what meets them is spread unevenly."""
FARTHER = 8
"""How many times as much the index looks at for a query around which too few products meet the conditions."""
READ_ONCE = 0.95
"""Share of reading and scoring a stored vector that is done once for all questions of a message."""

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Ask:
    """Questions to be answered together.

    `queries` [m, d] are the pictures asked about, `owners` [m] the question that each belongs to (0…k-1),
    `exclude` [k] the products that each question leaves out, `fetch` how many products each wants.
    """

    queries: Vectors
    owners: Indices
    exclude: tuple[frozenset[int], ...]
    fetch: int
    conditions: Conditions = ANYTHING
    exactly: bool = False
    """Whether the base is read, and not searched by its index: to measure that."""

    def only(self, owners: list[int]) -> Ask:
        """The same for some of the questions, numbered anew."""
        chosen = np.isin(self.owners, owners)
        return replace(
            self,
            queries=self.queries[chosen],
            owners=np.searchsorted(owners, self.owners[chosen]),
            exclude=tuple(self.exclude[owner] for owner in owners),
        )


@dataclass(frozen=True)
class Candidates:
    """The nearest products of one question, nearest first, by their nearest picture."""

    image_pks: Keys
    distances: Vectors
    path: SearchPath
    complete: bool
    """Whether there are no more than these, however many are asked for."""


@dataclass(frozen=True)
class _Hits:
    """Pictures near some query: flat arrays of the same length."""

    query: Indices
    image_pks: Keys
    product_pks: Keys
    squared: Vectors


def nearest(view: View, ask: Ask) -> list[Candidates]:
    """The `fetch` nearest products of each question; fewer only when there are no more."""
    within = None
    if view.generation is not None:
        within = subset(view.generation, view.overlay, ask.conditions)
    return _nearest(view, ask, within, width=2 * ask.fetch + 16)


def _nearest(view: View, ask: Ask, within: Subset | None, width: int) -> list[Candidates]:
    """Group the `width` nearest pictures of each query; widen for those whose products are too few."""
    recent = _overlay_hits(view, ask, width)
    base, ways = _base_search(view, ask, within, width)
    reachable = (within.count if within else 0) + view.overlay.alive
    complete = [way not in INDEXED and width >= reachable for way in ways]
    found = _grouped(ask, _joined([recent, base]), _named(view, ways, recent), complete)
    short = [
        i for i, each in enumerate(found) if len(each.image_pks) < ask.fetch and width < reachable
    ]
    if short:
        for i, wider in zip(short, _nearest(view, ask.only(short), within, 4 * width), strict=True):
            found[i] = wider
    return found


# -- which way ------------------------------------------------------------------------------------

INDEXED: frozenset[BasePath] = frozenset(("annoy", "faiss"))


@dataclass(frozen=True)
class Plan:
    """How to search the base: by its index, with this effort for so many candidates, or by reading it."""

    by_index: bool
    count: int
    effort: int


def plan(base: Generation, within: Subset, width: int, queries: int) -> Plan:
    """By the index, unless reading what the conditions leave takes less time.

    Of what the index sees only the share that meets the conditions is of use, so it has to look at so much more.
    """
    parameters = base.manifest.parameters
    count = max(parameters.rerank, 2 * width)
    share = within.count / len(base)
    effort = int(parameters.effort * max(1.0, count / parameters.rerank) / share)
    if within.count < len(base):
        effort = int(FILTERED * effort)
    return Plan(_pays(base, within, effort, queries), count, effort)


def _pays(base: Generation, within: Subset, effort: int, queries: int) -> bool:
    """Whether the index takes less time than reading."""
    alike = engine(base.manifest.engine).read_alike(effort, base.manifest.dimension) * queries
    return alike < within.count * (READ_ONCE + (1 - READ_ONCE) * queries)


def _base_search(
    view: View, ask: Ask, within: Subset | None, width: int
) -> tuple[_Hits, list[BasePath]]:
    """What the base says, and the way it was searched for each question.

    A query around which too few products meet the conditions is searched farther, while that pays, and then read.
    """
    base = view.generation
    ways: list[BasePath] = ["none"] * len(ask.exclude)
    if base is None or within is None or not within.count:
        return _no_hits(), ways
    left = np.arange(len(ask.queries))
    eligible = _eligible(view.overlay, within if ask.conditions else None)
    chosen = plan(base, within, width, len(left))
    if ask.exactly:
        chosen = replace(chosen, by_index=False)
    hits = []
    while chosen.by_index and len(left):
        slots, squared, certain = _walk(base, ask.queries[left], chosen, eligible)
        enough = certain >= min(ask.fetch, within.count)
        squared[~enough] = np.inf
        hits.append(_base_hits(base, slots, *_smallest(squared, width), left))
        left = left[~enough]
        farther = FARTHER * chosen.effort
        chosen = replace(
            chosen, effort=farther, by_index=_pays(base, within, 2 * farther, len(left))
        )
    if len(left):
        hits.append(_read(view, ask, within, width, left))
    read = set(ask.owners[left].tolist())
    reading, indexed = _reading(ask, within), base.manifest.engine
    return _joined(hits), [reading if i in read else indexed for i in range(len(ways))]


def _read(view: View, ask: Ask, within: Subset, width: int, queries: Indices) -> _Hits:
    """What reading all that the conditions leave says to some of the queries."""
    base = view.generation
    assert base is not None
    slots, squared = scan(base, ask.queries[queries], width, within, view.overlay)
    return _base_hits(base, slots, *_smallest(squared, width), queries)


def _reading(ask: Ask, within: Subset) -> BasePath:
    if within.mask is not None:
        return "subset"
    return "exact" if ask.conditions.categories is None else "category"


def _named(view: View, ways: list[BasePath], overlay: _Hits) -> list[SearchPath]:
    recent = len(overlay.query) > 0
    if view.generation is None:
        return ["exact" if view.overlay.alive else "none"] * len(ways)
    return [_with_overlay(way) if recent else way for way in ways]


def _with_overlay(way: BasePath) -> SearchPath:
    return "overlay" if way == "none" else f"{way}+overlay"  # type: ignore[return-value]


# -- the base -------------------------------------------------------------------------------------


def _walk(
    base: Generation, queries: Vectors, chosen: Plan, eligible: Eligible | None
) -> tuple[Slots, Vectors, Indices]:
    found = base.near(queries, chosen.count, chosen.effort, eligible)
    squared = rescore(base, queries, found.slots)
    squared[found.slots < 0] = np.inf
    return found.slots, squared, found.certain


def walk(
    base: Generation, queries: Vectors, count: int, effort: int, without: Slots | None = None
) -> tuple[Slots, Vectors]:
    """Slots [m, count] that the engine finds, -1 where there are fewer, with their exact squared distances."""
    slots = base.near(queries, count, effort, None, without).slots
    squared = rescore(base, queries, slots)
    squared[slots < 0] = np.inf
    return slots, squared


def _eligible(overlay: OverlayView, within: Subset | None) -> Eligible | None:
    """Which slots may be answered with; None for all."""
    if within is None:
        return (lambda slots: ~overlay.hides(slots)) if overlay.changes else None
    if not overlay.changes:
        return within.holds
    return lambda slots: within.holds(slots) & ~overlay.hides(slots)


def rescore(base: Generation, queries: Vectors, slots: NDArray[np.integer]) -> Vectors:
    """Squared distances [m, c] of candidates [m, c] from their queries; slots below 0 count as slot 0."""
    count = slots.shape[1]
    squared = np.empty(slots.shape, dtype=np.float32)
    step = max(1, GROUP_BYTES // max(1, 4 * count * queries.shape[1]))
    for start in range(0, len(slots), step):
        part = np.maximum(slots[start : start + step], 0)
        squared[start : start + step] = score.squared(
            queries[start : start + step], base.vectors_at(part)
        )
    return squared


def scan(
    base: Generation,
    queries: Vectors,
    width: int,
    within: Subset | None = None,
    overlay: OverlayView | None = None,
) -> tuple[Indices, Vectors]:
    """The `width` nearest slots of a subset that the overlay does not hide, by reading all.

    Slots [m, width], -1 where there are fewer, and their squared distances.
    """
    best = _Best(len(queries), width)
    for slots in (within or everything(base)).runs():
        side_by_side = slots[-1] - slots[0] + 1 == len(slots)
        rows = score.widen(
            base.vectors[slots[0] : slots[-1] + 1]
            if side_by_side
            else np.take(base.vectors, slots, axis=0)
        )
        norms = score.norms_of(rows)
        if overlay is not None and overlay.changes:
            norms[overlay.hides(slots)] = np.inf
        best.offer(slots, score.rough(queries, rows, norms))
    keys = best.keys()
    squared = rescore(base, queries, keys)
    squared[keys < 0] = np.inf
    return keys, squared


class _Best:
    """The `width` best keys of each query among all that were offered."""

    def __init__(self, queries: int, width: int) -> None:
        self._queries = queries
        self._width = width
        self._limits: Vectors | None = None
        """What a score must be below to matter, for each query."""
        self._parts: list[tuple[Indices, Indices, Vectors]] = []
        self._held = 0

    def offer(self, keys: Indices, scores: Vectors) -> None:
        """Consider keys [n], of scores [m, n]; an infinite score is no offer."""
        if self._limits is None:
            last = min(self._width, scores.shape[1]) - 1
            # Partitioning values is much quicker than partitioning places, and only needed once.
            self._limits = np.nextafter(np.partition(scores, last, axis=1)[:, last], np.inf)
            if scores.shape[1] < self._width:
                self._limits[:] = np.inf
        query, column = np.nonzero(scores < self._limits[:, None])
        self._parts.append((query, keys[column], scores[query, column]))
        self._held += len(query)
        if self._held > 4 * self._width * self._queries:
            self._trim()

    def keys(self) -> Indices:
        """Keys [m, width] in order of score, -1 where there are fewer."""
        found = np.full((self._queries, self._width), -1, dtype=np.int64)
        if self._parts:
            query, keys, rank = self._trim()
            found[query, rank] = keys
        return found

    def _trim(self) -> tuple[Indices, Indices, Indices]:
        query, keys, scores = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        order = np.lexsort((scores, query))
        query, keys, scores = query[order], keys[order], scores[order]
        rank = np.arange(len(query)) - np.searchsorted(query, query)
        best = rank < self._width
        query, keys, scores, rank = query[best], keys[best], scores[best], rank[best]
        self._parts, self._held = [(query, keys, scores)], len(query)
        full = rank == self._width - 1
        assert self._limits is not None
        self._limits[query[full]] = scores[full]
        return query, keys, rank


def _base_hits(
    base: Generation,
    slots: NDArray[np.integer],
    places: Indices,
    squared: Vectors,
    queries: Indices,
) -> _Hits:
    """Hits of the finite distances; `queries` are the numbers of the rows."""
    row, column = np.nonzero(np.isfinite(squared))
    chosen = slots[row, places[row, column]]
    return _Hits(
        queries[row],
        base.slots.image_pks[chosen],
        base.slots.product_pks[chosen],
        squared[row, column],
    )


def _no_hits() -> _Hits:
    nothing = np.empty(0, dtype=np.int64)
    return _Hits(nothing, nothing, nothing, np.empty(0, dtype=np.float32))


# -- the overlay ----------------------------------------------------------------------------------


def _overlay_hits(view: View, ask: Ask, width: int) -> _Hits:
    """All recent pictures, exactly."""
    overlay = view.overlay
    rows = overlay.rows(ask.conditions.categories, ask.conditions.attributes)
    if not rows.any():
        return _no_hits()
    norms = np.where(rows, overlay.norms[: overlay.count], np.float32(np.inf))
    places, squared = _overlay_best(view, ask.queries, norms, width)
    query, column = np.nonzero(np.isfinite(squared))
    chosen = places[query, column]
    return _Hits(
        query, overlay.image_pks[chosen], overlay.product_pks[chosen], squared[query, column]
    )


def _overlay_best(
    view: View, queries: Vectors, norms: Vectors, width: int
) -> tuple[Indices, Vectors]:
    vectors = view.overlay.vectors[: view.overlay.count]
    step = max(1, SCAN_CELLS // len(vectors))
    parts = []
    for start in range(0, len(queries), step):
        part = queries[start : start + step]
        places, rough = _smallest(score.rough(part, vectors, norms), width)
        exact = _rescore_rows(vectors, part, places)
        exact[~np.isfinite(rough)] = np.inf
        parts.append((places, exact))
    return np.concatenate([p for p, _ in parts]), np.concatenate([e for _, e in parts])


def _rescore_rows(vectors: Vectors, queries: Vectors, places: Indices) -> Vectors:
    step = max(1, GROUP_BYTES // max(1, 4 * places.shape[1] * queries.shape[1]))
    return np.concatenate(
        [
            score.squared(queries[start : start + step], vectors[places[start : start + step]])
            for start in range(0, len(queries), step)
        ]
    )


# -- putting together -----------------------------------------------------------------------------


def _smallest(values: Vectors, count: int) -> tuple[Indices, Vectors]:
    """Places [m, c] and values of the `count` smallest of each row, in no order."""
    if values.shape[1] <= count:
        return np.broadcast_to(np.arange(values.shape[1]), values.shape), values
    places = np.argpartition(values, count - 1, axis=1)[:, :count]
    return places, np.take_along_axis(values, places, axis=1)


def _joined(hits: list[_Hits]) -> _Hits:
    if len(hits) == 1:
        return hits[0]
    return _Hits(
        np.concatenate([each.query for each in hits]),
        np.concatenate([each.image_pks for each in hits]),
        np.concatenate([each.product_pks for each in hits]),
        np.concatenate([each.squared for each in hits]),
    )


def _grouped(
    ask: Ask, hits: _Hits, paths: list[SearchPath], complete: list[bool]
) -> list[Candidates]:
    """Each question's products by their nearest picture, nearest first, those that it leaves out aside."""
    owner = ask.owners[hits.query]
    order = np.lexsort((hits.image_pks, hits.squared, owner))
    order = order[~_left_out(ask, owner[order], hits.product_pks[order])]
    order = order[_first_of_each(owner[order], hits.product_pks[order])]
    owner = owner[order]
    bounds = np.searchsorted(owner, np.arange(len(ask.exclude) + 1)).tolist()
    images, distances = hits.image_pks[order], np.sqrt(hits.squared[order])
    return [
        _cut(images[start:stop], distances[start:stop], ask.fetch, path, whole)
        for start, stop, path, whole in zip(bounds, bounds[1:], paths, complete, strict=False)
    ]


def _left_out(ask: Ask, owners: Indices, products: Keys) -> NDArray[np.bool_]:
    """Which (owner, product) the questions leave out."""
    most = max(map(len, ask.exclude), default=0)
    out = np.zeros(len(owners), dtype=np.bool_)
    excluded = np.full((len(ask.exclude), max(most, 1)), NO_PRODUCT, dtype=np.int64)
    for row, each in zip(excluded, ask.exclude, strict=True):
        row[: len(each)] = list(each)
    for column in excluded.T:
        out |= products == column[owners]
    return out


def _cut(
    images: Keys, distances: Vectors, fetch: int, path: SearchPath, complete: bool
) -> Candidates:
    complete = complete and len(images) <= fetch
    return Candidates(images[:fetch], distances[:fetch], path, complete)


def _first_of_each(owners: Indices, products: Keys) -> NDArray[np.bool_]:
    """Which places hold the first of their (owner, product)."""
    order = np.lexsort((products, owners))  # stable: equal pairs stay in order of distance
    same = (np.diff(owners[order]) == 0) & (np.diff(products[order]) == 0)
    first = np.ones(len(order), dtype=np.bool_)
    first[order[1:][same]] = False
    return first
