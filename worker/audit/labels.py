"""Whether a generation has the attributes of its pictures' products as SQL does: what filters go by.

The index has them by value, SQL by product. So both are summed up to one number for each slot, over the hashes of
its names and values: 16 bytes a slot, and nothing has to be sorted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from db.queries.audit import AuditedImage
from producer.messages import Scalar
from worker.audit import sight
from worker.index.attributes import Column, as_float, scalars, text_hash
from worker.index.generation import Generation
from worker.index.slots import Keys
from worker.index.view import View

Sums = NDArray[np.uint64]
BLOCK = 1 << 20
_ALL_BITS = 2**64 - 1


class Labels:
    """Takes in what SQL says of the pictures of a generation, then names those that the generation has otherwise.

    Left out are pictures whose products changed since: the overlay has what they are now.
    """

    def __init__(self, base: Generation) -> None:
        self._base = base
        self._sums: Sums = np.zeros(len(base), np.uint64)
        self._taken = np.zeros(len(base), np.bool_)
        self._names: set[str] = set()

    def take(self, view: View, pictures: Sequence[AuditedImage]) -> None:
        """Note the attributes of live pictures that did not change after the view."""
        for picture, slot in zip(pictures, self._slots(view, pictures).tolist(), strict=True):
            if slot >= 0:
                self._sums[slot] = _sum_of(picture.attributes)
                self._taken[slot] = True
                self._names.update(picture.attributes)

    def suspects(self) -> Iterator[list[int]]:
        """Keys of the pictures that the index has with other attributes, block by block."""
        indexed = self._indexed()
        wrong = np.flatnonzero(self._taken & (self._sums != indexed))
        self._sums = indexed
        image_pks = self._base.slots.image_pks
        for start in range(0, len(wrong), sight.BLOCK):
            yield image_pks[wrong[start : start + sight.BLOCK]].tolist()

    def differ(self, view: View, pictures: Sequence[AuditedImage]) -> list[int]:
        """Which of these are wrong by what SQL says now; call it after `suspects`. None in another generation."""
        if view.generation is None or view.generation.published != self._base.published:
            return []
        slots = self._slots(view, pictures).tolist()
        return [
            picture.image_pk
            for picture, slot in zip(pictures, slots, strict=True)
            if slot >= 0 and int(self._sums[slot]) != _sum_of(picture.attributes)
        ]

    def _slots(self, view: View, pictures: Sequence[AuditedImage]) -> Keys:
        """The slots that say what the attributes are; -1 where the overlay does."""
        slots = sight.places(view, [each.image_pk for each in pictures]).slots
        patched = view.overlay.patched[: view.overlay.patches.count]
        return np.where(np.isin(slots, patched), -1, slots)

    def _indexed(self) -> Sums:
        sums: Sums = np.zeros(len(self._base), np.uint64)
        for name in sorted(self._names):
            column = self._base.attributes.values(name)
            if column is not None:
                _add(sums, name, column)
        return sums


def _sum_of(attributes: Mapping[str, Any]) -> int:
    known = {_hash(name, each) for name, value in attributes.items() for each in scalars(value)}
    return sum(known) & _ALL_BITS


def _hash(name: str, value: Scalar) -> int:
    if isinstance(value, str):
        return _hash_of_text(name, text_hash(value))
    if isinstance(value, bool):
        return hash((name, bool, value)) & _ALL_BITS
    return hash((name, float, as_float(value))) & _ALL_BITS


def _hash_of_text(name: str, hashed: int) -> int:
    return hash((name, str, hashed)) & _ALL_BITS


def _add(sums: Sums, name: str, column: Column) -> None:
    """Add what the index has of one name. A value that a product has twice is there twice in a row."""
    hashes = np.array(
        [
            *(_hash(name, number) for number in column.numbers.tolist()),
            *(_hash_of_text(name, hashed) for hashed in column.texts.tolist()),
            *(_hash(name, flag) for flag in (False, True)),
        ],
        dtype=np.uint64,
    )
    before = np.full(2, -1, np.int64)
    for start in range(0, len(column.slots), BLOCK):
        slots = np.asarray(column.slots[start : start + BLOCK])
        places = np.searchsorted(column.starts, np.arange(start, start + len(slots)), "right") - 1
        entries = np.column_stack([places, slots])
        new = (entries != np.concatenate([before[None], entries[:-1]])).any(axis=1)
        np.add.at(sums, slots[new], hashes[places[new]])
        before = entries[-1]
