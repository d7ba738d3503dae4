"""What the demo adds, and what it keeps out to ask with."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from producer.catalogue import read_rows
from producer.errors import CatalogueFileError
from producer.rows import Row
from worker.demo import sample

MOST_UNSEEN = 200
T = TypeVar("T")


@dataclass(frozen=True)
class Stock:
    """Rows to add, and rows of other products that are never added but asked about."""

    rows: tuple[Row, ...]
    unseen: tuple[Row, ...]
    credit: str = ""
    """Whose pictures these are, to be said beside them."""
    sound: bool = False
    """Whether every picture is known to be usable, so that refusing one is an error."""

    @property
    def roots(self) -> tuple[Path, ...]:
        """The folder that the workers must be allowed to read: all local pictures are below it."""
        folders = {
            local.resolve().parent for row in self.rows + self.unseen if (local := path(row))
        }
        return (Path(os.path.commonpath(folders)),) if folders else ()

    def picture(self, product_id: str) -> bytes | None:
        """The bytes of a product's first picture, if they are on this machine."""
        for row in self.rows + self.unseen:
            if row.product_id == product_id and path(row) is not None:
                return read(row)
        return None


def sample_stock(folder: Path) -> Stock:
    """The sample that comes with Lookalike, unpacked into `folder`."""
    unpacked = sample.unpack(folder)
    return Stock(
        rows=tuple(read_rows(unpacked.catalogue)),
        unseen=tuple(read_rows(unpacked.queries)),
        credit="Pictures: Fashion-MNIST, © 2017 Zalando SE, MIT licence",
        sound=True,
    )


def own_stock(source: Path) -> Stock:
    """A catalogue of the user's own, of which a tenth of the products (at most 200) is kept out.

    Raises CatalogueFileError when it cannot be read, or holds fewer than two products.
    """
    rows = tuple(read_rows(source))
    pictures = Counter(row.product_id for row in rows)
    # Kept out are products with one picture that is a file here: their pictures can be sent as bytes.
    able = [row for row in rows if pictures[row.product_id] == 1 and path(row) is not None]
    unseen = evenly(able, min(MOST_UNSEEN, len(pictures) // 10 or 1))
    kept_out = {row.product_id for row in unseen}
    stock = Stock(tuple(row for row in rows if row.product_id not in kept_out), tuple(unseen))
    if len(pictures) < 2:
        raise CatalogueFileError(
            f"{source}: the demo needs at least two products, better a hundred"
        )
    return stock


def path(row: Row) -> Path | None:
    """The file of the row's picture; None when it is not a file on this machine."""
    if isinstance(row.image, str) and "://" in row.image:
        return None
    local = Path(row.image) if isinstance(row.image, str | Path) else None
    return local if local is not None and local.is_file() else None


def read(row: Row) -> bytes:
    """The bytes of a local row's picture."""
    local = path(row)
    if local is None:
        raise FileNotFoundError(f"the picture of {row.product_id!r} is not a file on this machine")
    return local.read_bytes()


def evenly(items: Sequence[T], count: int) -> list[T]:
    """`count` of the items, or all, at even distances and in order."""
    if count >= len(items):
        return list(items)
    return [items[number * len(items) // count] for number in range(count)]


def one_of_each(rows: Sequence[Row], count: int) -> list[Row]:
    """The first row of each category, filled up evenly from the others: `count` rows, or all, in order."""
    first = {row.category: row for row in reversed(rows)}
    chosen = {
        row.product_id for row in evenly([row for row in rows if row in first.values()], count)
    }
    others = [row for row in rows if row.product_id not in chosen]
    chosen |= {row.product_id for row in evenly(others, count - len(chosen))}
    return [row for row in rows if row.product_id in chosen]
