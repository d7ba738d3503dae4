"""The nearest products in a view: base and overlay, one score, each product by its nearest picture.

All work on candidates is on arrays, for many questions at once; no Python runs per candidate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from worker.index import score
from worker.index.annoy_engine import Slots
from worker.index.generation import Generation
from worker.index.overlay import OverlayView
from worker.index.score import Vectors
from worker.index.slots import Keys
from worker.index.view import View

if TYPE_CHECKING:
    # The process that checks a generation must start quickly: without the client's dependencies.
    from producer.messages import SearchPath

NO_PRODUCT = -1
EXACT_ROWS = 20_000
"""A subset of the base up to this size is searched exactly: it takes about as long as walking the trees."""
WALK_LIMIT = 8_000
"""Above so many candidates the trees cost more than reading everything."""
GROUP_BYTES = 1 << 20
"""Candidate vectors that are scored at once: what stays in a core's cache."""
VISITS_PER_CANDIDATE = 5
"""Least nodes to visit for each candidate wanted: with fewer the last ones are arbitrary."""
SCAN_ROWS = 4096
SCAN_CELLS = 1 << 22

BasePath = Literal["annoy", "exact", "none"]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Ask:
    """Questions to be answered together.

    `queries` [m, d] are the pictures asked about, `owners` [m] the question that each belongs to (0…k-1),
    `exclude` [k] the product that a question leaves out (NO_PRODUCT: none), `fetch` how many products each wants.
    """

    queries: Vectors
    owners: Indices
    exclude: Keys
    fetch: int
    categories: frozenset[str] | None = None

    def only(self, owners: list[int]) -> Ask:
        """The same for some of the questions, numbered anew."""
        chosen = np.isin(self.owners, owners)
        return replace(
            self,
            queries=self.queries[chosen],
            owners=np.searchsorted(owners, self.owners[chosen]),
            exclude=self.exclude[owners],
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
    return _nearest(view, ask, width=2 * ask.fetch + 16)


def _nearest(view: View, ask: Ask, width: int) -> list[Candidates]:
    """Group the `width` nearest pictures of each query; widen for those whose products are too few."""
    plan = _plan(view, ask, width)
    hits = [_overlay_hits(view, ask, width)]
    if view.generation is not None and plan != "none":
        search = _walk if plan == "annoy" else _scan
        hits.append(search(view, view.generation, ask, width))
    complete = plan != "annoy" and width >= _rows(view, ask) + view.overlay.alive
    found = _grouped(ask, _joined(hits), _named(view, plan, hits[0]), complete)
    short = [i for i, each in enumerate(found) if len(each.image_pks) < ask.fetch]
    if short and not complete:
        for i, wider in zip(short, _nearest(view, ask.only(short), 4 * width), strict=True):
            found[i] = wider
    return found


# -- which way ------------------------------------------------------------------------------------


def _rows(view: View, ask: Ask) -> int:
    """Slots of the base that are of the categories asked for."""
    if view.generation is None:
        return 0
    return sum(stop - start for start, stop in view.generation.slots.slices(ask.categories))


def _plan(view: View, ask: Ask, width: int) -> BasePath:
    base, rows = view.generation, _rows(view, ask)
    if base is None or not rows:
        return "none"
    if ask.categories is not None and rows <= EXACT_ROWS:
        return "exact"
    walked = _walked(base, rows, width)
    return "exact" if 2 * walked >= len(base) or walked > WALK_LIMIT else "annoy"


def _walked(base: Generation, rows: int, width: int) -> int:
    """Candidates to take from the trees so that about `rerank` of them are among the `rows` allowed ones."""
    return max(base.manifest.parameters.rerank, 2 * width) * len(base) // rows


def _named(view: View, plan: BasePath, overlay: _Hits) -> SearchPath:
    if view.generation is None:
        return "exact" if view.overlay.alive else "none"
    if plan == "none":
        return "overlay" if len(overlay.query) else "none"
    if plan == "annoy":
        return "annoy+overlay" if len(overlay.query) else "annoy"
    return "exact+overlay" if len(overlay.query) else "exact"


# -- the base -------------------------------------------------------------------------------------


def _walk(view: View, base: Generation, ask: Ask, width: int) -> _Hits:
    """Candidates from the trees, scored exactly."""
    count = _walked(base, _rows(view, ask), width)
    slots, squared = walk(base, ask.queries, count, base.manifest.parameters.search_k)
    squared[~_eligible(view, base, ask, slots)] = np.inf
    return _base_hits(base, slots, *_smallest(squared, width))


def walk(base: Generation, queries: Vectors, count: int, search_k: int) -> tuple[Slots, Vectors]:
    """Slots [m, count] from the trees, -1 where there are fewer, with their exact squared distances."""
    slots = base.near(queries, count, max(search_k, VISITS_PER_CANDIDATE * count))
    squared = rescore(base, queries, slots)
    squared[slots < 0] = np.inf
    return slots, squared


def _eligible(
    view: View, base: Generation, ask: Ask, slots: NDArray[np.integer]
) -> NDArray[np.bool_]:
    good = slots >= 0
    if view.overlay.changes:
        good &= ~view.overlay.hides(slots)
    if ask.categories is not None:
        inside = np.zeros_like(good)
        for start, stop in base.slots.slices(ask.categories):
            inside |= (slots >= start) & (slots < stop)
        good &= inside
    return good


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


def _scan(view: View, base: Generation, ask: Ask, width: int) -> _Hits:
    """All pictures of the categories asked for, a block at a time."""
    slots, squared = scan(base, ask.queries, width, base.slots.slices(ask.categories), view.overlay)
    return _base_hits(base, slots, *_smallest(squared, width))


def scan(
    base: Generation,
    queries: Vectors,
    width: int,
    slices: list[tuple[int, int]],
    overlay: OverlayView | None = None,
) -> tuple[Indices, Vectors]:
    """The `width` nearest slots (or somewhat more) of the slices that the overlay does not hide, by reading all.

    Slots [m, c], -1 where there are fewer, and their squared distances, in no order.
    """
    best = _Best(len(queries), width)
    for start, stop in slices:
        for low in range(start, stop, SCAN_ROWS):
            slots = np.arange(low, min(low + SCAN_ROWS, stop))
            rows = score.widen(base.vectors[low : low + len(slots)])
            norms = score.norms_of(rows)
            if overlay is not None:
                norms[overlay.hides(slots)] = np.inf
            best.offer(slots, score.rough(queries, rows, norms))
    squared = rescore(base, queries, best.keys)
    squared[best.keys < 0] = np.inf
    return best.keys, squared


class _Best:
    """The `width` best keys of each query among all that were offered, -1 where there are fewer."""

    def __init__(self, queries: int, width: int) -> None:
        self._width = width
        self.keys: Indices = np.empty((queries, 0), dtype=np.int64)
        self._scores: Vectors = np.empty((queries, 0), dtype=np.float32)

    def offer(self, keys: Indices, scores: Vectors) -> None:
        """Consider keys [n], of scores [m, n]; an infinite score is no offer."""
        places, chosen = _smallest(scores, self._width)
        offered = np.where(np.isfinite(chosen), keys[places], -1)
        self.keys = np.concatenate([self.keys, offered], axis=1)
        self._scores = np.concatenate([self._scores, chosen], axis=1)
        if self.keys.shape[1] > 4 * self._width:
            self._trim()

    def _trim(self) -> None:
        places, self._scores = _smallest(self._scores, self._width)
        self.keys = np.take_along_axis(self.keys, places, axis=1)


def _base_hits(
    base: Generation, slots: NDArray[np.integer], places: Indices, squared: Vectors
) -> _Hits:
    query, column = np.nonzero(np.isfinite(squared))
    chosen = slots[query, places[query, column]]
    return _Hits(
        query, base.slots.image_pks[chosen], base.slots.product_pks[chosen], squared[query, column]
    )


# -- the overlay ----------------------------------------------------------------------------------


def _overlay_hits(view: View, ask: Ask, width: int) -> _Hits:
    """All recent pictures, exactly."""
    overlay = view.overlay
    rows = overlay.rows(ask.categories)
    if not rows.any():
        nothing = np.empty(0, dtype=np.int64)
        return _Hits(nothing, nothing, nothing, np.empty(0, dtype=np.float32))
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


def _grouped(ask: Ask, hits: _Hits, path: SearchPath, complete: bool) -> list[Candidates]:
    """Each question's products by their nearest picture, nearest first, itself left out."""
    owner = ask.owners[hits.query]
    own = hits.product_pks == ask.exclude[owner]
    order = np.lexsort((hits.image_pks, hits.squared, owner))
    order = order[~own[order]]
    order = order[_first_of_each(owner[order], hits.product_pks[order])]
    owner = owner[order]
    bounds = np.searchsorted(owner, np.arange(len(ask.exclude) + 1))
    images, distances = hits.image_pks[order], np.sqrt(hits.squared[order])
    return [
        _cut(images[start:stop], distances[start:stop], ask.fetch, path, complete)
        for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
    ]


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
