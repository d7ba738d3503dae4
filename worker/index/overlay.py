"""The changes after a generation's revision: recent vectors, searched exactly, tombstones, and other attributes.

One writer appends; readers hold snapshots that stay true while it does. Nothing is copied for a snapshot: every
row and every masked slot carries the number of the change batch (the epoch) that ended it, and a snapshot
compares that with its own epoch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from producer.messages import Condition
from worker.index import score
from worker.index.recent import Recent, RecentView
from worker.index.score import Vectors
from worker.index.slots import Keys, SlotTable

T = TypeVar("T", bound=np.generic)
NEVER = int(np.iinfo(np.int32).max)
GONE = -1


class Change(Protocol):
    """One picture that changed: what it is now. `vector` is None when it is gone, or not embedded."""

    @property
    def image_pk(self) -> int: ...
    @property
    def product_pk(self) -> int: ...
    @property
    def category(self) -> str | None: ...
    @property
    def attributes(self) -> Mapping[str, JsonValue]: ...
    @property
    def vector(self) -> bytes | None: ...


class _Placed(Protocol):
    """What a row says beside its vector."""

    @property
    def image_pk(self) -> int: ...
    @property
    def product_pk(self) -> int: ...
    @property
    def category(self) -> str | None: ...
    @property
    def attributes(self) -> Mapping[str, JsonValue]: ...


@dataclass(frozen=True)
class _Row:
    image_pk: int
    product_pk: int
    category: str | None
    attributes: Mapping[str, JsonValue]


class Repriced(Protocol):
    """One picture that did not change, of a product whose attributes did."""

    @property
    def image_pk(self) -> int: ...
    @property
    def attributes(self) -> Mapping[str, JsonValue]: ...


@dataclass(frozen=True)
class OverlayView:
    """The overlay as it was after one batch of changes."""

    epoch: int
    count: int
    changes: int
    """Distinct pictures that changed since the generation."""
    alive: int
    """Rows that are searched."""
    vectors: Vectors
    norms: Vectors
    image_pks: Keys
    product_pks: Keys
    codes: NDArray[np.int32]
    ended: NDArray[np.int32]
    masked: NDArray[np.int32]
    newest: Mapping[int, int]
    categories: Mapping[str | None, int]
    attributes: RecentView
    """Of the rows."""
    patched: NDArray[np.int32]
    """Slots of the base whose products have other attributes now, in the order of the changes."""
    patches: RecentView
    """The attributes of each of them."""

    def rows(
        self,
        allowed: Collection[str] | None,
        attributes: Mapping[str, Condition] | None = None,
    ) -> NDArray[np.bool_]:
        """Which of the first `count` rows are searched: all, or those of the allowed categories and attributes."""
        alive = self.ended[: self.count] > self.epoch
        if allowed is not None:
            codes = [self.categories[name] for name in allowed if name in self.categories]
            alive &= np.isin(self.codes[: self.count], codes)
        return alive & self.attributes.meet(attributes) if attributes else alive

    def correct(self, marked: NDArray[np.bool_], attributes: Mapping[str, Condition]) -> None:
        """Mark the base's slots by what the products' attributes are now, where they changed."""
        if self.patches.count:
            # Of a slot that is there twice, numpy keeps the last value: the newest change.
            marked[self.patched[: self.patches.count]] = self.patches.meet(attributes)

    def hides(self, slots: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Which slots of the base changed since: the base must not answer with them."""
        hidden: NDArray[np.bool_] = self.masked[slots] <= self.epoch
        return hidden

    def row_of(self, image_pk: int) -> int | None:
        """Row of a picture, GONE when the overlay says it has no vector, None when it did not change."""
        row = self.newest.get(image_pk)
        return GONE if row is not None and row >= self.count else row


