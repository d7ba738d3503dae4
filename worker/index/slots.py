"""The slot table: which picture and product each dense slot 0…n-1 is (invariant 10).

Slots are in order of category, so that the pictures of a category are one slice, and within it neighbours in space
lie near each other, so that a search touches fewer pages.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from worker.index.errors import GenerationDamaged
from worker.index.manifest import CategorySlice

Keys = NDArray[np.int64]
Number = TypeVar("Number", bound=np.number)
NPY_HEADER = 128
"""Bytes before the numbers in a file of a one-dimensional array."""
FILES = ("slot_image.npy", "slot_product.npy", "image_sorted.npy", "image_slot.npy")


@dataclass(frozen=True)
class SlotTable:
    """Image and product of each slot, and the way back from image to slot."""

    image_pks: Keys
    product_pks: Keys
    sorted_pks: Keys
    sorted_slots: NDArray[np.int32]
    categories: tuple[CategorySlice, ...]

    def __len__(self) -> int:
        return len(self.image_pks)

    @classmethod
    def of(
        cls, image_pks: Keys, product_pks: Keys, categories: Sequence[CategorySlice]
    ) -> SlotTable:
        """Make the table from what the slots hold."""
        order = np.argsort(image_pks, kind="stable")
        return cls(
            image_pks, product_pks, image_pks[order], order.astype(np.int32), tuple(categories)
        )

    def slots_of(self, image_pks: Keys) -> NDArray[np.int64]:
        """Slot of each image, -1 for one that is not in this generation."""
        if not len(self):
            return np.full(len(image_pks), -1, dtype=np.int64)
        places = np.minimum(np.searchsorted(self.sorted_pks, image_pks), len(self) - 1)
        slots = self.sorted_slots[places].astype(np.int64)
        return np.where(self.sorted_pks[places] == image_pks, slots, -1)

    def slices(self, allowed: Collection[str] | None) -> list[tuple[int, int]]:
        """Ranges [start, stop) of the slots of the allowed categories; None allows all."""
        if allowed is None:
            return [(0, len(self))] if len(self) else []
        return [(c.start, c.start + c.count) for c in self.categories if c.name in allowed]

    def save(self, directory: Path) -> None:
        """Write the four arrays (not synced)."""
        arrays: tuple[NDArray[np.integer], ...] = (
            self.image_pks,
            self.product_pks,
            self.sorted_pks,
            self.sorted_slots,
        )
        for name, array in zip(FILES, arrays, strict=True):
            np.save(directory / name, array, allow_pickle=False)

    @classmethod
    def load(cls, directory: Path, images: int, categories: tuple[CategorySlice, ...]) -> SlotTable:
        """Map the four arrays; raises GenerationDamaged when one is not of `images` numbers."""
        image_pks, product_pks, sorted_pks = (
            load_numbers(directory / n, images, np.int64) for n in FILES[:3]
        )
        slots = load_numbers(directory / FILES[3], images, np.int32)
        return cls(image_pks, product_pks, sorted_pks, slots, categories)


def load_numbers(path: Path, count: int | None, kind: type[Number]) -> NDArray[Number]:
    """Map an array of `count` numbers (None: any) of this kind; raises GenerationDamaged when it is none."""
    try:
        # An empty file cannot be mapped; a plain ndarray view of the map is quicker to index than np.memmap.
        empty = count == 0 or path.stat().st_size <= NPY_HEADER
        array: NDArray[Number] = np.load(path, mmap_mode=None if empty else "r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise GenerationDamaged(f"{path.name} cannot be read") from error
    if array.ndim != 1 or array.dtype != kind or count not in (None, len(array)):
        raise GenerationDamaged(f"{path.name} does not hold {count} numbers")
    return np.asarray(array)
