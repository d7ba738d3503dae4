"""Vectors of pictures' bytes, and the bulk reads that indexes are made from.

A vector is little-endian float32, 4 bytes a dimension, of unit length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, ColumnElement, Integer, and_, bindparam, func, not_, select
from sqlalchemy.orm import QueryableAttribute, Session

from db.models import Embedding, Image, Product
from db.queries.read import BLOCK, Read, among, as_json
from db.queries.upsert import insert_new

_DIGESTS_AT_ONCE = 500
_FLOAT32 = 4


@dataclass(frozen=True)
class NewEmbedding:
    """The vector of a picture's bytes."""

    content_sha256: bytes
    dimension: int
    vector: bytes

    def __post_init__(self) -> None:
        """Refuse a vector that is not of its dimension."""
        if len(self.vector) != self.dimension * _FLOAT32:
            raise ValueError(
                f"a vector of {self.dimension} float32 takes {self.dimension * _FLOAT32} bytes, "
                f"not {len(self.vector)}"
            )


class ChangedImage(NamedTuple):
    """A picture that a lookup would see otherwise than before."""

    image_pk: int
    product_pk: int
    category: str | None
    attributes: dict[str, Any]
    revision: int
    vector: bytes | None
    """None when it is gone, or not embedded under the model."""


class ChangedAttributes(NamedTuple):
    """A live picture that did not change, of a product whose attributes did."""

    image_pk: int
    attributes: dict[str, Any]


class VectorBlock(NamedTuple):
    """Live pictures in ascending order of their keys; the lists are of one length n."""

    image_pks: list[int]
    product_pks: list[int]
    categories: list[str | None]
    attributes: list[dict[str, Any]]
    vectors: bytes
    """float32 [n, dimension], row after row."""


EMBEDDED = and_(
    Embedding.content_sha256 == Image.content_sha256,
    Embedding.model_version_pk == bindparam("model_version_pk", type_=BigInteger()),
)


def _beyond(revision: QueryableAttribute[int]) -> tuple[ColumnElement[bool], ...]:
    """From revision `least` on, of which the pictures up to `after` are known already.

    A comparison of both together would read all of that revision first: a whole chunk, at each lookup in a flood.
    """
    least = bindparam("least", type_=BigInteger())
    known = and_(revision == least, Image.pk <= bindparam("after", type_=BigInteger()))
    return revision >= least, not_(known)


_STREAM = Read(
    select(Image.pk, Image.product_pk, Product.category, Product.attributes, Embedding.vector)
    .join(Product, Product.pk == Image.product_pk)
    .join(Embedding, EMBEDDED)
    .where(Image.pk > bindparam("after", type_=BigInteger()), Image.removed.is_(False))
    .order_by(Image.pk)
    .limit(bindparam("block", type_=Integer())),
    bulk=True,
)
_CHANGES = Read(
    select(
        Image.pk,
        Image.product_pk,
        Product.category,
        Product.attributes,
        Image.revision,
        Embedding.vector,
    )
    .join(Product, Product.pk == Image.product_pk)
    .outerjoin(Embedding, and_(EMBEDDED, Image.removed.is_(False)))
    .where(*_beyond(Image.revision))
    .order_by(Image.revision, Image.pk)
    .limit(bindparam("block", type_=Integer())),
    bulk=True,
)
_ATTRIBUTES = Read(
    select(Image.pk, Product.attributes, Product.revision)
    .join(Product, Product.pk == Image.product_pk)
    .where(
        *_beyond(Product.revision),
        # Not the column alone: SQLite would take its index, and read all pictures that did not change.
        Image.revision + 0 <= bindparam("since", type_=BigInteger()),
        Image.removed.is_(False),
    )
    .order_by(Product.revision, Image.pk)
    .limit(bindparam("block", type_=Integer())),
    bulk=True,
)
_COUNT_ATTRIBUTES = Read(
    select(func.count())
    .select_from(Product)
    .where(Product.revision > bindparam("revision", type_=BigInteger()))
)
_COUNT_EMBEDDED = Read(
    select(func.count())
    .select_from(Image)
    .join(Embedding, EMBEDDED)
    .where(Image.removed.is_(False))
)
_COUNT_CHANGES = Read(
    select(func.count())
    .select_from(Image)
    .where(Image.revision > bindparam("revision", type_=BigInteger()))
)
_OF_IMAGES = Read(
    select(Image.pk, Embedding.vector)
    .join(Embedding, EMBEDDED)
    .where(among(Image.pk, "image_pks"), Image.removed.is_(False)),
    bulk=True,
)