class Overlay:
    """The writer's side. Not locked: the follower calls it from one thread at a time."""

    def __init__(self, dimension: int, base: SlotTable | None) -> None:
        self._dimension = dimension
        self._base = base
        self._epoch = 0
        self._count = 0
        self._ended_rows = 0
        self._newest: dict[int, int] = {}
        self._categories: dict[str | None, int] = {}
        self._masked = np.full(len(base) if base else 0, NEVER, dtype=np.int32)
        self._attributes = Recent()
        self._patches = Recent()
        self._patched = np.empty(16, dtype=np.int32)
        self._allocate(64)

    def _allocate(self, capacity: int) -> None:
        """Move to larger arrays; snapshots keep the ones they have."""
        self._vectors = _grown(
            getattr(self, "_vectors", None), (capacity, self._dimension), np.float32
        )
        self._norms = _grown(getattr(self, "_norms", None), (capacity,), np.float32)
        self._image_pks = _grown(getattr(self, "_image_pks", None), (capacity,), np.int64)
        self._product_pks = _grown(getattr(self, "_product_pks", None), (capacity,), np.int64)
        self._codes = _grown(getattr(self, "_codes", None), (capacity,), np.int32)
        self._ended = _grown(getattr(self, "_ended", None), (capacity,), np.int32, NEVER)

    def __len__(self) -> int:
        return self._count

    def apply(self, changes: Sequence[Change]) -> list[int]:
        """Take in what changed; returns the pictures whose stored vector cannot be searched, and are left out."""
        if not changes:
            return []
        self._epoch += 1
        self._mask_base(changes)
        added, vectors, refused = self._readable(changes)
        for change in changes:
            self._end(self._newest.get(change.image_pk))
            self._newest[change.image_pk] = GONE
        self._append(added, vectors)
        return refused

    def reprice(self, changes: Sequence[Repriced]) -> None:
        """Take in pictures whose products have other attributes now; a vector of the overlay is laid down anew."""
        moved = [change for change in changes if self._newest.get(change.image_pk, GONE) != GONE]
        self._patch([change for change in changes if change.image_pk not in self._newest])
        if moved:
            rows = [self._newest[change.image_pk] for change in moved]
            names = {code: name for name, code in self._categories.items()}
            again = [
                _Row(
                    change.image_pk,
                    int(self._product_pks[row]),
                    names[int(self._codes[row])],
                    change.attributes,
                )
                for change, row in zip(moved, rows, strict=True)
            ]
            self._epoch += 1
            for row in rows:
                self._end(row)
            self._append(again, self._vectors[rows])

    def _patch(self, changes: Sequence[Repriced]) -> None:
        if self._base is None or not changes:
            return
        pks = np.fromiter((change.image_pk for change in changes), np.int64, len(changes))
        for change, slot in zip(changes, self._base.slots_of(pks).tolist(), strict=True):
            if slot < 0:
                continue
            if self._patch_count == len(self._patched):
                self._patched = np.concatenate([self._patched, np.empty_like(self._patched)])
            self._patched[self._patch_count] = slot
            self._patches.add(change.attributes)

    @property
    def _patch_count(self) -> int:
        return len(self._patches)

    def _mask_base(self, changes: Sequence[Change]) -> None:
        if self._base is None:
            return
        slots = self._base.slots_of(
            np.fromiter((c.image_pk for c in changes), np.int64, len(changes))
        )
        fresh = slots[slots >= 0]
        self._masked[fresh] = np.minimum(self._masked[fresh], self._epoch)

    def _readable(self, changes: Sequence[Change]) -> tuple[list[Change], Vectors, list[int]]:
        """The changes that bring a vector of the right width, their vectors, and the others' pictures."""
        size = 4 * self._dimension
        sized = [c for c in changes if c.vector is not None and len(c.vector) == size]
        joined = b"".join(c.vector for c in sized if c.vector is not None)
        vectors = np.frombuffer(joined, dtype="<f4").reshape(len(sized), self._dimension)
        finite = np.isfinite(vectors).all(axis=1)
        added = [c for c, good in zip(sized, finite.tolist(), strict=True) if good]
        kept = {c.image_pk for c in added}
        refused = [c.image_pk for c in changes if c.vector is not None and c.image_pk not in kept]
        return added, score.rounded(vectors[finite]), refused

    def _end(self, row: int | None) -> None:
        if row is not None and row != GONE:
            self._ended[row] = self._epoch
            self._ended_rows += 1

    def _append(self, added: Sequence[_Placed], vectors: Vectors) -> None:
        start, stop = self._count, self._count + len(added)
        if stop > len(self._ended):
            self._allocate(max(stop, 2 * len(self._ended)))
        self._vectors[start:stop] = vectors
        self._norms[start:stop] = score.norms_of(vectors)
        for row, change in enumerate(added, start):
            self._image_pks[row] = change.image_pk
            self._product_pks[row] = change.product_pk
            self._codes[row] = self._categories.setdefault(change.category, len(self._categories))
            self._newest[change.image_pk] = row
            self._attributes.add(change.attributes)
        self._count = stop

    def snapshot(self) -> OverlayView:
        """What readers search from now on."""
        return OverlayView(
            epoch=self._epoch,
            count=self._count,
            changes=len(self._newest),
            alive=self._count - self._ended_rows,
            vectors=self._vectors,
            norms=self._norms,
            image_pks=self._image_pks,
            product_pks=self._product_pks,
            codes=self._codes,
            ended=self._ended,
            masked=self._masked,
            newest=self._newest,
            categories=self._categories,
            attributes=self._attributes.snapshot(),
            patched=self._patched,
            patches=self._patches.snapshot(),
        )


def _grown(
    old: NDArray[T] | None, shape: tuple[int, ...], kind: type[T], fill: int = 0
) -> NDArray[T]:
    new = np.full(shape, fill, dtype=kind)
    if old is not None:
        new[: len(old)] = old
    return new
