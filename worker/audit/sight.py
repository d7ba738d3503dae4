"""Compares pictures with what a view of the index holds of them, and finds what it holds besides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from db.queries.audit import AuditedImage
from worker.audit.findings import Flaw, Kind
from worker.index.generation import Generation
from worker.index.overlay import GONE
from worker.index.score import Vectors
from worker.index.slots import Keys
from worker.index.view import View

BLOCK = 1 << 16
HALF, LEAST_HALF = 2.0**-10, 2.0**-24
"""Twice what rounding to half precision moves a number by: a share of it, or next to zero this much."""


@dataclass(frozen=True)
class Places:
    """Where a view has pictures: row of the overlay, or slot of the generation, or -1."""

    rows: Keys
    slots: Keys


def compare(view: View, pictures: Sequence[AuditedImage], vectors: Vectors) -> list[Flaw]:
    """What the view has otherwise than SQL of live pictures, none of which changed after the view's revision.

    `vectors` are SQL's, float32 [n, d], of the view's own model.
    """
    if not pictures:
        return []
    held, found = view.vectors_of([each.image_pk for each in pictures])
    flaws = [Flaw(pictures[i].image_pk, Kind.NOT_IN_VIEW) for i in np.flatnonzero(~found).tolist()]
    same = (np.abs(held - vectors) <= np.abs(vectors) * HALF + LEAST_HALF).all(axis=1)
    flaws += [
        Flaw(pictures[i].image_pk, Kind.VECTOR_DIFFERS)
        for i in np.flatnonzero(found & ~same).tolist()
    ]
    return flaws + _misplaced(view, pictures)


def _misplaced(view: View, pictures: Sequence[AuditedImage]) -> list[Flaw]:
    at = places(view, [each.image_pk for each in pictures])
    products = np.fromiter((each.product_pk for each in pictures), np.int64, len(pictures))
    theirs = np.full(len(pictures), -1, np.int64)
    in_overlay, in_base = at.rows >= 0, at.slots >= 0
    theirs[in_overlay] = view.overlay.product_pks[at.rows[in_overlay]]
    flaws: list[Flaw] = []
    if view.generation is not None:
        theirs[in_base] = view.generation.slots.product_pks[at.slots[in_base]]
        flaws += _under_other_categories(view.generation, pictures, at.slots)
    wrong = (in_overlay | in_base) & (theirs != products)
    return flaws + [
        Flaw(pictures[i].image_pk, Kind.WRONG_PRODUCT) for i in np.flatnonzero(wrong).tolist()
    ]


def _under_other_categories(
    base: Generation, pictures: Sequence[AuditedImage], slots: Keys
) -> Iterator[Flaw]:
    categories = base.slots.categories
    starts = np.fromiter((each.start for each in categories), np.int64, len(categories))
    codes = (np.searchsorted(starts, slots, "right") - 1).tolist()
    for i in np.flatnonzero(slots >= 0).tolist():
        has = categories[codes[i]].name
        if has != pictures[i].category:
            detail = f"{has!r} in the index, {pictures[i].category!r} in the catalogue"
            yield Flaw(pictures[i].image_pk, Kind.WRONG_CATEGORY, detail)


def places(view: View, image_pks: Sequence[int]) -> Places:
    """Where the view would answer from with these pictures."""
    known = [view.overlay.row_of(pk) for pk in image_pks]
    rows = np.fromiter((-1 if r is None or r == GONE else r for r in known), np.int64, len(known))
    slots = np.full(len(known), -1, np.int64)
    if view.generation is not None:
        unchanged = np.fromiter((row is None for row in known), np.bool_, len(known))
        pks = np.asarray(image_pks, np.int64)[unchanged]
        slots[unchanged] = view.generation.slots.slots_of(pks)
    return Places(rows, slots)


class Seen:
    """Marks what a view holds as its pictures turn up in SQL; what stays unmarked, SQL does not know as live.

    A byte for every slot of the generation, and for every row of the overlay.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._slots = np.zeros(len(view.generation) if view.generation else 0, np.bool_)
        self._rows = np.zeros(view.overlay.count, np.bool_)

    def mark(self, live: Sequence[int]) -> None:
        """Note that these pictures are live."""
        at = places(self._view, live)
        self._rows[at.rows[at.rows >= 0]] = True
        self._slots[at.slots[at.slots >= 0]] = True

    def strangers(self) -> Iterator[list[int]]:
        """Keys of the pictures that the view would answer with and that were not marked, block by block."""
        overlay = self._view.overlay
        rows = np.flatnonzero(overlay.rows(None) & ~self._rows)
        yield from _blocks(overlay.image_pks[: overlay.count][rows])
        if self._view.generation is not None:
            image_pks = self._view.generation.slots.image_pks
            for start in range(0, len(self._slots), BLOCK):
                slots = start + np.flatnonzero(~self._slots[start : start + BLOCK])
                shown = slots[~overlay.hides(slots)]
                yield from _blocks(np.unique(image_pks[shown]))


def holds(view: View, image_pks: Sequence[int]) -> NDArray[np.bool_]:
    """Which of these pictures the view would answer with."""
    return view.vectors_of(image_pks)[1]


def doubled(base: Generation) -> Iterator[list[int]]:
    """Keys of the pictures that have more than one slot, block by block."""
    slots = base.slots
    for start in range(0, len(slots), BLOCK):
        here = np.asarray(slots.image_pks[start : start + BLOCK])
        other = slots.slots_of(here) != np.arange(start, start + len(here))
        yield from _blocks(here[other])


def _blocks(image_pks: Keys) -> Iterator[list[int]]:
    for start in range(0, len(image_pks), BLOCK):
        yield image_pks[start : start + BLOCK].tolist()
