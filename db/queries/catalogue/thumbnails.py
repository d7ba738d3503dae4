"""Small JPEGs of pictures' bytes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.models import Image, Product, Thumbnail
from db.queries.read import Read, among
from db.queries.upsert import insert_new

MAIN = "main"
"""Name of the picture of a product that has one, if the shop gave it no name."""
_THUMBNAILS = Read(
    select(Product.product_id, Image.name, Thumbnail.jpeg)
    .join(Image, Image.product_pk == Product.pk)
    .join(Thumbnail, Thumbnail.content_sha256 == Image.content_sha256)
    .where(
        among(Product.product_id, "product_ids"),
        among(Image.name, "names"),
        Image.removed.is_(False),
    ),
    bulk=True,
)
_FIRST = Read(
    select(Product.product_id, Thumbnail.jpeg)
    .join(Image, Image.product_pk == Product.pk)
    .join(Thumbnail, Thumbnail.content_sha256 == Image.content_sha256)
    .where(among(Product.product_id, "product_ids"), Image.removed.is_(False))
    .order_by(Image.name),
    bulk=True,
)


def add_thumbnails(session: Session, thumbnails: Sequence[tuple[bytes, bytes]]) -> None:
    """Keep `(SHA-256 of the picture's bytes, JPEG)`; what is there stays. Call it before `apply`."""
    rows = [{"content_sha256": digest, "jpeg": jpeg} for digest, jpeg in sorted(thumbnails)]
    insert_new(session, Thumbnail, rows)


def thumbnails(
    session: Session, images: Collection[tuple[str, str]]
) -> dict[tuple[str, str], bytes]:
    """JPEGs of live pictures by `(product_id, name)`, those that exist.

    A product is asked for by its main picture. One that has none is shown by its first one by name.
    """
    wanted = set(images)
    rows = _THUMBNAILS.rows(
        session,
        product_ids=list({product_id for product_id, _ in wanted}),
        names=list({name for _, name in wanted}),
    )
    found = {
        (product_id, name): jpeg for product_id, name, jpeg in rows if (product_id, name) in wanted
    }
    without = [id_ for id_, name in wanted if name == MAIN and (id_, name) not in found]
    for product_id, jpeg in _FIRST.rows(session, product_ids=without) if without else ():
        found.setdefault((product_id, MAIN), jpeg)
    return found
