"""What an audit reads of the catalogue, block by block in the order of keys, and what its repair writes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Integer, LargeBinary, bindparam, delete, func, select
from sqlalchemy.orm import Session

from db.models import Embedding, Image, Product, Thumbnail
from db.queries import revisions
from db.queries.catalogue.vectors import EMBEDDED
from db.queries.read import Read, among, as_json

BLOCK = 4096
"""Pictures that are in memory at once."""
_KEYS_AT_ONCE = 500
"""Digests in one statement."""


class AuditedImage(NamedTuple):
    """A picture, live or removed, and the vector of its bytes under the model."""

    image_pk: int
    product_pk: int
    category: str | None
    attributes: dict[str, Any]
    removed: bool
    revision: int
    product_revision: int
    content_sha256: bytes
    dimension: int | None
    """What the embedding says of itself; None when there is none."""
    vector: bytes | None


class Recorded(NamedTuple):
    """A live picture as its message described it."""

    image_pk: int
    product_id: str
    name: str
    source: str
    content_sha256: bytes
    version: int
    category: str | None
    attributes: dict[str, Any]


class Ahead(NamedTuple):
    """Pictures and products with a revision above the counter."""

    images: int
    products: int
    highest: int
    """The highest revision in use, or the counter."""
    image_pks: tuple[int, ...]
    product_ids: tuple[str, ...]
    """A few of each."""


_AUDITED = (
    select(
        Image.pk,
        Image.product_pk,
        Product.category,
        Product.attributes,
        Image.removed,
        Image.revision,
        Product.revision,
        Image.content_sha256,
        Embedding.dimension,
        Embedding.vector,
    )
    .join(Product, Product.pk == Image.product_pk)
    .outerjoin(Embedding, EMBEDDED)
)
_IMAGES = Read(
    _AUDITED.where(Image.pk > bindparam("after", type_=BigInteger()))
    .order_by(Image.pk)
    .limit(bindparam("block", type_=Integer())),
    bulk=True,
)
_IMAGES_OF = Read(_AUDITED.where(among(Image.pk, "image_pks")), bulk=True)
_COUNT = Read(select(func.count()).select_from(Image))
_NAMES = Read(
    select(Image.pk, Product.product_id, Image.name)
    .join(Product, Product.pk == Image.product_pk)
    .where(among(Image.pk, "image_pks")),
    bulk=True,
)
_RECORDED = Read(
    select(
        Image.pk,
        Product.product_id,
        Image.name,
        Image.source,
        Image.content_sha256,
        Image.version,
        Product.category,
        Product.attributes,
    )
    .join(Product, Product.pk == Image.product_pk)
    .where(among(Image.pk, "image_pks"), Image.removed.is_(False)),
    bulk=True,
)
_DIGESTS = Read(
    select(Image.pk, Image.content_sha256)
    .where(Image.pk > bindparam("after", type_=BigInteger()))
    .order_by(Image.pk)
    .limit(bindparam("block", type_=Integer())),
    bulk=True,
)


def _keys(column: Any) -> Read:
    return Read(
        select(column)
        .distinct()
        .where(column > bindparam("after", type_=LargeBinary()))
        .order_by(column)
        .limit(bindparam("block", type_=Integer())),
        bulk=True,
    )


_EMBEDDINGS, _THUMBNAILS = _keys(Embedding.content_sha256), _keys(Thumbnail.content_sha256)


# -- pictures -------------------------------------------------------------------------------------


def count_images(session: Session) -> int:
    """Pictures that `stream_images` will give: live and removed ones."""
    return int(_COUNT.rows(session)[0][0])


def stream_images(
    session: Session, model_version_pk: int, block: int = BLOCK
) -> Iterator[list[AuditedImage]]:
    """Every picture with its vector under the model, `block` at a time, in the order of keys."""
    after = 0
    while rows := _IMAGES.rows(
        session, after=after, model_version_pk=model_version_pk, block=block
    ):
        yield [_audited(row) for row in rows]
        after = rows[-1][0]


def images_of(
    session: Session, image_pks: Iterable[int], model_version_pk: int
) -> list[AuditedImage]:
    """The pictures among these that there are, live or removed."""
    rows = _IMAGES_OF.rows(session, image_pks=list(image_pks), model_version_pk=model_version_pk)
    return [_audited(row) for row in rows]


def _audited(row: tuple[Any, ...]) -> AuditedImage:
    pk, product_pk, category, attributes, *rest = row
    return AuditedImage(pk, product_pk, category, as_json(attributes), *rest)


def names_of(session: Session, image_pks: Iterable[int]) -> dict[int, tuple[str, str]]:
    """Product id and name of pictures, live or removed, by their keys."""
    rows = _NAMES.rows(session, image_pks=list(image_pks))
    return {pk: (product_id, name) for pk, product_id, name in rows}


def recorded(session: Session, image_pks: Iterable[int]) -> list[Recorded]:
    """Those of the pictures that are live, as their messages described them."""
    rows = _RECORDED.rows(session, image_pks=list(image_pks))
    return [Recorded._make((*row[:-1], as_json(row[-1]))) for row in rows]


# -- revisions ------------------------------------------------------------------------------------


def ahead(session: Session, examples: int) -> Ahead:
    """What has a revision above the counter, and a few examples."""
    counter = revisions.current(session)
    images, highest_image = _above(session, Image.revision, counter)
    products, highest_product = _above(session, Product.revision, counter)
    image_pks = select(Image.pk).where(Image.revision > counter).order_by(Image.pk)
    product_ids = select(Product.product_id).where(Product.revision > counter).order_by(Product.pk)
    return Ahead(
        images=images,
        products=products,
        highest=max(counter, highest_image, highest_product),
        image_pks=tuple(session.execute(image_pks.limit(examples)).scalars()),
        product_ids=tuple(session.execute(product_ids.limit(examples)).scalars()),
    )


def _above(session: Session, column: Any, counter: int) -> tuple[int, int]:
    statement = select(func.count(), func.coalesce(func.max(column), 0)).where(column > counter)
    count, highest = session.execute(statement).one()
    return count, highest


# -- embeddings and thumbnails --------------------------------------------------------------------


def stream_digests(session: Session, block: int = BLOCK) -> Iterator[list[bytes]]:
    """Digests of every picture's bytes, live or removed, in the order of pictures."""
    after = 0
    while rows := _DIGESTS.rows(session, after=after, block=block):
        yield [digest for _, digest in rows]
        after = rows[-1][0]


