"""Which slots meet a condition on an attribute: for every key its distinct values, and the slots of each value.

A condition is a few runs of values, because numbers and texts are in order; so marking what meets it reads no
product. What an index says here is confirmed in SQL before it is shown, where conditions are exact: numbers beyond
2^53, and texts of the same hash, are told apart only there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from producer.messages import Condition, Range, Scalar
from worker.index.errors import GenerationDamaged
from worker.index.slots import load_numbers

NAMES = "attributes.json"
NUMBERS, TEXTS = "attribute_numbers.npy", "attribute_texts.npy"
STARTS, SLOTS = "attribute_starts.npy", "attribute_slots.npy"
FILES = (NAMES, NUMBERS, TEXTS, STARTS, SLOTS)
CACHE_BYTES, MOST_CACHED = 64 << 20, 1000
"""Marked slots that are kept for conditions that are asked again."""
EXACT = 2.0**53
"""From here on floats do not tell integers apart."""

Mask = NDArray[np.bool_]
_Entries = list[tuple[int, Any]]
Numbers = NDArray[np.float64]
Hashes = NDArray[np.uint64]


def scalars(value: JsonValue) -> Iterator[Scalar]:
    """What a condition may be met by: the value, or each element of a list; nothing of a missing one."""
    if isinstance(value, list):
        for each in value:
            yield from scalars(each)
    elif isinstance(value, bool | int | float | str):
        yield value


def as_float(value: float) -> float:
    """The nearest float; of an integer beyond all floats the greatest, which SQL then decides."""
    try:
        return float(value)
    except OverflowError:
        return float(np.finfo(np.float64).max) * (1 if value > 0 else -1)


def leaves_out(bound: float) -> bool:
    """Whether `lt` and `gt` leave the bound out: not where an integer beside it may have been rounded to it."""
    return abs(bound) < EXACT


@lru_cache(1 << 16)
def text_hash(text: str) -> int:
    """What a text is kept as: titles and descriptions would take as much memory as vectors."""
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


@dataclass(frozen=True)
class Column:
    """The slots of one key by value: numbers, then hashes of texts, each ascending, then False and True.

    `starts` [v + 1] are the places in `slots` at which each of the v values begins.
    """

    numbers: Numbers
    texts: Hashes
    starts: NDArray[np.int64]
    slots: NDArray[np.int32]

    def runs(self, condition: Condition) -> Iterator[NDArray[np.int32]]:
        """Slots that meet the condition, a run of values at a time."""
        for low, high in self._values(condition):
            yield self.slots[self.starts[low] : self.starts[high]]

    def _values(self, condition: Condition) -> Iterator[tuple[int, int]]:
        if isinstance(condition, Range):
            yield self._between(condition)
        elif isinstance(condition, tuple):
            for wanted in condition:
                yield self._equal(wanted)
        else:
            yield self._equal(condition)

    def _equal(self, wanted: Scalar) -> tuple[int, int]:
        flags = len(self.numbers) + len(self.texts)
        if isinstance(wanted, bool):
            return flags + wanted, flags + wanted + 1
        if isinstance(wanted, str):
            hashed = np.uint64(text_hash(wanted))
            low, high = (np.searchsorted(self.texts, hashed, side) for side in ("left", "right"))
            return len(self.numbers) + int(low), len(self.numbers) + int(high)
        return self._place(wanted, "left"), self._place(wanted, "right")

    def _between(self, bounds: Range) -> tuple[int, int]:
        low, high = 0, len(self.numbers)
        if bounds.gt is not None:
            low = max(low, self._place(bounds.gt, "right" if leaves_out(bounds.gt) else "left"))
        if bounds.ge is not None:
            low = max(low, self._place(bounds.ge, "left"))
        if bounds.lt is not None:
            high = min(high, self._place(bounds.lt, "left" if leaves_out(bounds.lt) else "right"))
        if bounds.le is not None:
            high = min(high, self._place(bounds.le, "right"))
        return low, max(low, high)

    def _place(self, number: float, side: Any) -> int:
        return int(np.searchsorted(self.numbers, as_float(number), side))


@dataclass(frozen=True)
class _Asked:
    """A condition, equal to another one when it reads the same: True is not 1, though Python says so."""

    name: str
    text: str
    condition: Condition = field(compare=False)


class Attributes:
    """The columns of a generation of `images` slots."""

    def __init__(self, images: int, columns: Mapping[str, Column]) -> None:
        self._columns = columns
        kept = min(max(4, CACHE_BYTES // max(images, 1)), MOST_CACHED)
        # Not a method of its own: a cycle would keep the files mapped until it is collected.
        self._marked = lru_cache(kept)(partial(_mark, columns, images))

    def meets(self, name: str, condition: Condition) -> Mask:
        """Which slots [images] meet the condition; not to be changed, since it is kept for the next who asks."""
        return self._marked(_Asked(name, repr(condition), condition))

    def values(self, name: str) -> Column | None:
        """The column of a key, None if no product had it."""
        return self._columns.get(name)

    def save(self, directory: Path) -> None:
        """Write the files (not synced)."""
        columns = list(self._columns.values())
        names = [
            {"name": name, "numbers": len(column.numbers), "texts": len(column.texts)}
            for name, column in self._columns.items()
        ]
        (directory / NAMES).write_text(json.dumps(names), "utf-8")
        np.save(directory / NUMBERS, _joined([c.numbers for c in columns], np.float64))
        np.save(directory / TEXTS, _joined([c.texts for c in columns], np.uint64))
        np.save(directory / STARTS, _joined([c.starts for c in columns], np.int64))
        np.save(directory / SLOTS, _joined([c.slots for c in columns], np.int32))

    @classmethod
    def load(cls, directory: Path, images: int) -> Attributes:
        """Map what `save` wrote; raises GenerationDamaged."""
        try:
            names = json.loads((directory / NAMES).read_text("utf-8"))
            numbers = load_numbers(directory / NUMBERS, None, np.float64)
            texts = load_numbers(directory / TEXTS, None, np.uint64)
            starts = load_numbers(directory / STARTS, None, np.int64)
            slots = load_numbers(directory / SLOTS, None, np.int32)
            return cls(images, dict(_columns(names, numbers, texts, starts, slots)))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise GenerationDamaged(f"{NAMES} cannot be read: {error}") from error


def _mark(columns: Mapping[str, Column], images: int, asked: _Asked) -> Mask:
    mask = np.zeros(images, dtype=np.bool_)
    column = columns.get(asked.name)
    for run in () if column is None else column.runs(asked.condition):
        mask[run] = True
    mask.setflags(write=False)
    return mask


def _columns(
    names: list[dict[str, Any]],
    numbers: Numbers,
    texts: Hashes,
    starts: NDArray[np.int64],
    slots: NDArray[np.int32],
) -> Iterator[tuple[str, Column]]:
    """Cut the joined arrays into columns again."""
    for each in names:
        values = each["numbers"] + each["texts"] + 2
        own, starts = starts[: values + 1], starts[values + 1 :]
        short = len(numbers) < each["numbers"] or len(texts) < each["texts"]
        if short or len(own) != values + 1 or own[-1] > len(slots):
            raise ValueError(f"the column {each['name']!r} is cut short")
        count = int(own[-1])
        yield (
            each["name"],
            Column(numbers[: each["numbers"]], texts[: each["texts"]], own, slots[:count]),
        )
        numbers, texts = numbers[each["numbers"] :], texts[each["texts"] :]
        slots = slots[count:]


def _joined(arrays: Sequence[NDArray[Any]], kind: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype=kind), *arrays])


class Gatherer:
    """Takes in the attributes of rows, in blocks, in the memory of a few numbers for each."""

    def __init__(self) -> None:
        self._columns: dict[str, _Gathered] = {}
        self._rows = 0

    def add(self, rows: Sequence[Mapping[str, JsonValue]]) -> None:
        """Take in the next rows."""
        touched = set()
        for row, attributes in enumerate(rows, self._rows):
            for name, value in attributes.items():
                column = self._columns.setdefault(name, _Gathered())
                touched.add(name)
                for each in scalars(value):
                    column.add(row, each)
        for name in touched:
            self._columns[name].pack()
        self._rows += len(rows)

    def by_slot(self, slots: NDArray[np.integer]) -> Attributes:
        """The columns, where row i has become slot `slots[i]`."""
        columns = {name: self._columns[name].column(slots) for name in sorted(self._columns)}
        return Attributes(len(slots), columns)


class _Gathered:
    """Entries (row, value) of one key, by kind: numbers, hashes of texts, booleans."""

    def __init__(self) -> None:
        self._new: tuple[_Entries, _Entries, _Entries] = ([], [], [])
        self._packed: list[list[NDArray[Any]]] = []

    def add(self, row: int, value: Scalar) -> None:
        numbers, texts, flags = self._new
        if isinstance(value, bool):
            flags.append((row, value))
        elif isinstance(value, str):
            texts.append((row, text_hash(value)))
        else:
            numbers.append((row, as_float(value)))

    def pack(self) -> None:
        """Turn what came since into arrays."""
        arrays: list[NDArray[Any]] = []
        for entries, kind in zip(self._new, (np.float64, np.uint64, np.bool_), strict=True):
            arrays.append(np.array([row for row, _ in entries], dtype=np.int64))
            arrays.append(np.array([value for _, value in entries], dtype=kind))
            entries.clear()
        self._packed.append(arrays)

    def column(self, slots: NDArray[np.integer]) -> Column:
        rows, numbers, text_rows, hashes, flag_rows, flags = (
            np.concatenate(part) for part in zip(*self._packed, strict=True)
        )
        distinct, number_ranks = np.unique(numbers, return_inverse=True)
        texts, text_ranks = np.unique(hashes, return_inverse=True)
        before = len(distinct) + len(texts)
        values = np.concatenate([number_ranks, len(distinct) + text_ranks, before + flags])
        where = slots[np.concatenate([rows, text_rows, flag_rows])].astype(np.int32)
        order = np.lexsort((where, values))
        starts = np.searchsorted(values[order], np.arange(before + 3)).astype(np.int64)
        return Column(distinct, texts, starts, where[order])
