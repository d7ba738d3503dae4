"""The part of a generation that a lookup's conditions leave, counted before anything is searched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from producer.messages import Condition
from worker.index.attributes import Mask
from worker.index.generation import Generation
from worker.index.overlay import OverlayView

Slices = list[tuple[int, int]]
ROWS = 4096


@dataclass(frozen=True)
class Conditions:
    """What a lookup asks of its matches: `categories` None for any, and conditions on attributes."""

    categories: frozenset[str] | None = None
    attributes: Mapping[str, Condition] | None = None

    def __bool__(self) -> bool:
        return self.categories is not None or bool(self.attributes)


ANYTHING = Conditions()


@dataclass(frozen=True)
class Subset:
    """Slots that meet the conditions: slices where only categories are asked for, else those that are marked."""

    slices: Slices
    mask: Mask | None

    @cached_property
    def count(self) -> int:
        """How many there are."""
        if self.mask is not None:
            return int(np.count_nonzero(self.mask))
        return sum(stop - start for start, stop in self.slices)

    def holds(self, slots: NDArray[np.integer]) -> Mask:
        """Which of these slots, of any shape, are in it."""
        if self.mask is not None:
            marked: Mask = self.mask[slots]
            return marked
        inside = np.zeros(slots.shape, dtype=np.bool_)
        for start, stop in self.slices:
            inside |= (slots >= start) & (slots < stop)
        return inside

    def runs(self) -> Iterator[NDArray[np.int64]]:
        """All its slots, ascending, a few thousand at a time."""
        if self.mask is None:
            for start, stop in self.slices:
                for low in range(start, stop, ROWS):
                    yield np.arange(low, min(low + ROWS, stop))
        else:
            slots = np.flatnonzero(self.mask)
            for low, high in pairwise([*range(0, len(slots), ROWS), len(slots)]):
                yield slots[low:high]


def everything(base: Generation) -> Subset:
    """All slots of a generation."""
    return Subset(base.slots.slices(None), None)


def subset(base: Generation, overlay: OverlayView, conditions: Conditions) -> Subset:
    """What the conditions leave of the generation, by the attributes that its products have now."""
    slices = base.slots.slices(conditions.categories)
    if not conditions.attributes:
        return Subset(slices, None)
    marked = np.ones(len(base), dtype=np.bool_)
    for name, condition in conditions.attributes.items():
        marked &= base.attributes.meets(name, condition)
    overlay.correct(marked, conditions.attributes)
    if conditions.categories is None:
        return Subset(slices, marked)
    inside = np.zeros_like(marked)
    for start, stop in slices:
        inside[start:stop] = marked[start:stop]
    return Subset(slices, inside)
