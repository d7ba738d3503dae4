"""Dead letters that get another chance: back onto the queue as they were, and only then forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from pydantic import ValidationError

from db.queries import dead_letters
from db.queries.dead_letters import DeadLetter, Which
from db.session import Database
from producer.messages import ImageItem, Reason, Removal
from worker.resending import Resender

PAGE = 500


@dataclass(frozen=True)
class Requeued:
    """What was done with the letters that were chosen."""

    sent: int
    unreadable: tuple[int, ...]
    """Keys of letters whose message this version does not understand; they are kept."""
    expired: int
    """Letters whose bytes came with the message and are gone; they are kept, unless they were named."""


def requeue(
    database: Database,
    which: Which,
    resender: Resender,
    chunk_size: int,
    on_share: Callable[[float], None] = lambda share: None,
) -> Requeued:
    """Send the letters again, and forget each chunk of them once it is in the ledger.

    Items keep their versions: where the shop has changed or removed a product meanwhile, that holds. A crash in
    between leaves an item on the queue and in its letter, which is harmless. Raises as `Resender.send` does, and
    DatabaseUnavailable.
    """
    sent = seen = expired = 0
    unreadable: list[int] = []
    with database.reading() as session:
        total = max(dead_letters.count(session, which), 1)
    for page in _pages(database, which):
        items: list[tuple[DeadLetter, ImageItem | Removal]] = []
        for letter in page:
            item = item_of(letter)
            if letter.reason == Reason.BYTES_EXPIRED and not which.pks:
                expired += 1
            elif item is None:
                unreadable.append(letter.pk)
            else:
                items.append((letter, item))
        for chunk in _chunks(items, chunk_size):
            resender.send([item for _, item in chunk])  # type: ignore[arg-type]
            _forget(database, [letter.pk for letter, _ in chunk])
            sent += len(chunk)
        seen += len(page)
        on_share(min(seen / total, 1.0))
    return Requeued(sent, tuple(unreadable), expired)


def discard(
    database: Database, which: Which, on_share: Callable[[float], None] = lambda share: None
) -> int:
    """Forget the letters for good; how many."""
    done = 0
    with database.reading() as session:
        total = max(dead_letters.count(session, which), 1)
    for page in _pages(database, which):
        done += _forget(database, [letter.pk for letter in page])
        on_share(min(done / total, 1.0))
    return done


def item_of(letter: DeadLetter) -> ImageItem | Removal | None:
    """What was given up; None if this version does not understand it."""
    kind = ImageItem if "image" in letter.message else Removal
    try:
        return kind.model_validate(letter.message, strict=False)
    except ValidationError:
        return None


def _pages(database: Database, which: Which) -> Iterator[list[DeadLetter]]:
    """Those that are there now, the oldest first; what fails again meanwhile is not among them."""
    with database.reading() as session:
        last = dead_letters.last_key(session)
    after = 0
    while True:
        with database.reading() as session:
            page = dead_letters.page(session, which, after, PAGE)
        page = [letter for letter in page if letter.pk <= last]
        if not page:
            return
        after = page[-1].pk
        yield page


def _forget(database: Database, pks: Sequence[int]) -> int:
    with database.writing() as session:
        return dead_letters.delete_(session, pks)


def _chunks(
    items: Sequence[tuple[DeadLetter, ImageItem | Removal]], size: int
) -> Iterator[list[tuple[DeadLetter, ImageItem | Removal]]]:
    """Items of one kind, in the order in which they were given up."""
    for _, alike in groupby(items, key=lambda each: type(each[1])):
        group = list(alike)
        yield from (group[start : start + size] for start in range(0, len(group), size))
