"""Which of the overlay's rows meet a condition: attributes of rows that are added one after the other.

One writer adds; readers hold snapshots, which see no later row. As in `attributes`, SQL confirms what it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from producer.messages import Condition, Range, Scalar
from worker.index.attributes import Mask, as_float, leaves_out, scalars

_NO_TEXT = -1


@dataclass(frozen=True)
class Entries:
    """The first `filled` entries of one key: row, number (NaN for others), code of a text or boolean (or -1)."""

    filled: int
    rows: NDArray[np.int32]
    numbers: NDArray[np.float64]
    codes: NDArray[np.int32]
    coded: Mapping[tuple[type, Scalar], int]

    def meet(self, condition: Condition, count: int) -> Mask:
        """Which of the first `count` rows meet it."""
        mask = np.zeros(count, dtype=np.bool_)
        mask[self.rows[: self.filled][self._met(condition)]] = True
        return mask

    def _met(self, condition: Condition) -> Mask:
        numbers, codes = self.numbers[: self.filled], self.codes[: self.filled]
        if isinstance(condition, Range):
            return _between(condition, numbers)
        wanted = condition if isinstance(condition, tuple) else (condition,)
        known = [self.coded.get((type(each), each), _NO_TEXT - 1) for each in wanted]
        asked = [as_float(each) for each in wanted if not isinstance(each, str | bool)]
        met: Mask = np.isin(codes, known) | np.isin(numbers, asked)
        return met


def _between(bounds: Range, numbers: NDArray[np.float64]) -> Mask:
    met = ~np.isnan(numbers)
    if bounds.lt is not None:
        met &= numbers < bounds.lt if leaves_out(bounds.lt) else numbers <= bounds.lt
    if bounds.le is not None:
        met &= numbers <= bounds.le
    if bounds.gt is not None:
        met &= numbers > bounds.gt if leaves_out(bounds.gt) else numbers >= bounds.gt
    if bounds.ge is not None:
        met &= numbers >= bounds.ge
    return met


@dataclass(frozen=True)
class RecentView:
    """The attributes of the first `count` rows."""

    count: int
    entries: Mapping[str, Entries]

    def meet(self, where: Mapping[str, Condition]) -> Mask:
        """Which rows meet all conditions."""
        mask = np.ones(self.count, dtype=np.bool_)
        for name, condition in where.items():
            entries = self.entries.get(name)
            mask &= False if entries is None else entries.meet(condition, self.count)
        return mask


class Recent:
    """The writer's side."""

    def __init__(self) -> None:
        self._count = 0
        self._columns: dict[str, _Growing] = {}

    def __len__(self) -> int:
        return self._count

    def add(self, attributes: Mapping[str, JsonValue]) -> None:
        """Take in the attributes of the next row."""
        for name, value in attributes.items():
            for each in scalars(value):
                self._columns.setdefault(name, _Growing()).add(self._count, each)
        self._count += 1

    def snapshot(self) -> RecentView:
        """What has been added so far."""
        return RecentView(
            self._count, {name: column.entries() for name, column in self._columns.items()}
        )


class _Growing:
    """Entries in arrays that are moved to larger ones when they are full; snapshots keep those they have."""

    def __init__(self) -> None:
        self._filled = 0
        self._rows = np.empty(16, dtype=np.int32)
        self._numbers = np.empty(16, dtype=np.float64)
        self._codes = np.empty(16, dtype=np.int32)
        self._coded: dict[tuple[type, Scalar], int] = {}

    def add(self, row: int, value: Scalar) -> None:
        if self._filled == len(self._rows):
            self._rows, self._numbers, self._codes = (
                np.concatenate([each, np.empty_like(each)])
                for each in (self._rows, self._numbers, self._codes)
            )
        place = self._filled
        self._rows[place] = row
        if isinstance(value, str | bool):
            self._numbers[place] = np.nan
            self._codes[place] = self._coded.setdefault((type(value), value), len(self._coded))
        else:
            self._numbers[place] = as_float(value)
            self._codes[place] = _NO_TEXT
        self._filled = place + 1

    def entries(self) -> Entries:
        return Entries(self._filled, self._rows, self._numbers, self._codes, self._coded)
