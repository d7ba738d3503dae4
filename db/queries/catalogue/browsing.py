"""Pages of the catalogue, for whoever looks at it: each reads an index where the page before ended."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, bindparam, func, select
from sqlalchemy.orm import Session

from db.models import Image, Product
from db.queries.catalogue.thumbnails import MAIN
from db.queries.read import Read, as_json

LAST = 0x10FFFF
"""The greatest character."""
SURROGATES = range(0xD800, 0xE000)
"""Numbers that are no characters."""


@dataclass(frozen=True)
class Wanted:
    """Which products a page shows."""

    category: str | None = None
    uncategorised: bool = False
    prefix: str = ""


@dataclass(frozen=True)
class ShownProduct:
    """A live product, with the name of the picture to show: its main one, or the one that came first."""

    product_id: str
    name: str
    category: str | None
    attributes: dict[str, Any]


_LIVE = (
    select(Image.name)
    .where(Image.product_pk == Product.pk, Image.removed.is_(False))
    .order_by((Image.name == MAIN).desc(), Image.pk)
    .limit(1)
    .correlate(Product)
    .scalar_subquery()
)
"""Not as EXISTS: PostgreSQL would make a join of it, and read all pictures for a page."""
_CATEGORIES = Read(
    select(Product.category, func.count())
    .where(Product.pk.in_(select(Image.product_pk).where(Image.removed.is_(False))))
    .group_by(Product.category),
    bulk=True,
)
"""Not as EXISTS: SQLite would look for pictures in the order of the categories, which takes ten times as long."""


def page(session: Session, wanted: Wanted, after: str | None, limit: int) -> list[ShownProduct]:
    """The first live products beyond the id `after`, in the order of their ids' characters."""
    # No id has a NUL: the least one beyond `after` is that with the least character behind it.
    bounds = {"first": wanted.prefix if after is None else max(wanted.prefix, f"{after}\x01")}
    beyond = beyond_prefix(wanted.prefix)
    if beyond is not None:
        bounds["beyond"] = beyond
    if wanted.category is not None:
        bounds["category"] = wanted.category
    read = _page(wanted.category is not None, wanted.uncategorised, beyond is not None)
    return [
        ShownProduct(product_id, name, category, as_json(attributes))
        for product_id, name, category, attributes in read.rows(session, **bounds, limit=limit)
    ]


def categories(session: Session) -> dict[str | None, int]:
    """How many live products each category has; None is that of those without one. Reads all products."""
    return dict(_CATEGORIES.rows(session))


def beyond_prefix(prefix: str) -> str | None:
    """The least text that is greater than all that begin with the prefix; None if there is none."""
    kept = prefix.rstrip(chr(LAST))
    if not kept:
        return None
    following = ord(kept[-1]) + 1
    if following in SURROGATES:
        following = SURROGATES.stop
    return kept[:-1] + chr(following)


@cache
def _page(of_category: bool, uncategorised: bool, bounded: bool) -> Read:
    conditions: list[ColumnElement[bool]] = [Product.product_id >= bindparam("first")]
    if bounded:
        conditions.append(Product.product_id < bindparam("beyond"))
    if of_category:
        conditions.append(Product.category == bindparam("category"))
    if uncategorised:
        conditions.append(Product.category.is_(None))
    return Read(
        select(Product.product_id, _LIVE, Product.category, Product.attributes)
        .where(*conditions, _LIVE.is_not(None))
        .order_by(Product.product_id)
        .limit(bindparam("limit")),
        bulk=True,
    )
