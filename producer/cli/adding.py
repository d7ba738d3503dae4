"""`lookalike add`: from arguments or a catalogue, checked as a whole before anything is sent."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from producer.catalogue import read_located_rows
from producer.cli.stall import watched
from producer.cli.terminal import Meter, Terminal, table
from producer.client import Producer
from producer.errors import CatalogueFileError, InvalidRequest, LookalikeError
from producer.messages import Outcome, Scalar
from producer.pictures import is_address, read_bytes
from producer.receipts import Receipt, Tracker
from producer.room import WhenFull
from producer.rows import Row

BATCH = 512
"""Rows between two looks at what has been applied."""
NAMED = 3
"""Rows that were left out are named, so many of them, and the others counted."""
Located = Iterable[tuple[str, Row]]


@dataclass(frozen=True)
class Batch:
    """What is to be added: how many pictures, and a way to read them (again)."""

    pictures: int
    rows: Callable[[], Iterator[Row]]
    skipped: Sequence[str] = ()
    """Where the rows stand that are left out because there is no such picture."""


def from_arguments(
    sku: str, images: Sequence[str], category: str | None, attributes: dict[str, Scalar]
) -> Located:
    """The pictures of one product, named main, 2, 3 …; located by nothing but themselves."""
    for number, image in enumerate(images, start=1):
        name = "main" if number == 1 else str(number)
        yield "", Row(sku, image, name, category, attributes)


def from_catalogue(
    path: Path, category: str | None, attributes: dict[str, Scalar]
) -> Callable[[], Located]:
    """The rows of a catalogue; `category` and `attributes` are for rows that have none of their own."""

    def rows() -> Located:
        for where, row in read_located_rows(path):
            merged = attributes | dict(row.attributes)
            yield f"{where}: ", replace(row, category=row.category or category, attributes=merged)

    return rows


def check(read: Callable[[], Located], *, upload: bool, skip_missing: bool) -> Batch:
    """Read everything once, so that a mistake anywhere is found before anything is sent."""
    pictures, missing, skipped = 0, [], []
    for where, row in read():
        try:
            row.item(0)
        except InvalidRequest as error:
            raise CatalogueFileError(f"{where}{error}; nothing was sent") from None
        if _is_missing(row):
            missing.append(f"{where}no such picture: {row.image!s}")
            skipped.append(where.removesuffix(": ") or str(row.image))
        else:
            pictures += 1
    if missing and not skip_missing:
        more = f" (and {len(missing) - 1} more; --skip-missing leaves them out)"
        raise InvalidRequest(f"{missing[0]}{more if len(missing) > 1 else ''}; nothing was sent")
    return Batch(
        pictures,
        lambda: (_sent(where, row, upload) for where, row in read() if not _is_missing(row)),
        skipped,
    )


def send(
    shop: Producer,
    batch: Batch,
    terminal: Terminal,
    *,
    wait: bool,
    timeout: float | None,
    when_full: WhenFull,
) -> int:
    """Add everything, wait for it if asked to, and show what became of it; returns the exit code."""
    tracker = shop.track() if wait else None
    _say_skipped(terminal, batch.skipped)
    with terminal.meter(batch.pictures, waiting=wait) as meter, watched(shop, terminal):
        adding = _Adding(shop, meter, tracker)
        try:
            adding.add(batch.rows(), when_full)
            if tracker is not None:
                tracker.wait(timeout, lambda done: meter(adding.accepted, done))
        except (KeyboardInterrupt, LookalikeError):
            adding.say_accepted(terminal)
            raise
    outcome = tracker.outcome if tracker is not None else None
    _show(terminal, adding.receipts, outcome, batch.skipped)
    return 1 if outcome is not None and outcome.failures else 0


class _Adding:
    """Adds rows as they are read, and knows how far it has come, also when it is interrupted."""

    def __init__(self, shop: Producer, meter: Meter, tracker: Tracker | None) -> None:
        self.receipts: list[Receipt] = []
        self.accepted = 0
        self._shop = shop
        self._meter = meter
        self._tracker = tracker

    def add(self, rows: Iterator[Row], when_full: WhenFull) -> None:
        """Add all rows. They are never in memory together: each may hold a picture's bytes."""
        while True:
            before = self.accepted
            new = self._shop.add_many(
                islice(rows, BATCH),
                when_full=when_full,
                progress=lambda count, before=before: self._count(before + count),  # type: ignore[misc]
            )
            if not new:
                return
            self.receipts += new
            if self._tracker is not None:
                self._tracker.watch(new)
                self._tracker.poll()

    def say_accepted(self, terminal: Terminal) -> None:
        """Say what was accepted before an error."""
        if self.accepted:
            terminal.warn(
                f"{self.accepted:,} {_pictures(self.accepted)} accepted before this; nothing of it is lost"
            )

    def _count(self, accepted: int) -> None:
        self.accepted = accepted
        self._meter(accepted, self._tracker.done if self._tracker is not None else None)


def _say_skipped(terminal: Terminal, skipped: Sequence[str]) -> None:
    if skipped:
        rows = "row" if len(skipped) == 1 else "rows"
        more = f" and {len(skipped) - NAMED:,} more" if len(skipped) > NAMED else ""
        named = ", ".join(skipped[:NAMED])
        terminal.note(f"{len(skipped):,} {rows} left out (no such picture): {named}{more}")


def _show(
    terminal: Terminal,
    receipts: Sequence[Receipt],
    outcome: Outcome | None,
    skipped: Sequence[str],
) -> None:
    accepted = sum(receipt.items for receipt in receipts)
    if terminal.json:
        ended = outcome.model_dump(mode="json") if outcome is not None else {}
        jobs = [each.id for each in receipts]
        terminal.data({"accepted": accepted, "jobs": jobs, "skipped": list(skipped)} | ended)
        return
    if outcome is None:
        terminal.note(f"{accepted:,} {_pictures(accepted)} accepted, in {len(receipts):,} jobs")
        return
    if outcome.failures:
        show_failures(terminal, outcome)
    failed = f", {len(outcome.failures):,} failed" if outcome.failures else ""
    terminal.note(f"{outcome.applied:,} {_pictures(outcome.applied)} applied{failed}")


def show_failures(terminal: Terminal, outcome: Outcome) -> None:
    """A table of what was given up, with the reasons."""
    rows = [
        (each.product_id, each.name or "", each.reason.value, each.detail)
        for each in outcome.failures
    ]
    terminal.show(table(("product", "picture", "reason", "detail"), rows, right=()))


def _is_missing(row: Row) -> bool:
    local = isinstance(row.image, os.PathLike) or (
        isinstance(row.image, str) and not is_address(row.image)
    )
    return local and not _is_file(Path(str(row.image)))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is longer than any file's
        return False


def _sent(where: str, row: Row, upload: bool) -> Row:
    if not upload or (isinstance(row.image, str) and is_address(row.image)):
        return row
    try:
        return replace(row, image=read_bytes(Path(str(row.image))))
    except InvalidRequest as error:  # it was there when the catalogue was checked
        raise CatalogueFileError(f"{where}{error}") from None


def _pictures(count: int) -> str:
    return "picture" if count == 1 else "pictures"