def stream_embeddings(session: Session, block: int = BLOCK) -> Iterator[list[bytes]]:
    """Digests that have an embedding under any model, ascending."""
    return _streamed(session, _EMBEDDINGS, block)


def stream_thumbnails(session: Session, block: int = BLOCK) -> Iterator[list[bytes]]:
    """Digests that have a thumbnail, ascending."""
    return _streamed(session, _THUMBNAILS, block)


def _streamed(session: Session, read: Read, block: int) -> Iterator[list[bytes]]:
    after = b""
    while rows := read.rows(session, after=after, block=block):
        yield [digest for (digest,) in rows]
        after = rows[-1][0]


def delete_embeddings(session: Session, digests: Iterable[bytes], model_version_pk: int) -> int:
    """Delete the vectors of these bytes under the model; how many there were.

    Waits for whoever changes the catalogue, as others then wait for this transaction: nobody commits a picture
    that relies on a vector which is being deleted.
    """
    revisions.lock(session)
    statement = delete(Embedding).where(Embedding.model_version_pk == model_version_pk)
    return sum(
        _deleted(session, statement.where(Embedding.content_sha256.in_(each)))
        for each in _pages(sorted(set(digests)))
    )


def delete_unused(session: Session, digests: Iterable[bytes], since: int) -> tuple[int, int]:
    """Delete embeddings and thumbnails of bytes that no picture had at revision `since`, nor has now.

    How many embeddings and thumbnails that were. Waits for other writers, as `delete_embeddings` does.
    """
    revisions.lock(session)
    embeddings = thumbnails = 0
    for page in _pages(sorted(set(digests))):
        # What came to life since has a later revision; what did not come to life is embedded when it does.
        used = session.execute(
            select(Image.content_sha256).where(
                Image.revision > since, Image.content_sha256.in_(page)
            )
        ).scalars()
        gone = sorted(set(page) - set(used))
        embeddings += _deleted(session, delete(Embedding).where(Embedding.content_sha256.in_(gone)))
        thumbnails += _deleted(session, delete(Thumbnail).where(Thumbnail.content_sha256.in_(gone)))
    return embeddings, thumbnails


def _deleted(session: Session, statement: Any) -> int:
    return int(session.connection().execute(statement).rowcount)


def _pages(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    return (keys[start : start + _KEYS_AT_ONCE] for start in range(0, len(keys), _KEYS_AT_ONCE))
