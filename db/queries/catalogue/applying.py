"""Apply messages to the catalogue: read what they speak of, `merge`, write what is different.

The counter's row is locked first, so that nobody changes a product between the read and the write, and so
that revisions are in commit order (invariant 13).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from sqlalchemy import Table, bindparam, insert, select, update
from sqlalchemy.orm import Session

from db.merge import ImageChange, ImageState, ProductRemoval, ProductState, merge
from db.models import Image, Product
from db.queries import revisions
from db.queries.read import Read, among, as_json

_NEVER_SEEN = 0
"""Revision of what no lookup has ever seen."""

_PRODUCTS = Read(
    select(
        Product.pk,
        Product.product_id,
        Product.category,
        Product.attributes,
        Product.version,
        Product.removed_version,
        Product.revision,
    ).where(among(Product.product_id, "product_ids")),
    bulk=True,
)
_IMAGES = Read(
    select(
        Image.pk,
        Image.product_pk,
        Image.name,
        Image.content_sha256,
        Image.source,
        Image.version,
        Image.revision,
    ).where(among(Image.product_pk, "product_pks")),
    bulk=True,
)
_product = cast(Table, Product.__table__)
_image = cast(Table, Image.__table__)
_INSERT_PRODUCTS = insert(_product).returning(_product.c.pk, _product.c.product_id)
_INSERT_IMAGES = insert(_image)
_UPDATE_PRODUCTS = (
    update(_product)
    .where(_product.c.pk == bindparam("key"))
    .values(
        {
            name: bindparam(name)
            for name in ("category", "attributes", "version", "removed_version", "revision")
        }
    )
)
_UPDATE_IMAGES = (
    update(_image)
    .where(_image.c.pk == bindparam("key"))
    .values(
        {
            name: bindparam(name)
            for name in ("content_sha256", "source", "version", "removed", "revision")
        }
    )
)


@dataclass(frozen=True)
class Applied:
    """What became of the messages."""

    revision: int | None
    """The revision of the change; None when no lookup can see any."""
    applied: int
    superseded: int
    """Messages that a newer one, or the same one, had overtaken."""


@dataclass
class _Rows:
    """Keys and revisions of the rows that `states` was read from."""

    states: dict[str, ProductState] = field(default_factory=dict)
    products: dict[str, tuple[int, int]] = field(default_factory=dict)
    """product_id → pk, revision."""
    images: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    """product_id, name → pk, revision."""


@dataclass
class _Writes:
    """Rows to write. A visible one gets the new revision."""

    revision: int
    embedded: Collection[bytes]
    """Bytes that have a vector since this transaction."""
    new_products: list[dict[str, Any]] = field(default_factory=list)
    products: list[dict[str, Any]] = field(default_factory=list)
    new_images: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    visible: bool = False


def apply(
    session: Session,
    changes: Sequence[ImageChange],
    removals: Sequence[ProductRemoval],
    *,
    embedded: Collection[bytes] = (),
) -> Applied:
    """Make the catalogue as the newest of these messages and of all before describe it.

    In any order, late or twice, the result is the same. Add embeddings and thumbnails first, in the same
    transaction: from here to its end, other writers wait. `embedded` are the pictures' bytes that had no vector
    before this transaction: what is live with them can be found from now on, which is a change of its own.
    """
    product_ids = sorted(
        {each.product_id for each in changes} | {each.product_id for each in removals}
    )
    if not product_ids:
        return Applied(None, 0, 0)
    revision = revisions.lock(session) + 1
    rows = _read(session, product_ids)
    merged = merge(rows.states, changes, removals)
    writes = _Writes(revision, embedded)
    for product_id in product_ids:
        _plan(writes, rows, product_id, merged.products[product_id])
    _write(session, rows, writes)
    if writes.visible:
        revisions.take_next(session)
    return Applied(revision if writes.visible else None, merged.applied, merged.superseded)


def reveal(session: Session, digests: Collection[bytes], revision: int | None = None) -> int | None:
    """Give the live pictures of these bytes a new revision: they have a vector since this transaction.

    `revision` is the one that `apply` gave to other changes of the transaction, if any; pictures that have it
    are left alone. The new revision; None when there are no such pictures.
    """
    if not digests:
        return None
    revisions.lock(session)
    hidden = select(Image.pk, Image.product_pk).where(
        Image.content_sha256.in_(sorted(digests)),
        Image.removed.is_(False),
        Image.revision != (_NEVER_SEEN - 1 if revision is None else revision),
    )
    found = session.execute(hidden).all()
    if not found:
        return None
    now = revisions.take_next(session) if revision is None else revision
    for table, pks in ((Image, {row[0] for row in found}), (Product, {row[1] for row in found})):
        session.execute(update(table).where(table.pk.in_(sorted(pks))).values(revision=now))
    return now


def _read(session: Session, product_ids: list[str]) -> _Rows:
    rows = _Rows()
    found = _PRODUCTS.rows(session, product_ids=product_ids)
    images: dict[int, dict[str, ImageState]] = {row[0]: {} for row in found}
    ids = {row[0]: row[1] for row in found}
    for pk, product_pk, name, digest, source, version, revision in _IMAGES.rows(
        session, product_pks=list(images)
    ):
        images[product_pk][name] = ImageState(digest, source, version)
        rows.images[ids[product_pk], name] = (pk, revision)
    for pk, product_id, category, attributes, version, removed_version, revision in found:
        rows.products[product_id] = (pk, revision)
        rows.states[product_id] = ProductState(
            category, as_json(attributes), version, removed_version, images[pk]
        )
    return rows


def _plan(writes: _Writes, rows: _Rows, product_id: str, after: ProductState) -> None:
    before, revision = rows.states.get(product_id, ProductState()), writes.revision
    seen = {*_seen_otherwise(before, after), *_found_from_now_on(after, writes.embedded)}
    if product_id in rows.products and before == after and not seen:
        return
    for name, image in after.images.items():
        if name in seen or before.images.get(name) != image:
            key, known = rows.images.get((product_id, name), (None, _NEVER_SEEN))
            values = _image_values(after, image, revision if name in seen else known)
            if key is None:
                writes.new_images.append({"product_id": product_id, "name": name, **values})
            else:
                writes.images.append({"key": key, **values})
    visible = bool(seen) or _attributes_seen_otherwise(before, after)
    writes.visible |= visible
    key, known = rows.products.get(product_id, (None, _NEVER_SEEN))
    values = _product_values(after, revision if visible else known)
    if key is None:
        writes.new_products.append({"product_id": product_id, **values})
    else:
        writes.products.append({"key": key, **values})


def _image_values(product: ProductState, image: ImageState, revision: int) -> dict[str, Any]:
    return {
        "content_sha256": image.content_sha256,
        "source": image.source,
        "version": image.version,
        "removed": not product.is_live(image),
        "revision": revision,
    }


def _product_values(product: ProductState, revision: int) -> dict[str, Any]:
    return {
        "category": product.category,
        "attributes": dict(product.attributes),
        "version": product.version,
        "removed_version": product.removed_version,
        "revision": revision,
    }


def _seen_otherwise(before: ProductState, after: ProductState) -> Iterator[str]:
    """Names of the pictures of which a lookup sees other bytes, another category, or that come or go."""
    other_category = before.category != after.category
    for name, image in after.images.items():
        known = before.images.get(name)
        was_live = known is not None and before.is_live(known)
        is_live = after.is_live(image)
        other_bytes = known is not None and known.content_sha256 != image.content_sha256
        if was_live != is_live or (is_live and (other_bytes or other_category)):
            yield name


def _found_from_now_on(product: ProductState, embedded: Collection[bytes]) -> Iterator[str]:
    """Names of the live pictures whose bytes have a vector since this transaction."""
    if embedded:
        for name, image in product.images.items():
            if image.content_sha256 in embedded and product.is_live(image):
                yield name


def _attributes_seen_otherwise(before: ProductState, after: ProductState) -> bool:
    return before.attributes != after.attributes and any(map(after.is_live, after.images.values()))


def _write(session: Session, rows: _Rows, writes: _Writes) -> None:
    connection = session.connection()
    keys = {product_id: key for product_id, (key, _) in rows.products.items()}
    if writes.new_products:
        inserted = connection.execute(_INSERT_PRODUCTS, writes.new_products)
        keys.update({product_id: key for key, product_id in inserted})
    for row in writes.new_images:
        row["product_pk"] = keys[row.pop("product_id")]
    if writes.products:
        connection.execute(_UPDATE_PRODUCTS, writes.products)
    if writes.new_images:
        connection.execute(_INSERT_IMAGES, writes.new_images)
    if writes.images:
        connection.execute(_UPDATE_IMAGES, writes.images)
