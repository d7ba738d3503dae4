"""What the catalogue holds of products, for whoever compares it with a shop's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, func, select
from sqlalchemy.orm import Session

from db.models import Embedding, Image, Product
from db.queries.read import Read, among, as_json


@dataclass(frozen=True)
class StoredImage:
    """A picture as it is stored, removed ones too."""

    content_sha256: bytes
    source: str
    category: str | None
    attributes: Mapping[str, Any]
    version: int
    """The greater of the picture's and its product's: nothing older changes anything of either."""
    removed_version: int
    live: bool
    """Whether a lookup can find it: not removed, and with a vector of the model."""


_STORED = Read(
    select(
        Product.product_id,
        Image.name,
        Image.content_sha256,
        Image.source,
        Product.category,
        Product.attributes,
        Image.version,
        Product.version,
        Product.removed_version,
        Image.removed,
        Embedding.dimension,
    )
    .join(Image, Image.product_pk == Product.pk)
    .outerjoin(
        Embedding,
        (Embedding.content_sha256 == Image.content_sha256)
        & (Embedding.model_version_pk == bindparam("model_version_pk")),
    )
    .where(among(Product.product_id, "product_ids")),
    bulk=True,
)
_PAGE = Read(
    select(Product.pk, Product.product_id, Product.version, func.max(Image.version))
    .join(Image, Image.product_pk == Product.pk)
    .where(Product.pk > bindparam("after"), Image.removed.is_(False))
    .group_by(Product.pk)
    .order_by(Product.pk)
    .limit(bindparam("limit"))
)


def stored_images(
    session: Session, product_ids: Sequence[str], model_version_pk: int
) -> dict[tuple[str, str], StoredImage]:
    """The pictures of these products, by product id and name."""
    rows = _STORED.rows(
        session, product_ids=sorted(set(product_ids)), model_version_pk=model_version_pk
    )
    return {
        (product_id, name): StoredImage(
            content_sha256=digest,
            source=source,
            category=category,
            attributes=as_json(attributes),
            version=max(image_version, product_version),
            removed_version=removed_version,
            live=not removed and dimension is not None,
        )
        for product_id, name, digest, source, category, attributes, image_version,
        product_version, removed_version, removed, dimension in rows
    }  # fmt: skip


def live_products(session: Session, after: int, limit: int) -> list[tuple[int, str, int]]:
    """Products with a live picture, by their key, from beyond `after`: key, id and newest version."""
    return [
        (pk, id_, max(own, newest))
        for pk, id_, own, newest in _PAGE.rows(session, after=after, limit=limit)
    ]
