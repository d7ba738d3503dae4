"""Rows for the database tests, and a catalogue's whole visible state for comparing."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from db.models import Image, IndexPointer, Product
from db.queries import catalogue, models
from db.queries.catalogue import ImageChange, NewEmbedding, ProductRemoval
from db.queries.models import ModelVersion
from db.session import Database

DIMENSION = 3


def image(
    product_id: str,
    version: int = 1,
    *,
    name: str = "main",
    content: str | None = None,
    category: str | None = "dress",
    attributes: dict[str, Any] | None = None,
) -> ImageChange:
    """A picture whose bytes are `content`."""
    digest = hashlib.sha256((content or f"{product_id}/{name}").encode()).digest()
    return ImageChange(
        product_id, name, digest, "somewhere.jpg", category, attributes or {}, version
    )


def embedding(digest: bytes) -> NewEmbedding:
    """The vector that the picture with this digest always has here."""
    return NewEmbedding(digest, DIMENSION, vector(digest))


def vector(digest: bytes) -> bytes:
    """Three float32 from the digest."""
    return struct.pack("<3f", *digest[:DIMENSION])


def model(database: Database, digest: str = "d" * 64) -> ModelVersion:
    """A registered model."""
    with database.writing() as session:
        return models.register(session, digest, "tiny", DIMENSION, {"layer": "pool"})


def store(
    database: Database,
    model_version: ModelVersion,
    changes: Sequence[ImageChange] = (),
    removals: Iterable[ProductRemoval] = (),
) -> catalogue.Applied:
    """Commit messages with the vectors of their pictures, as a worker does."""
    digests = {each.content_sha256 for each in changes}
    with database.writing() as session:
        catalogue.add_embeddings(session, model_version.pk, [embedding(each) for each in digests])
        return catalogue.apply(session, changes, list(removals))


def pk_of(session: Session, product_id: str, name: str = "main") -> int:
    """Key of a picture, live or not."""
    statement = (
        select(Image.pk)
        .join(Product, Product.pk == Image.product_pk)
        .where(Product.product_id == product_id, Image.name == name)
    )
    return session.execute(statement).scalar_one()


def visible(session: Session) -> dict[tuple[str, str], tuple[Any, ...]]:
    """Everything that lookups can see, without our own keys."""
    live = select(
        Product.product_id,
        Image.name,
        Image.content_sha256,
        Product.category,
        Product.attributes,
    ).join(Image, Image.product_pk == Product.pk)
    rows = session.execute(live.where(Image.removed.is_(False)))
    return {(row[0], row[1]): tuple(row[2:]) for row in rows}


def repoint(session: Session, number: int, expected: int) -> bool:
    """Make another generation current behind everybody's back; False if `expected` was not."""
    moved = (
        update(IndexPointer).where(IndexPointer.generation == expected).values(generation=number)
    )
    return bool(session.connection().execute(moved).rowcount)
