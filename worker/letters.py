"""Dead letters that get another chance: back onto the queue as they were, and only then forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from pydantic import ValidationError

from db.queries import dead_letters
from db.queries.dead_letters import DeadLetter, Which
from db.session import Database
from producer.messages import ImageItem, Removal
from producer.reasons import Reason
from worker.giving_up import is_complete
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
    signed: int
    """Letters whose address was signed, which is not kept: the shop has to add them again."""


def requeue(
    database: Database,
    which: Which,
    resender: Resender,
    chunk_size: int,
    on_share: Callable[[float], None] = lambda share: None,
    *,
    enough: Callable[[], bool] = lambda: False,
) -> Requeued:
    """Send the letters again, and forget each chunk of them once it is in the ledger.

    It ends early once `enough`, which is asked between pages. Items keep their versions: where the shop has
    changed or removed a product meanwhile, that holds. A crash in between leaves an item on the queue and in its
    letter, which is harmless. Raises as `Resender.send` does, and DatabaseUnavailable.
    """
    sent = seen = expired = signed = 0
    unreadable: list[int] = []
    which, total = as_of_now(database, which)
    for page in _pages(database, which):
        items: list[tuple[DeadLetter, ImageItem | Removal]] = []
        for letter in page:
            item = item_of(letter)
            if letter.reason == Reason.BYTES_EXPIRED and not which.pks:
                expired += 1
            elif item is None:
                unreadable.append(letter.pk)
            elif not is_complete(item):
                signed += 1
            else:
                items.append((letter, item))
        for chunk in _chunks(items, chunk_size):
            resender.send([item for _, item in chunk])  # type: ignore[arg-type]
            _forget(database, [letter.pk for letter, _ in chunk])
            sent += len(chunk)
        seen += len(page)
        on_share(min(seen / max(total, 1), 1.0))
        if enough():
            break
    return Requeued(sent, tuple(unreadable), expired, signed)


def discard(
    database: Database,
    which: Which,
    on_share: Callable[[float], None] = lambda share: None,
    *,
    enough: Callable[[], bool] = lambda: False,
) -> int:
    """Forget the letters for good; how many. It ends early once `enough`, which is asked between pages."""
    done = 0
    which, total = as_of_now(database, which)
    for page in _pages(database, which):
        done += _forget(database, [letter.pk for letter in page])
        on_share(min(done / max(total, 1), 1.0))
        if enough():
            break
    return done


def as_of_now(database: Database, which: Which) -> tuple[Which, int]:
    """Those that are there now, and how many: none that is given up later, or fails again meanwhile."""
    with database.reading() as session:
        if which.upto is None:
            which = replace(which, upto=dead_letters.last_key(session))
        return which, dead_letters.count(session, which)


def item_of(letter: DeadLetter) -> ImageItem | Removal | None:
    """What was given up; None if this version does not understand it."""
    kind = ImageItem if "image" in letter.message else Removal
    try:
        return kind.model_validate(letter.message, strict=False)
    except ValidationError:
        return None


def _pages(database: Database, which: Which) -> Iterator[list[DeadLetter]]:
    """The oldest first, a page in memory at a time."""
    after = 0
    while True:
        with database.reading() as session:
            page = dead_letters.page(session, which, after, PAGE)
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
