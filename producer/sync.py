"""Making the service's catalogue what a shop's own is: compare everything, send what differs.

It is also the way back from a Redis that lost everything: what was applied is left alone, and what was still on
its way is found missing.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from producer import checks
from producer.comparison import MAX_COMPARED, ComparisonReply, Pictured, ProductPage, Verdict
from producer.errors import InvalidRequest
from producer.messages import PathImage
from producer.receipts import Receipt
from producer.rows import Row

SENT = frozenset({Verdict.MISSING, Verdict.CHANGED})


class BadRow(InvalidRequest):
    """A row that no worker could serve; those before it have been compared, and sent where they differ."""


@dataclass(frozen=True)
class Synced:
    """What was compared, and what was done about it."""

    compared: int
    same: int
    missing: int
    """Pictures that were not there, and were sent."""
    changed: int
    """Pictures that were there otherwise, and were sent."""
    superseded: int
    """Pictures that differ, but whose `version` is no newer than the catalogue's; not sent."""
    others: int
    """Products in the catalogue that the shop does not have."""
    removed: int
    """How many of them were removed."""
    receipts: tuple[Receipt, ...] = field(default=(), repr=False)
    """For what was sent and removed: see `Producer.wait_for`."""

    @property
    def sent(self) -> int:
        """Pictures that were sent."""
        return self.missing + self.changed


@dataclass
class Sync:
    """One comparison of a whole catalogue."""

    compare: Callable[[tuple[Pictured, ...]], ComparisonReply]
    list_products: Callable[[int], ProductPage]
    add: Callable[[Iterator[Row]], list[Receipt]]
    remove: Callable[[dict[str, int]], list[Receipt]]
    """Takes products out as they were at a version: what is newer, or added meanwhile, stays."""
    delete: bool
    dry_run: bool
    checksum: bool
    progress: Callable[[int], object]
    _verdicts: Counter[Verdict] = field(default_factory=Counter)
    _seen: set[str] = field(default_factory=set)

    def run(self, rows: Iterable[Row | Mapping[str, Any]]) -> Synced:
        """Compare, send and remove."""
        differing = self._differing(rows)
        receipts = [] if self.dry_run else self.add(differing)
        for _ in differing:  # what nobody sends is counted all the same
            pass
        if self.delete and not self._seen:
            raise InvalidRequest(
                "there are no rows: to remove every product, name them to `remove` instead"
            )
        others = self._others()
        if self.delete and others and not self.dry_run:
            receipts += self.remove(others)
        return Synced(
            compared=self._verdicts.total(),
            same=self._verdicts[Verdict.SAME],
            missing=self._verdicts[Verdict.MISSING],
            changed=self._verdicts[Verdict.CHANGED],
            superseded=self._verdicts[Verdict.SUPERSEDED],
            others=len(others),
            removed=len(others) if self.delete and not self.dry_run else 0,
            receipts=tuple(receipts),
        )

    def _differing(self, rows: Iterable[Row | Mapping[str, Any]]) -> Iterator[Row]:
        page: list[tuple[Row, Pictured]] = []
        for number, value in enumerate(rows, start=1):
            page.append(self._pictured(number, value))
            if len(page) == MAX_COMPARED:
                yield from self._compared(page)
                page = []
        if page:
            yield from self._compared(page)

    def _pictured(self, number: int, value: Row | Mapping[str, Any]) -> tuple[Row, Pictured]:
        try:
            row = Row.of(value)
            item, _ = row.item(0)
        except InvalidRequest as error:
            raise BadRow(f"row {number}: {error}") from None
        self._seen.add(item.product_id)
        image = item.image
        sha256 = image.key if image.kind == "bytes" else None
        if self.checksum and isinstance(image, PathImage):
            sha256 = _sha256(Path(image.path))
        described = item.model_dump(include={"product_id", "name", "category", "attributes"})
        return row, checks.build(
            Pictured, image=image, sha256=sha256, version=row.version, **described
        )

    def _compared(self, page: list[tuple[Row, Pictured]]) -> Iterator[Row]:
        pictures = tuple(pictured for _, pictured in page)
        reply = self.compare(pictures)
        for (row, _), verdict in zip(page, reply.verdicts, strict=True):
            self._verdicts[verdict] += 1
            if verdict in SENT:
                yield row
        self.progress(self._verdicts.total())

    def _others(self) -> dict[str, int]:
        """Products that the shop does not have, with their versions."""
        found: dict[str, int] = {}
        after: int | None = 0
        while after is not None:
            page = self.list_products(after)
            found |= {id_: version for id_, version in page.products if id_ not in self._seen}
            after = page.next
        return found


def _sha256(path: Path) -> str | None:
    """Of a file's bytes; None where it cannot be read from here."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