def known_embeddings(
    session: Session, digests: Iterable[bytes], model_version_pk: int
) -> set[bytes]:
    """Which of these pictures' bytes have a vector under the model."""
    wanted = list(digests)
    known: set[bytes] = set()
    for start in range(0, len(wanted), _DIGESTS_AT_ONCE):
        statement = select(Embedding.content_sha256).where(
            Embedding.model_version_pk == model_version_pk,
            Embedding.content_sha256.in_(wanted[start : start + _DIGESTS_AT_ONCE]),
        )
        known.update(session.connection().execute(statement).scalars())
    return known


def add_embeddings(
    session: Session, model_version_pk: int, embeddings: Sequence[NewEmbedding]
) -> None:
    """Keep the vectors; what is there stays. Call it before `apply`, which locks out other writers."""
    rows = [
        {
            "content_sha256": each.content_sha256,
            "model_version_pk": model_version_pk,
            "dimension": each.dimension,
            "vector": each.vector,
        }
        for each in sorted(embeddings, key=lambda each: each.content_sha256)
    ]
    insert_new(session, Embedding, rows)


def changes_since(
    session: Session, revision: int, model_version_pk: int, block: int = BLOCK
) -> Iterator[ChangedImage]:
    """Pictures whose newest visible change is after `revision`, in the order of the changes."""
    least, after = revision + 1, 0
    while rows := _CHANGES.rows(
        session, least=least, after=after, model_version_pk=model_version_pk, block=block
    ):
        for pk, product_pk, category, attributes, changed, vector in rows:
            yield ChangedImage(pk, product_pk, category, as_json(attributes), changed, vector)
        if len(rows) < block:
            return
        after, least = rows[-1][0], rows[-1][4]


def attributes_since(
    session: Session, revision: int, block: int = BLOCK
) -> Iterator[ChangedAttributes]:
    """Pictures that `changes_since` does not give, of products whose attributes changed after `revision`."""
    least, after = revision + 1, 0
    while rows := _ATTRIBUTES.rows(session, least=least, after=after, since=revision, block=block):
        for pk, attributes, _ in rows:
            yield ChangedAttributes(pk, as_json(attributes))
        if len(rows) < block:
            return
        after, _, least = rows[-1]


def count_products_since(session: Session, revision: int) -> int:
    """How many products changed after `revision`, in their pictures or their attributes."""
    row = _COUNT_ATTRIBUTES.row(session, revision=revision)
    return int(row[0]) if row else 0


def count_embedded(session: Session, model_version_pk: int) -> int:
    """How many pictures `stream_vectors` gives."""
    row = _COUNT_EMBEDDED.row(session, model_version_pk=model_version_pk)
    return int(row[0]) if row else 0


def count_changes_since(session: Session, revision: int) -> int:
    """How many pictures `changes_since` would give."""
    row = _COUNT_CHANGES.row(session, revision=revision)
    return int(row[0]) if row else 0


def stream_vectors(
    session: Session, model_version_pk: int, block: int = BLOCK
) -> Iterator[VectorBlock]:
    """Every live picture that is embedded under the model, `block` at a time, in the order of keys."""
    after = 0
    while rows := _STREAM.rows(
        session, after=after, model_version_pk=model_version_pk, block=block
    ):
        image_pks, product_pks, categories, attributes, vectors = zip(*rows, strict=True)
        after = image_pks[-1]
        yield VectorBlock(
            list(image_pks),
            list(product_pks),
            list(categories),
            [as_json(each) for each in attributes],
            b"".join(vectors),
        )


def vectors_of(
    session: Session, image_pks: Iterable[int], model_version_pk: int
) -> dict[int, bytes]:
    """Vectors of the pictures among these that are live and embedded under the model."""
    rows = _OF_IMAGES.rows(session, image_pks=list(image_pks), model_version_pk=model_version_pk)
    return {image_pk: vector for image_pk, vector in rows}  # noqa: C416 - a row is a tuple of Any
