"""What lookups ask of the catalogue. All of it runs for every lookup, so each is one short read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import distinct, func, select
from sqlalchemy.orm import Session, join, outerjoin

from db.models import Image, IndexPointer, ModelVersion, Product, RevisionCounter
from db.queries.read import Read, among, as_json


class Head(NamedTuple):
    """Where the catalogue and the index stand."""

    revision: int
    model_version_pk: int | None
    """The active model; a generation may still be of another one: see its own row."""
    model_digest: str | None
    generation: int | None
    token: int
    """Fencing token of who set the pointer."""


class LiveProduct(NamedTuple):
    """A product with at least one live picture."""

    product_pk: int
    product_id: str
    image_pks: tuple[int, ...]
    """Ascending."""


class Described(NamedTuple):
    """A live picture and its product, as a match shows them."""

    image_pk: int
    product_pk: int
    product_id: str
    name: str
    category: str | None
    attributes: dict[str, Any]
    content_sha256: bytes
    """Digest of the picture's bytes."""


class Counts(NamedTuple):
    """How much is live."""

    products: int
    images: int


_HEAD = Read(
    select(
        RevisionCounter.value,
        ModelVersion.pk,
        ModelVersion.digest,
        IndexPointer.generation,
        IndexPointer.token,
    )
    .select_from(
        outerjoin(
            join(RevisionCounter, IndexPointer, IndexPointer.pk == 1),
            ModelVersion,
            ModelVersion.active.is_(True),
        )
    )
    .where(RevisionCounter.pk == 1)
)
_LIVE = Read(
    select(Product.pk, Product.product_id, Image.pk)
    .join(Image, Image.product_pk == Product.pk)
    .where(among(Product.product_id, "product_ids"), Image.removed.is_(False))
)
_DESCRIBE = Read(
    select(
        Image.pk,
        Product.pk,
        Product.product_id,
        Image.name,
        Product.category,
        Product.attributes,
        Image.content_sha256,
    )
    .join(Product, Product.pk == Image.product_pk)
    .where(among(Image.pk, "image_pks"), Image.removed.is_(False))
)
_COUNT = Read(
    select(func.count(distinct(Image.product_pk)), func.count()).where(Image.removed.is_(False))
)


def head(session: Session) -> Head:
    """The newest revision, the active model and the current generation, in one statement."""
    row = _HEAD.row(session)
    if row is None:
        raise LookupError(
            "the revision counter or the index pointer has no row: the schema is damaged"
        )
    return Head._make(row)


def live_images(session: Session, product_ids: Iterable[str]) -> dict[str, LiveProduct]:
    """The products among these that have a live picture, by their id."""
    found: dict[str, tuple[int, list[int]]] = {}
    for product_pk, product_id, image_pk in _LIVE.rows(session, product_ids=list(product_ids)):
        found.setdefault(product_id, (product_pk, []))[1].append(image_pk)
    return {
        product_id: LiveProduct(product_pk, product_id, tuple(sorted(image_pks)))
        for product_id, (product_pk, image_pks) in found.items()
    }


def describe(session: Session, image_pks: Iterable[int]) -> dict[int, Described]:
    """The pictures among these that are live, by their key: what is not in it must not be shown."""
    return {
        pk: Described(pk, product_pk, product_id, name, category, as_json(attributes), sha256)
        for pk, product_pk, product_id, name, category, attributes, sha256 in _DESCRIBE.rows(
            session, image_pks=list(image_pks)
        )
    }


def count(session: Session) -> Counts:
    """Live products and live pictures."""
    return Counts._make(_COUNT.rows(session)[0])
